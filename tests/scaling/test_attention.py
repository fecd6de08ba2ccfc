"""The plain kernel against its formula in fp64, whatever number of tokens is left over by a vector's width."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from scaling.models.attention import Plain

B, HEADS, WIDTH, SCALE = 3, 2, 8, 0.35


def written_out(q_BmHh: Tensor, k_BTHh: Tensor, v_BTHh: Tensor) -> Tensor:
    scores = torch.einsum("bmhd,bthd->bhmt", q_BmHh, k_BTHh) * SCALE
    return torch.einsum("bhmt,bthd->bmhd", scores.softmax(dim=-1), v_BTHh).flatten(2)


@pytest.mark.parametrize(("tokens", "asking"), [(5, 5), (17, 17), (33, 33), (65, 48), (50, 13)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-6)])
def test_values_and_gradients_are_the_formulas(tokens: int, asking: int, dtype: torch.dtype, tolerance: float) -> None:
    """Values up to 3 are rounded to 8 bits at scores, shares and sums: 2^-6 is two units of them near 1."""
    generator = Generator().manual_seed(tokens)
    drawn = (torch.randn(B, n, HEADS, WIDTH, generator=generator) for n in (asking, tokens, tokens))
    given = [values.to(dtype).requires_grad_() for values in drawn]
    exact = [values.detach().double().requires_grad_() for values in given]
    toward = torch.randn(B, asking, HEADS * WIDTH, generator=generator).to(dtype)
    found, expected = Plain.apply(*given, SCALE), written_out(*exact)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    gradients = zip(
        torch.autograd.grad(found, given, toward), torch.autograd.grad(expected, exact, toward.double()), strict=True
    )
    for mine, theirs in gradients:
        torch.testing.assert_close(mine.double(), theirs, rtol=tolerance, atol=2 * tolerance)
