"""Answers that are numbers: in the units of each task's targets, as uncertain as members differ, mixed with others."""

import json

import pytest
import torch
from adapter_helpers import TASKS, answers_equal
from learned import learn_task
from peft import AutoPeftModelForFeatureExtraction, get_peft_model
from transformers import AutoModel

from hf_lifelong import DriftAdapterConfig, forget, predict
from hf_lifelong.adapter import lifelong_of

NUMBER = ("text-regression", ("value",))
PLAIN, STARS, MARKS = {"mean": 0.0, "std": 1.0}, {"mean": 3.0, "std": 2.0}, {"mean": 10.0, "std": 0.5}
SAME = 1e-5


@pytest.fixture
def make(tiny_folder):
    """`make(tasks)`: a model that knows tasks, each with its name, seed, and what `learn_task` takes beside it."""

    def model(*tasks):
        base = AutoModel.from_pretrained(tiny_folder("bert"), dtype=torch.float32)
        model = get_peft_model(base, DriftAdapterConfig(r=2, members=2, signature_rank=4))
        for name, seed, noted in tasks:
            learn_task(model, name, *TASKS.get(name, NUMBER), seed=seed, **noted)
        return model.eval()

    return model


def numbers(model, batch, **options):
    out = predict(model, batch, **{"policy": "oracle", "group": 0, **options})
    return out.scores[:, 0, 0], out.uncertainty


def close(given, right):
    torch.testing.assert_close(given, right, rtol=0, atol=SAME)


@pytest.mark.parametrize("options", [{}, {"answer": "ensemble"}, {"policy": "uncertainty", "group": None}])
def test_numbers_are_in_the_units_of_the_targets(make, batch, options):
    plain, uncertainty = numbers(make(("stars", 1, {"constants": PLAIN})), batch, **options)
    found, same = numbers(make(("stars", 1, {"constants": STARS})), batch, **options)
    close(found, 3 + 2 * plain)
    close(same, uncertainty)
    assert plain.std() > 0.01


def test_the_uncertainty_is_how_far_members_differ(make, batch):
    model, lone = make(("stars", 1, {"constants": STARS})), make(("stars", 1, {"constants": STARS, "members": 1}))
    mean, uncertainty = numbers(model, batch, answer="ensemble")
    first, none = numbers(lone, batch, answer="ensemble")
    variance = ((first - mean) / 2).square()  # of two members, in units of 2
    close(uncertainty, variance / (1 + variance))
    assert uncertainty.min() > 0 and uncertainty.max() < 1 and not none.any()
    close(numbers(model, batch, answer="ensemble", uncertainty="variance")[1], uncertainty)
    assert not numbers(model, batch)[1].any()  # merged, members are one


def test_members_of_a_group_answer_each_in_the_units_that_they_learned(make, batch):
    both = make(("stars", 1, {"constants": STARS}), ("marks", 2, {"constants": MARKS, "group": "stars"}))
    apart = [make((name, seed, {"constants": c})) for name, seed, c in (("stars", 1, STARS), ("marks", 2, MARKS))]
    ensembles = [numbers(model, batch, answer="ensemble")[0] for model in apart]
    close(numbers(both, batch, policy="uncertainty", group=None)[0], (ensembles[0] + ensembles[1]) / 2)
    close(numbers(both, batch)[0], numbers(apart[1], batch)[0])  # merged, the newest task answers


def alike(model):
    """Lets all tasks lie in the same place, so that the signature cannot tell them apart."""
    root = lifelong_of(model)
    for bank in (root.drift_signature_mean, root.drift_signature_factor, root.drift_signature_diagonal):
        bank["default"].data[:] = bank["default"].data[:1].clone()
    root.drift_signature_classes["default"].data[:] = root.drift_signature_classes["default"].data[:1].clone()
    root.refresh()
    return model


def test_a_cascade_compares_numbers_only_where_members_run_one_by_one(make, batch):
    model = alike(make(*((name, seed, {"constants": STARS}) for name, seed in (("a", 1), ("b", 2), ("c", 3)))))
    merged = predict(model, batch, policy="cascade")
    assert torch.equal(merged.group, predict(model, batch, policy="signature").group)
    spreads = torch.stack([numbers(model, batch, group=g, answer="ensemble")[1] for g in range(3)])
    least = predict(model, batch, policy="cascade", uncertainty="variance")
    assert torch.equal(least.group, spreads.argmin(0)) and len(set(least.group.tolist())) > 1
    close(least.uncertainty, spreads.amin(0))


@pytest.mark.parametrize("options", [{}, {"answer": "ensemble"}, {"answer": "ensemble", "uncertainty": "variance"}])
def test_mixed_with_other_kinds_each_row_is_answered_as_alone(make, batch, options):
    tasks = [("news", 0, {}), ("stars", 1, {"constants": STARS}), ("answers", 2, {}), ("names", 3, {})]
    model, groups = make(*tasks), torch.tensor([1, 0, 2, 1])
    mixed = predict(model, batch, policy="oracle", group=groups, **options)
    for row, group in enumerate(groups.tolist()):
        length = int(batch["attention_mask"][row].sum())
        alone = predict(
            make(tasks[group]), {k: v[row : row + 1, :length] for k, v in batch.items()}, "oracle", 0, **options
        )
        d, c = alone.scores.shape[1:]
        close(mixed.scores[row, :d, :c], alone.scores[0])
        close(mixed.uncertainty[row], alone.uncertainty[0])


def test_constants_are_saved_loaded_and_forgotten_with_their_task(make, batch, tmp_path):
    model = make(("news", 0, {}), ("stars", 1, {"constants": STARS}), ("marks", 2, {"constants": MARKS}))
    model.save_pretrained(tmp_path / "both")
    loaded = AutoPeftModelForFeatureExtraction.from_pretrained(tmp_path / "both").eval()
    answers_equal(predict(loaded, batch), predict(model, batch))
    forget(model, "stars")
    never = make(("news", 0, {}), ("marks", 2, {"constants": MARKS}))
    answers_equal(predict(model, batch), predict(never, batch))
    close(numbers(model, batch, group="marks")[0], numbers(never, batch, group="marks")[0])


def test_a_saved_task_without_its_constants_is_refused(make, tmp_path):
    make(("stars", 1, {"constants": STARS})).save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    config = json.loads(file.read_text())
    for wrong in ({}, {"mean": 3.0, "std": 0.0}):
        config["knowledge"]["tasks"][0]["constants"] = wrong
        file.write_text(json.dumps(config))
        with pytest.raises(ValueError, match=r"task `stars`: `constants` are .* `mean` and `std`"):
            AutoPeftModelForFeatureExtraction.from_pretrained(tmp_path)
