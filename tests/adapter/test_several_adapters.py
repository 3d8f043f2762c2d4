"""What PEFT's own tests ask of every method, of adapters that know tasks: several in a model, other names, casts."""

import copy
import warnings

import pytest
import torch
from adapter_helpers import TASKS, answers_equal, same_tensors, tensors_of
from learned import learn_task
from peft import (
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.utils.other import cast_mixed_precision_params
from transformers import AutoModel
from versions import needs_adapter_methods_of_transformers

from hf_lifelong import DriftAdapterConfig, knowledge_of, predict
from hf_lifelong.adapter import lifelong_of
from hf_lifelong.adapter.bank import close_task, open_task
from hf_lifelong.adapter.checks import check_usable

CASTS = {
    "half": lambda model: model.half(),
    "bfloat16": lambda model: model.bfloat16(),
    "to": lambda model: model.to(torch.bfloat16),
    "double": lambda model: model.double(),
}


@pytest.fixture(scope="module")
def learned(make_model):
    """Two models with two tasks each, which no test may change: take a copy."""
    return make_model(tasks=("films", "news")), make_model(tasks=("names", "answers"))


@pytest.fixture
def model(learned):
    return copy.deepcopy(learned[0])


@pytest.fixture(scope="module")
def folders(learned, tmp_path_factory):
    """Where the two models are saved."""
    found = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    for model, folder in zip(learned, found, strict=True):
        model.save_pretrained(folder)
    return found


@pytest.fixture
def base(bert_folder):
    """`base(dtype)`: the base of all these models."""
    return lambda dtype=torch.float32: AutoModel.from_pretrained(bert_folder, dtype=dtype)


@pytest.fixture
def fresh(make_model):
    return make_model(tasks=())


@pytest.fixture
def both(model, folders):
    """A model with both adapters, `default` and `other`."""
    model.load_adapter(folders[1], "other")
    return model


@pytest.mark.parametrize("cast", CASTS)
def test_a_cast_changes_nothing_that_was_learned(learned, model, base, batch, tmp_path, cast):
    same_tensors(tensors_of(CASTS[cast](model)), tensors_of(learned[0]))
    answer = predict(model, batch, novelty=True)
    assert torch.equal(answer.group, predict(learned[0], batch).group)
    torch.testing.assert_close(answer.scores, predict(learned[0], batch).scores, rtol=0, atol=0.02)
    assert torch.isfinite(answer.novelty).all()
    model.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*trained on")
        loaded = PeftModel.from_pretrained(CASTS[cast](base()), tmp_path)
    same_tensors(tensors_of(loaded), tensors_of(learned[0]))
    answers_equal(predict(loaded, batch), predict(model, batch))


@pytest.mark.parametrize("cast", [CASTS["to"], lambda model: cast_mixed_precision_params(model, torch.bfloat16)])
def test_a_model_that_is_cast_before_its_first_task_learns_and_loads(fresh, base, batch, tmp_path, cast):
    cast(fresh)
    learn_task(fresh, "films", *TASKS["films"], seed=0)
    fresh.eval().save_pretrained(tmp_path)
    assert {tensor.dtype for tensor in tensors_of(fresh).values()} == {torch.float32}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # of a base with another dtype than in training
        loaded = PeftModel.from_pretrained(base(torch.bfloat16), tmp_path)
    assert knowledge_of(loaded).base["dtype"] == "bfloat16"
    answers_equal(predict(loaded, batch), predict(fresh, batch))


def test_an_adapter_without_tasks_that_was_cast_is_saved_in_float32(fresh, base, tmp_path):
    cast_mixed_precision_params(fresh, torch.float16)
    fresh.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base(torch.float16), tmp_path)
    assert {tensor.dtype for tensor in tensors_of(loaded).values()} == {torch.float32}


def test_members_that_were_rounded_are_refused_everywhere(model, batch, tmp_path):
    predict(model, batch)
    cast_mixed_precision_params(model, torch.bfloat16)
    for use in (
        lambda: predict(model, batch),
        lambda: open_task(model, *TASKS["films"], 2),
        lambda: model.save_pretrained(tmp_path),
    ):
        with pytest.raises(ValueError, match=r"`default` has learned was cast to torch.bfloat16.*Load it again"):
            use()
    assert not list(tmp_path.glob("adapter_*"))


def test_a_configuration_may_be_used_again(base, batch, tmp_path):
    config = DriftAdapterConfig(r=2, members=2, signature_rank=4, target_modules="all-linear")
    before = copy.deepcopy(config)
    models = [get_peft_model(base(), config) for _ in range(2)]
    models[0].add_adapter("other", config)
    learn_task(models[0], "films", *TASKS["films"], seed=0)
    models[0].set_adapter("other")
    learn_task(models[0], "news", *TASKS["news"], seed=1)
    learn_task(models[1], "names", *TASKS["names"], seed=2)
    before.base_model_name_or_path = config.base_model_name_or_path  # what PEFT itself notes
    assert config == before
    names = [knowledge.names for model in models for knowledge in lifelong_of(model).knowledge.values()]
    assert names == [["films"], ["news"], ["names"]]
    models[0].save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base(), tmp_path / "other")
    answers_equal(predict(loaded, batch), predict(models[0].eval(), batch))


