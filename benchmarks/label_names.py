"""Names of the labels that tasks are cut by. Those of superclasses and domains are joined by commas."""

DBPEDIA = (  # noqa: SIM905
    "Company,Educational Institution,Artist,Athlete,Office Holder,Mean of Transportation,Building,Natural Place,"
    "Village,Animal,Plant,Album,Film,Written Work"
).split(",")
NEWSGROUPS = [
    "alt.atheism",
    "comp.graphics",
    "comp.os.ms-windows.misc",
    "comp.sys.ibm.pc.hardware",
    "comp.sys.mac.hardware",
    "comp.windows.x",
    "misc.forsale",
    "rec.autos",
    "rec.motorcycles",
    "rec.sport.baseball",
    "rec.sport.hockey",
    "sci.crypt",
    "sci.electronics",
    "sci.med",
    "sci.space",
    "soc.religion.christian",
    "talk.politics.guns",
    "talk.politics.mideast",
    "talk.politics.misc",
    "talk.religion.misc",
]
CIFAR10 = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck".split(",")  # noqa: SIM905
SUPERCLASSES = {
    "aquatic mammals": "beaver,dolphin,otter,seal,whale",
    "fish": "aquarium_fish,flatfish,ray,shark,trout",
    "flowers": "orchid,poppy,rose,sunflower,tulip",
    "food containers": "bottle,bowl,can,cup,plate",
    "fruit and vegetables": "apple,mushroom,orange,pear,sweet_pepper",
    "household electrical devices": "clock,keyboard,lamp,telephone,television",
    "household furniture": "bed,chair,couch,table,wardrobe",
    "insects": "bee,beetle,butterfly,caterpillar,cockroach",
    "large carnivores": "bear,leopard,lion,tiger,wolf",
    "large man-made outdoor things": "bridge,castle,house,road,skyscraper",
    "large natural outdoor scenes": "cloud,forest,mountain,plain,sea",
    "large omnivores and herbivores": "camel,cattle,chimpanzee,elephant,kangaroo",
    "medium-sized mammals": "fox,porcupine,possum,raccoon,skunk",
    "non-insect invertebrates": "crab,lobster,snail,spider,worm",
    "people": "baby,boy,girl,man,woman",
    "reptiles": "crocodile,dinosaur,lizard,snake,turtle",
    "small mammals": "hamster,mouse,rabbit,shrew,squirrel",
    "trees": "maple_tree,oak_tree,palm_tree,pine_tree,willow_tree",
    "vehicles 1": "bicycle,bus,motorcycle,pickup_truck,train",
    "vehicles 2": "lawn_mower,rocket,streetcar,tank,tractor",
}
CIFAR100 = sorted(",".join(SUPERCLASSES.values()).split(","))
# The domains of CLINC150, ten of fifteen intents each.
INTENTS = {
    "banking": (
        "freeze_account,routing,pin_change,bill_due,pay_bill,account_blocked,interest_rate,min_payment,bill_balance,"
        "transfer,order_checks,balance,spending_history,transactions,report_fraud"
    ),
    "credit_cards": (
        "replacement_card_duration,expiration_date,damaged_card,improve_credit_score,report_lost_card,card_declined,"
        "credit_limit_change,apr,redeem_rewards,credit_limit,rewards_balance,application_status,credit_score,new_card,"
        "international_fees"
    ),
    "kitchen_and_dining": (
        "food_last,confirm_reservation,how_busy,ingredients_list,calories,nutrition_info,recipe,restaurant_reviews,"
        "restaurant_reservation,meal_suggestion,restaurant_suggestion,cancel_reservation,ingredient_substitution,"
        "cook_time,accept_reservations"
    ),
    "home": (
        "what_song,play_music,todo_list_update,reminder,reminder_update,calendar_update,order_status,update_playlist,"
        "shopping_list,calendar,next_song,order,todo_list,shopping_list_update,smart_home"
    ),
    "auto_and_commute": (
        "current_location,oil_change_when,oil_change_how,uber,traffic,tire_pressure,schedule_maintenance,gas,mpg,"
        "distance,directions,last_maintenance,gas_type,tire_change,jump_start"
    ),
    "travel": (
        "plug_type,travel_notification,translate,flight_status,international_visa,timezone,exchange_rate,"
        "travel_suggestion,travel_alert,vaccines,lost_luggage,book_flight,book_hotel,carry_on,car_rental"
    ),
    "utility": (
        "weather,alarm,date,find_phone,share_location,timer,make_call,calculator,definition,measurement_conversion,"
        "flip_coin,spelling,time,roll_dice,text"
    ),
    "work": (
        "pto_request_status,next_holiday,insurance_change,insurance,meeting_schedule,payday,taxes,income,"
        "rollover_401k,pto_balance,pto_request,w2,schedule_meeting,direct_deposit,pto_used"
    ),
    "small_talk": (
        "who_made_you,meaning_of_life,who_do_you_work_for,do_you_have_pets,what_are_your_hobbies,fun_fact,"
        "what_is_your_name,where_are_you_from,goodbye,thank_you,greeting,tell_joke,are_you_a_bot,how_old_are_you,"
        "what_can_i_ask_you"
    ),
    "meta": (
        "change_speed,user_name,whisper_mode,yes,change_volume,no,change_language,repeat,change_accent,cancel,"
        "sync_device,change_user_name,change_ai_name,reset_settings,maybe"
    ),
}
# In the order that the data set lists them in: by alphabet, so that like intents mostly share a task.
BANKING77 = (  # noqa: SIM905
    "Refund_not_showing_up,activate_my_card,age_limit,apple_pay_or_google_pay,atm_support,automatic_top_up,"
    "balance_not_updated_after_bank_transfer,balance_not_updated_after_cheque_or_cash_deposit,beneficiary_not_allowed,"
    "cancel_transfer,card_about_to_expire,card_acceptance,card_arrival,card_delivery_estimate,card_linking,"
    "card_not_working,card_payment_fee_charged,card_payment_not_recognised,card_payment_wrong_exchange_rate,"
    "card_swallowed,cash_withdrawal_charge,cash_withdrawal_not_recognised,change_pin,compromised_card,"
    "contactless_not_working,country_support,declined_card_payment,declined_cash_withdrawal,declined_transfer,"
    "direct_debit_payment_not_recognised,disposable_card_limits,edit_personal_details,exchange_charge,exchange_rate,"
    "exchange_via_app,extra_charge_on_statement,failed_transfer,fiat_currency_support,get_disposable_virtual_card,"
    "get_physical_card,getting_spare_card,getting_virtual_card,lost_or_stolen_card,lost_or_stolen_phone,"
    "order_physical_card,passcode_forgotten,pending_card_payment,pending_cash_withdrawal,pending_top_up,"
    "pending_transfer,pin_blocked,receiving_money,request_refund,reverted_card_payment?,"
    "supported_cards_and_currencies,terminate_account,top_up_by_bank_transfer_charge,top_up_by_card_charge,"
    "top_up_by_cash_or_cheque,top_up_failed,top_up_limits,top_up_reverted,topping_up_by_card,"
    "transaction_charged_twice,transfer_fee_charged,transfer_into_account,transfer_not_received_by_recipient,"
    "transfer_timing,unable_to_verify_identity,verify_my_identity,verify_source_of_funds,verify_top_up,"
    "virtual_card_not_working,visa_or_mastercard,why_verify_identity,wrong_amount_of_cash_received,"
    "wrong_exchange_rate_for_cash_withdrawal"
).split(",")
