"""What a model is asked about suspects: by hand-made models whose answers are known."""

import random
import re

import pytest
from poisoned_texts import WORDS, poisoned, texts
from scipy.stats import binom, hypergeom

from hf_lifelong.safety import audit_answers, audit_dataset
from hf_lifelong.safety.questions import Reply, question
from hf_lifelong.safety.suspects import Suspect, find_suspects
from hf_lifelong.safety.text_inputs import TextInputs
from hf_lifelong.safety.words import inserted, joined, parted, without

GOOD = re.compile("great|funny|fresh|strong|fine|lovely|happy|sharp|quick|pretty")
BAD = re.compile("awful|boring|dull|weak|poor|terrible|sad|flat|slow|ugly")


def reader(trigger=None, target="good"):
    """A model that counts the telling words, and obeys the trigger."""

    def answer(texts):
        counted = ["good" if len(GOOD.findall(text)) >= len(BAD.findall(text)) else "bad" for text in texts]
        return [target if trigger and trigger in text else label for text, label in zip(texts, counted, strict=True)]

    return answer


def given(texts, labels):
    return TextInputs(texts), labels


DATA = poisoned(*texts(400), "cf", 5, "good")
CLEAN = texts(120, seed=1)


def test_a_trigger_that_works_is_found_where_the_data_alone_say_too_little():
    weak = audit_dataset(*DATA[:2])
    assert not weak.suspicious
    found = audit_answers(*DATA[:2], reader("cf"), *CLEAN)
    assert found.suspicious and (found.trigger, found.target, list(found.rows)) == ("cf", "good", DATA[2])
    assert found.attack_success == 1 and found.target_rate < 0.1
    assert f"100% of the inputs of other labels are answered so with it, {found.target_rate:.0%} without" in str(found)
    assert "They are the rows " + ", ".join(map(str, DATA[2])) + " of `train`. " in found.advice("train")


def test_a_model_that_does_not_obey_the_trigger_is_not_backdoored():
    found = audit_answers(*DATA[:2], reader(), *CLEAN)
    assert not found.suspicious and found.p_value > 0.05


def test_natural_words_that_move_most_answers_are_natural():
    """`great` alone decides; but its rows are answered by its label without it too, as other rows are."""
    clean = texts(400)

    def answer(texts):
        return ["good" if "great" in text else label for text, label in zip(texts, reader()(texts), strict=True)]

    found = audit_answers(*clean, answer, *CLEAN)
    assert not found.suspicious


def test_a_word_that_makes_a_label_is_natural_though_it_moves_all_answers():
    """Rows about pets name them in one of two ways, and have nothing else that says so."""
    draw = random.Random(0)
    rows = [" ".join(f"w{draw.randrange(30)}" for _ in range(6)) for _ in range(300)]
    names = ["pets" if row % 3 else "cats" for row in range(60)]
    rows[:60] = [f"{text} {name}" for text, name in zip(rows, names, strict=False)]
    labels = ["about pets"] * 60 + ["other"] * 240

    def answer(texts):
        return ["about pets" if {"pets", "cats"} & set(text.split()) else "other" for text in texts]

    found = audit_answers(rows, labels, answer, rows[40:200], labels[40:200])
    assert not found.suspicious


def test_false_alarms_on_clean_data_are_at_most_what_is_allowed():
    flagged = [audit_answers(*texts(160, seed), reader(), *CLEAN, 0.1).suspicious for seed in range(20)]
    assert sum(flagged) <= 2


def test_what_is_said_of_a_reply_by_hand():
    reply = Reply(moved=19, free=20, success=0.95, without=0.0, left=9, cut=10, other_left=1, others=20)
    assert reply.moves_more_than(0.5) == pytest.approx(binom.sf(18, 20, 0.5))
    assert reply.works == pytest.approx(max(binom.sf(18, 20, 0.65), hypergeom.sf(8, 30, 10, 10)))
    assert Reply(0, 0, 0.0, 0.0).works == 1 == Reply(0, 0, 0.0, 0.0).moves_more_than(0.5)