def test_a_configuration_that_was_read_makes_several_models(learned, base, batch, folders):
    config = PeftConfig.from_pretrained(folders[0])
    for _ in range(2):
        model = PeftModel.from_pretrained(base(), folders[0], config=config, is_trainable=True)
        answers_equal(predict(model, batch), predict(learned[0], batch))
        learn_task(model, "names", *TASKS["names"], seed=2)
    assert config.knowledge == learned[0].peft_config["default"].knowledge


@pytest.mark.parametrize("options", [{}, {"strict": False}, {"assign": True}])
def test_a_state_dict_of_other_tasks_is_refused_before_anything_is_loaded(model, fresh, learned, options):
    for taught, tasks in ((fresh, "no task"), (copy.deepcopy(learned[1]), "`names`, `answers`")):
        before = tensors_of(taught)
        with pytest.raises(ValueError, match=f"(?s)knows {tasks}.*other tasks.*from_pretrained.*load_adapter"):
            taught.load_state_dict(model.state_dict(), **options)
        same_tensors(tensors_of(taught), before)


def test_a_state_dict_of_the_same_tasks_is_loaded(model, learned, base, batch):
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    answers_equal(predict(model, batch), predict(learned[0], batch))
    built = get_peft_model(base(), learned[0].peft_config["default"]).eval()
    built.load_state_dict(learned[0].state_dict())
    answers_equal(predict(built, batch), predict(learned[0], batch))


def test_tensors_for_an_adapter_that_is_there_come_without_a_manifest(model, fresh, folders):
    for load in (
        lambda: fresh.load_adapter(folders[0], "default"),
        lambda: set_peft_model_state_dict(fresh, get_peft_model_state_dict(model)),
    ):
        with pytest.raises(ValueError, match=r"`default` of this model knows no task.*has 4 members, not 0"):
            load()


def test_a_configuration_that_knows_tasks_makes_no_adapter_by_itself(model, base, batch, tmp_path):
    config = model.peft_config["default"]
    model.add_adapter("other", config)
    model.set_adapter("other")
    for taught in (model, get_peft_model(base(), config)):
        with pytest.raises(ValueError, match="has no values, because no file was loaded into it"):
            predict(taught, batch)
        with pytest.raises(ValueError, match="has no values"):
            taught.save_pretrained(tmp_path)
    lean = get_peft_model(base(), DriftAdapterConfig(r=2), low_cpu_mem_usage=True)
    with pytest.raises(ValueError, match=r"leave out `low_cpu_mem_usage`"):
        check_usable(lean, "default")


def test_a_pickle_is_refused_when_it_is_saved(model, base, batch, tmp_path):
    with pytest.raises(ValueError, match=r"safe_serialization=False.*adapter_model.bin.*pickle can run code"):
        model.save_pretrained(tmp_path, safe_serialization=False)
    model.save_pretrained(tmp_path)
    answers_equal(predict(PeftModel.from_pretrained(base(), tmp_path), batch), predict(model, batch))


@needs_adapter_methods_of_transformers
def test_rows_of_several_adapters_are_refused(both, batch, make_language_model, folders, base):
    with pytest.raises(ValueError, match=r"adapter_names.*set_adapter"):
        both(**batch, adapter_names=["default", "other", "default", "other"])
    language = make_language_model(tasks=())
    with pytest.raises(ValueError, match="adapter_names"):
        language.generate(input_ids=batch["input_ids"] % 300, adapter_names=["default"] * 4)
    native = base()
    for name, folder in zip(("default", "other"), folders, strict=True):
        native.load_adapter(str(folder), adapter_name=name)
    native.set_adapter("default")
    for model in (both.base_model, native):
        with pytest.raises(ValueError, match=r"\['default', 'other'\]; of the lifelong adapters.*one is active"):
            model.set_adapter(["default", "other"])
        assert lifelong_of(model).active_adapters == ["default"]


@pytest.mark.parametrize("name", ["resting", "keys", "pop", "training", "a.b", "lifelong", "encoder", "model", ""])
def test_a_name_that_is_taken_is_refused(fresh, name):
    with pytest.raises(ValueError, match=r"`adapter_name` is .*Give another one"):
        fresh.add_adapter(name, DriftAdapterConfig(r=2))
    assert list(fresh.peft_config) == ["default"]


