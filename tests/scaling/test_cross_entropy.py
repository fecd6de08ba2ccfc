"""Cross entropy in pieces against its formula, written out for all rows at once."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from scaling.algorithms import cross_entropy as module
from scaling.algorithms.cross_entropy import cross_entropy, pieces

P, TEMPERATURE = 50, 0.1


def generator(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def written_out(logits_RP: Tensor, target_SP: Tensor) -> Tensor:
    targets = target_SP.repeat(len(logits_RP) // max(1, len(target_SP)), 1)
    return -(targets * (logits_RP / TEMPERATURE).log_softmax(dim=-1)).sum(dim=-1)


def drawn(n_logits: int, n_targets: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, targets, and what the rows' losses are multiplied by."""
    logits = torch.rand(n_logits, P, generator=generator(1), dtype=torch.float64) * 2 - 1  # cosines
    target = torch.randn(n_targets, P, generator=generator(2), dtype=torch.float64).mul(3).softmax(dim=-1)
    weight = torch.rand(n_logits, generator=generator(3), dtype=torch.float64)
    return logits.to(dtype).requires_grad_(), target, weight


@pytest.mark.parametrize("at_once", [P, 3 * P, 100 * P])
@pytest.mark.parametrize("views", [1, 4])
def test_value_and_gradient_are_the_formulas_however_many_rows_are_taken_at_once(
    at_once: int, views: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.AT_ONCE, "cpu", at_once)
    logits, target, weight = drawn(7 * views, 7, torch.float64)
    found, expected = cross_entropy(logits, target, TEMPERATURE), written_out(logits, target)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    (of_found,) = torch.autograd.grad((found * weight).sum(), logits)
    (of_expected,) = torch.autograd.grad((expected * weight).sum(), logits)
    torch.testing.assert_close(of_found, of_expected, rtol=1e-10, atol=1e-12)


def test_of_bf16_logits_the_value_is_fp32s_and_the_gradient_bf16s() -> None:
    logits, target, weight = drawn(12, 6, torch.bfloat16)
    exact = logits.detach().double().requires_grad_()
    found, expected = cross_entropy(logits, target.float(), TEMPERATURE), written_out(exact, target)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
    (of_found,) = torch.autograd.grad((found * weight.float()).sum(), logits)
    (of_expected,) = torch.autograd.grad((expected * weight).sum(), exact)
    # Two roundings to 8 bits, each of 2^-8 at most: of the difference, and of its product with the row's factor.
    torch.testing.assert_close(of_found.double(), of_expected, rtol=2 * 2**-8 * 1.01, atol=1e-6)


def test_logits_far_apart_neither_overflow_nor_lose_the_loss() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    target = torch.tensor([[0.0, 1.0, 0.0]])
    loss = cross_entropy(logits, target, 1.0)
    assert loss.item() == 2e4
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert gradient.tolist() == [[1.0, -1.0, 0.0]]


def test_without_rows_there_is_no_loss_and_a_gradient_without_rows() -> None:
    logits = torch.empty(0, P, requires_grad=True)
    loss = cross_entropy(logits, torch.empty(0, P), TEMPERATURE)
    assert loss.shape == (0,)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert gradient.shape == (0, P)


def test_logits_that_need_no_gradient_get_a_value_alone() -> None:
    logits, target, _ = drawn(6, 6, torch.float32)
    loss = cross_entropy(logits.detach(), target.float(), TEMPERATURE)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, written_out(logits.detach(), target.float()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("n", "expected"), [(0, []), (2, [(0, 2)]), (7, [(0, 3), (3, 6), (6, 7)])])
def test_pieces_are_all_rows_once_and_at_least_one_at_a_time(
    n: int, expected: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.AT_ONCE, "cpu", 3 * P + 1)
    assert [(rows.start, rows.stop) for rows in pieces(torch.empty(n, P))] == expected
    monkeypatch.setitem(module.AT_ONCE, "cpu", 1)
    assert len(list(pieces(torch.empty(n, P)))) == n