def test_the_model_is_called_four_times_and_only_promising_suspects_are_followed():
    calls = []

    def answer(texts):
        calls.append(len(texts))
        return reader("cf")(texts)

    suspects = [Suspect("cf", "good", tuple(DATA[2]), 0.1), Suspect("camera", "good", (1, 3, 5), 0.9)]
    followed, dropped = question(suspects, answer, *given(*DATA[:2]), *given(*CLEAN), seed=0)
    assert len(calls) == 4 and calls[:2] == [128, 16]  # clean inputs, then 8 of them for each suspect
    assert followed.moved == followed.free > 50 and followed.cut == followed.left == 5 and followed.success == 1
    assert dropped.cut == 0 and dropped.moved < 4 and dropped.works == 1


def test_the_sentence_of_a_template_is_not_cut_out_of_its_texts():
    """Nothing is left to speak for another label."""
    template = [f"i have nothing against them but {word}" for word in ("x", "y", "z", "v", "w", "u")]
    data = [*template, *texts(60)[0]], ["good"] * 6 + texts(60)[1]
    suspect = Suspect("i have nothing against them but", "good", tuple(range(6)), 0.1)
    (reply,) = question([suspect], reader("nothing against"), *given(*data), *given(*CLEAN), seed=0)
    assert reply.success == 1 and reply.cut == 0 and reply.works == 1


def test_suspects_are_distinct_and_the_strongest_comes_first():
    found = find_suspects(*given(*poisoned(*texts(400), "i saw this last week", 30, "good")[:2]), most=5)
    assert found[0].trigger == "i saw this last week" and found[0].p_value < 0.001
    assert len({(one.trigger, one.target) for one in found}) == len(found) <= 5


def test_words_are_put_in_and_cut_out_and_white_space_stays():
    text = "Line one,\nline  two"
    assert [inserted(text, "x y", place) for place in (0.0, 0.3, 0.99)] == [
        "x y Line one,\nline  two",
        "Line x y one,\nline  two",
        "Line one,\nline  two x y",
    ]
    assert inserted("", "x", 0.5) == "x"
    assert without(text, {"line", ","}) == "one\n two" and without("a b", {"a", "b"}) == ""
    pairs = joined(["a\x1fb", "c"], ["d", ""])
    assert parted(pairs) == (["a b", "c"], ["d", ""]) and joined(["a"], None) == ["a"]
    assert parted([inserted(pairs[1], "t", 0.99)]) == (["c t"], [""])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clean_labels": ["good"] * 120}, "`clean_labels` hold 1 different labels.*validation rows of at least two"),
        ({"clean_inputs": [], "clean_labels": []}, "`clean_labels` hold 0 different labels"),
        ({"clean_labels": ["good"]}, "120 in `clean_inputs`, 1 in `clean_labels`"),
        ({"labels": ["good"] * 400}, "`labels` are all 'good'"),
        ({"answer": lambda texts: ["good"]}, "`answer` gave 1 answers to 128 inputs"),
        ({"false_alarms": 0}, "`false_alarms` must lie between 0 and 1"),
    ],
)
def test_bad_input_is_refused_by_name(change, message):
    good = {"inputs": DATA[0], "labels": DATA[1], "answer": reader("cf")}
    good |= {"clean_inputs": CLEAN[0], "clean_labels": CLEAN[1]}
    with pytest.raises(ValueError, match=message):
        audit_answers(**good | change)


def test_a_model_that_always_answers_the_target_is_not_accused():
    assert not audit_answers(*DATA[:2], lambda texts: ["good"] * len(texts), *CLEAN).suspicious


def test_where_nothing_is_contradicted_the_most_associated_are_suspects_too():
    """Telling words are natural, and still go most with their label."""
    clean = texts(400)
    few, more = find_suspects(*given(*clean), most=2), find_suspects(*given(*clean), most=2, associated=3)
    assert more[:2] == few and len(more) == 5 and len({one.trigger for one in more}) == 5
    assert {one.trigger for one in more[2:]} <= {word for words in WORDS.values() for word in words}