def test_no_name_leads_a_container_of_tensors_astray(fresh):
    for container in (torch.nn.ModuleDict(), lifelong_of(fresh).drift_head_bias):
        for name in set(dir(container)) - {"default"}:
            with pytest.raises(ValueError, match="Give another one"):
                fresh.add_adapter(name, DriftAdapterConfig(r=2))


def trained_now(model):
    return model.get_nb_trainable_parameters()[0]


def test_what_can_be_trained_is_what_an_open_task_trains(both):
    open_task(both, *TASKS["films"], 2)
    working = sum(
        p.numel() for name, p in both.named_parameters() if name.endswith((".drift_A.default", "_B.default"))
    )
    head = 2 * 32 + 2
    banks = sum(p.numel() for name, p in both.named_parameters() if name.endswith(".drift_bank_B.default"))
    assert trained_now(both) == working - banks + head
    with both.disable_adapter():
        assert trained_now(both) == 0
    assert trained_now(both) == working - banks + head
    close_task(both)
    for use in (
        lambda: both.set_adapter("other"),
        lambda: both.set_requires_grad("other"),
        lambda: both.disable_adapter().__enter__(),
        both.enable_adapter_layers,
    ):
        use()
        assert trained_now(both) == 0 and not any(both.get_model_status().requires_grad.values())


@pytest.mark.parametrize("known", [True, False])
def test_a_training_loop_without_a_task_is_refused(model, fresh, batch, known):
    taught = model if known else fresh
    expected = taught(**batch).last_hidden_state
    taught.train()
    with pytest.raises(ValueError, match=r"no task is open, so nothing in it can be trained.*`DriftTrainer`"):
        taught(**batch)
    with torch.no_grad():
        assert torch.isfinite(taught(**batch).last_hidden_state).all()
    torch.testing.assert_close(taught.eval()(**batch).last_hidden_state, expected, rtol=0, atol=0)


def test_an_answer_holds_the_hidden_states_that_were_asked_for(model, base, batch):
    plain = base()(**batch, output_hidden_states=True)
    answer = model(**batch, output_hidden_states=True)
    assert len(answer.hidden_states) == len(plain.hidden_states) == 5
    for found, expected in zip(answer.hidden_states[:3], plain.hidden_states, strict=False):  # embeddings and trunk
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert torch.equal(answer.hidden_states[-1], answer.last_hidden_state)
    assert not torch.equal(answer.hidden_states[-1], plain.hidden_states[-1])
    assert model(**batch).hidden_states is None
    with pytest.raises(ValueError, match="leave `return_dict` out"):
        model(**batch, output_hidden_states=True, return_dict=False)


def test_hidden_states_are_given_while_a_task_is_learned(model, batch):
    open_task(model, *TASKS["films"], 2)
    found = model(**batch, output_hidden_states=True)
    assert found.logits.shape == (4, 2) and len(found.hidden_states) == 5


@pytest.mark.parametrize("gone", ["default", "other"])
def test_the_adapter_that_is_left_answers_as_before(both, learned, batch, gone):
    left, right = {"default": ("other", learned[1]), "other": ("default", learned[0])}[gone]
    both.set_adapter(gone)
    both.delete_adapter(gone)  # and PEFT makes the other one active
    root = lifelong_of(both)
    assert both.active_adapters == root.active_adapters == list(root.knowledge) == list(root.config) == [left]
    assert not [name for name in both.state_dict() if name.endswith(f".{gone}")]
    answers_equal(predict(both, batch), predict(right, batch))
    same_tensors(tensors_of(both, left), tensors_of(right))


def test_after_the_last_adapter_another_one_can_come(model, learned, folders, batch):
    model.delete_adapter("default")
    with pytest.raises(ValueError, match="were all deleted"):
        knowledge_of(model)
    with pytest.raises(ValueError, match="knows no task yet"):
        predict(model, batch)
    model.load_adapter(folders[1], "other")
    model.set_adapter("other")
    answers_equal(predict(model, batch), predict(learned[1], batch))


@pytest.mark.parametrize("options", [{}, {"safe_merge": True}, {"adapter_names": ["default", "other"]}])
def test_merging_several_adapters_is_refused_and_changes_nothing(both, learned, batch, options):
    for merge in (both.merge_adapter, both.merge_and_unload):
        with pytest.raises(ValueError, match=r"cannot be merged.*unload"):
            merge(**options)
    both.unmerge_adapter()
    answers_equal(predict(both, batch), predict(learned[0], batch))
    both.set_adapter("other")
    answers_equal(predict(both, batch), predict(learned[1], batch))


def test_copies_of_a_model_with_two_adapters_hold_both(both, learned, batch):
    duplicate = copy.deepcopy(both)
    both.delete_adapter("other")
    duplicate.set_adapter("other")
    answers_equal(predict(duplicate, batch), predict(learned[1], batch))
    assert predict(duplicate.half(), batch).scores.dtype == torch.float32
