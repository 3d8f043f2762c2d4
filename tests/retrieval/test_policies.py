"""Retrieval policies as functions of tensors."""

import torch

from hf_lifelong.retrieval import margin_of
from hf_lifelong.retrieval.cascade import leading_candidates


def test_margin_is_best_minus_second_best():
    torch.testing.assert_close(margin_of(torch.tensor([[0.2, 0.7, 0.1]])), torch.tensor([0.5]))
    assert margin_of(torch.tensor([[0.3], [0.9]])).tolist() == [1.0, 1.0]


def test_candidates_are_those_still_in_question():
    posterior = torch.tensor(
        [
            [0.95, 0.04, 0.01, 0.0],  # clear
            [0.60, 0.30, 0.07, 0.03],  # one too unlikely
            [0.30, 0.25, 0.25, 0.20],  # more than the most
        ]
    )
    found = leading_candidates(posterior, clear=0.9, least=0.05, most=3)
    assert found.sum(1).tolist() == [1, 3, 3]
    assert found[0].tolist() == [True, False, False, False]
    assert found[1].tolist() == [True, True, True, False]
    assert found[2, 0] and not found[2, 3]


def test_the_best_group_is_a_candidate_however_unlikely():
    assert leading_candidates(torch.full((1, 40), 1 / 40), 0.9, 0.05, 3).sum() == 1
    assert leading_candidates(torch.ones(2, 1), 0.9, 0.05, 3).all()
