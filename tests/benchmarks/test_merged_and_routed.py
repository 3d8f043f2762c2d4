"""SLAO merges as published, and the router of Any-SSR chooses among our groups."""

import numpy as np
import pytest
import torch
from methods import any_ssr, ours, regularised, slao
from methods.any_ssr import RidgeRouter, RouterSums
from methods.shared import SharedLearner
from sklearn.linear_model import Ridge

from hf_lifelong.adapter import trunk_features
from hf_lifelong.retrieval import Evidence
from hf_lifelong.statistics import TaskRows


def loras(model):
    """A and B of each layer."""
    return [
        [next(iter(side.values())).weight.detach().clone() for side in (layer.lora_A, layer.lora_B)]
        for layer in regularised.lora_layers(model)
    ]


def test_slao_starts_from_orthonormal_rows_and_merges_by_the_root_of_the_number_of_tasks(stream, setting, monkeypatch):
    starts, ends, merged = [], [], []
    train = SharedLearner.train

    def note(self, *args, **kwargs):
        starts.append(loras(self.model))
        train(self, *args, **kwargs)
        ends.append(loras(self.model))

    score = SharedLearner.score

    def scored(self, *args, **kwargs):
        if len(merged) < len(ends):
            merged.append(loras(self.model))
        return score(self, *args, **kwargs)

    monkeypatch.setattr(SharedLearner, "train", note)
    monkeypatch.setattr(SharedLearner, "score", scored)
    result = slao.slao(stream("films", "news", "shops"), setting())
    for layer in range(8):
        kept = ends[0][layer][1]
        torch.testing.assert_close(merged[0][layer], ends[0][layer])
        for i in (1, 2):
            (down, up), (before, _) = starts[i][layer], ends[i - 1][layer]
            torch.testing.assert_close(down @ down.T, torch.eye(8), atol=1e-5, rtol=0)
            # The same rows are spanned: nothing of the old ones is left beside the new ones.
            torch.testing.assert_close(before @ down.T @ down, before, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(up, ends[i - 1][layer][1])
            kept = kept + (ends[i][layer][1] - kept) / (i + 1) ** 0.5
            torch.testing.assert_close(merged[i][layer], [ends[i][layer][0], kept])
    one = 4 * 2 * 4 * 8 * (32 + 32)
    assert result.bytes_per_task == [one + 4 * (4 * 33 + 2 * 33) + one // 2, 0, 0]


def rows(features):
    return TaskRows("a", "text-classification", ("x",), features, None, None, {}, None)


def test_the_router_is_ridge_regression_of_the_task_on_a_random_linear_map():
    sums = RouterSums(hidden=6, seed=3, width=50, deviation=0.5, penalty=2.0)
    draw = torch.Generator().manual_seed(0)
    features = [torch.randn(n, 3 * 6, generator=draw) for n in (9, 12)]
    for part in features:
        sums.fit(rows(part))
    # Mean at the first depth and what the second adds; the largest values do not count.
    states = torch.cat(features)[:, :6] + torch.cat(features)[:, 6:12]
    mapped = states.double() @ (
        0.5 * torch.randn(6, 50, generator=torch.Generator().manual_seed(3), dtype=torch.double)
    )
    wanted = np.repeat(np.eye(2), [9, 12], axis=0)
    expected = Ridge(2.0, fit_intercept=False).fit(mapped, wanted).predict(mapped)
    evidence = Evidence(rows=21, groups=2, group_of_task=torch.tensor([0, 1]), features=torch.cat(features))
    np.testing.assert_allclose(RidgeRouter(sums).likelihood(evidence), expected, rtol=1e-5, atol=1e-6)


def test_any_ssr_reads_the_mean_hidden_state_at_the_trunks_end_and_scores_by_its_own_choice(
    stream, setting, monkeypatch
):
    found = []
    make = any_ssr.result_of
    monkeypatch.setattr(
        any_ssr, "result_of", lambda trainer, folder: (found.append(trainer), make(trainer, folder))[1]
    )
    tasks = stream("films", "news")
    result = any_ssr.any_ssr(tasks, setting(epochs=5))
    (trainer,) = found
    (sums,) = (one for one in trainer.statistics if isinstance(one, RouterSums))
    batch = {name: torch.tensor([tasks[0].train[2][name]]) for name in ("input_ids", "attention_mask")}
    base = trainer.model.get_base_model()
    with trainer.model.disable_adapter(), torch.no_grad():
        states = base(**batch, output_hidden_states=True).hidden_states
    given = sums.states(trunk_features(trainer.model, batch))
    distances = [(given[0] - state[0].mean(0)).norm().item() for state in states]
    assert np.argmin(distances) == trainer.knowledge.trunk and min(distances) < 0.01  # trained in bfloat16
    assert sums.weights.shape == (32, 2)
    preferred = (sums.states(trainer.evaluator.features_of(tasks[1], tasks[1].test)) @ sums.weights).argmax(1)
    assert result.matrix.retrieval[-1][1] == pytest.approx((preferred == 1).float().mean().item())
    sums.weights = sums.weights.flip(1)
    trainer.evaluator.clear()
    prepared = trainer.prepared(trainer.tasks[1])
    assert trainer.evaluator.score(prepared, prepared.test).retrieval == pytest.approx((preferred == 0).float().mean())
    assert ours.under(trainer, "signature")["retrieval_accuracy"] > 0.9
