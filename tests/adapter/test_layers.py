"""The sum of a layer's output and its low-rank update."""

import pytest
import torch

from hf_lifelong.adapter.low_rank import with_update

R, IN, OUT, SCALE = 2, 5, 7, 0.25


def factors(*blocks):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(*blocks, R, size, generator=generator) for size in (IN, OUT))


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(6,), (3, 4), (2, 3, 4), (0, 4)])
def test_one_pair_of_factors_is_added_to_all_rows(shape):
    (a, b), x, result = factors(), draw(*shape, IN), draw(*shape, OUT)
    before = result.clone()
    torch.testing.assert_close(with_update(result, x, a, b, SCALE), result + SCALE * (x @ a.T @ b))
    assert torch.equal(result, before)  # which others may hold


def test_each_block_of_rows_has_its_own_factors():
    (a, b), x, result = factors(3), draw(6, 4, IN), draw(4, 6, OUT).transpose(0, 1)
    found = with_update(result, x, a, b, SCALE)
    for i in range(3):
        rows = slice(2 * i, 2 * i + 2)
        torch.testing.assert_close(found[rows], result[rows] + SCALE * (x[rows] @ a[i].T @ b[i]))


def test_gradients_are_those_of_the_formula():
    def gradients(update):
        (a, b), x = factors(), draw(3, 4, IN)
        leaves = [tensor.requires_grad_() for tensor in (x, a, b, draw(3, 4, OUT))]
        update(leaves[3], *leaves[:3]).square().sum().backward()
        return [leaf.grad for leaf in leaves]

    expected = gradients(lambda result, x, a, b: result + SCALE * (x @ a.T @ b))
    torch.testing.assert_close(gradients(lambda *given: with_update(*given, SCALE)), expected)


def test_a_base_in_half_precision_is_rounded_once():
    (a, b), x, result = factors(), draw(3, 4, IN), draw(3, 4, OUT).bfloat16()
    found = with_update(result, x, a, b, SCALE)
    assert torch.equal(found, (result.float() + SCALE * (x @ a.T @ b)).bfloat16())


@pytest.mark.parametrize("blocks", [(), (3,)])
def test_autocast_does_not_round_what_a_base_gives_in_float32(blocks):
    (a, b), x, result = factors(*blocks), draw(3, 4, IN), draw(3, 4, OUT)
    with torch.autocast("cpu", torch.bfloat16):
        found = with_update(result, x, a, b * 0, SCALE)
    assert found.dtype == torch.float32 and torch.equal(found, result)
