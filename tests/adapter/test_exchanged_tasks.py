"""Tasks that are taken from one adapter and put into another on the same base."""

import pytest
import torch
from adapter_helpers import TASKS, answers_equal, same_tensors, tensors_of

from hf_lifelong.adapter import knowledge_of, predict, set_tasks_after, tensors_after


def test_tasks_put_into_another_adapter_are_the_same_to_the_bit_and_answer_alike(make_model, batch):
    first, second = make_model(tasks=("films", "news", "answers")), make_model(tasks=("films",))
    set_tasks_after(second, 1, knowledge_of(first), tensors_after(first, 1))
    same_tensors(tensors_of(first), tensors_of(second))
    assert knowledge_of(second) == knowledge_of(first)
    answers_equal(predict(first, batch), predict(second, batch))


def test_all_tasks_and_none_can_be_replaced(make_model):
    model, empty = make_model(tasks=tuple(TASKS)), make_model(tasks=())
    before = knowledge_of(model), tensors_of(model)
    everything = tensors_after(model, 0)
    set_tasks_after(model, 0, knowledge_of(empty), tensors_after(empty, 0))
    assert knowledge_of(model).names == [] and tensors_after(model, 0) == {}
    set_tasks_after(model, 0, before[0], everything)
    same_tensors(tensors_of(model), before[1])


def test_taking_a_task_back_leaves_the_bytes_of_before(make_model):
    model, other = make_model(tasks=("films",)), make_model(tasks=("films", "news"))
    before = knowledge_of(model), tensors_of(model)
    set_tasks_after(model, 1, knowledge_of(other), tensors_after(other, 1))
    set_tasks_after(model, 1, before[0], {})
    same_tensors(tensors_of(model), before[1])
    assert knowledge_of(model) == before[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {**t, "lifelong.drift_signature_mean": torch.zeros(1, 3)}, "`lifelong.drift_signature_mean`"),
        (lambda t: {**t, "lifelong.spare": torch.zeros(1)}, "None"),
        (lambda t: dict(list(t.items())[1:]), "has None as"),
        (lambda t: {name: tensor.double() for name, tensor in t.items()}, "torch.float64"),
    ],
    ids=["shape", "name", "missing", "dtype"],
)
def test_tensors_that_the_manifest_does_not_state_are_refused_and_change_nothing(make_model, change, message):
    model, other = make_model(tasks=("films",)), make_model(tasks=("films", "news"))
    before = tensors_of(model)
    with pytest.raises(ValueError, match=message):
        set_tasks_after(model, 1, knowledge_of(other), change(tensors_after(other, 1)))
    same_tensors(tensors_of(model), before)


def test_tasks_on_top_of_others_than_before_are_refused(make_model):
    model, other = make_model(tasks=("films",)), make_model(tasks=("news", "answers"))
    with pytest.raises(ValueError, match=r"`knowledge` begins with \['news'\], the model with \['films'\]"):
        set_tasks_after(model, 1, knowledge_of(other), tensors_after(other, 1))
