"""timm's attention, its plain kernel with fewer passes over memory: on a CPU, most of what attention costs.

Letters in shapes: B images, H heads, T tokens, m of them that ask, h width of a head, D = H h.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import Attention as TimmAttention
from torch import Tensor
from torch.nn import functional as F


class Plain(torch.autograd.Function):
    """softmax(q k' scale) v, its heads laid out once for all products of both passes."""

    @staticmethod
    def forward(ctx: Any, q_BmHh: Tensor, k_BTHh: Tensor, v_BTHh: Tensor, scale: float) -> Tensor:
        q, k, v = _by_head(q_BmHh), _by_head(k_BTHh), _by_head(v_BTHh)
        scores_XTm = torch.bmm(k, q.transpose(1, 2)).mul_(scale)
        shares_XTm = scores_XTm.softmax(dim=1, dtype=_softmax_in(scores_XTm)).to(q.dtype)  # as last axis slow if short
        ctx.save_for_backward(q, k, v, shares_XTm)
        ctx.scale, ctx.heads = scale, q_BmHh.shape[2]
        return _by_image(torch.bmm(shares_XTm.transpose(1, 2), v), ctx.heads).flatten(2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, shares_XTm = ctx.saved_tensors
        seen_XmT = _by_head(gradients[0].unflatten(-1, (ctx.heads, -1)))
        to_v = torch.bmm(shares_XTm, seen_XmT)
        to_shares = torch.bmm(v, seen_XmT.transpose(1, 2))
        to_scores = torch._softmax_backward_data(to_shares, shares_XTm, 1, to_shares.dtype).mul_(ctx.scale)
        to_q, to_k = torch.bmm(to_scores.transpose(1, 2), k), torch.bmm(to_scores, q)
        return _by_image(to_q, ctx.heads), _by_image(to_k, ctx.heads), _by_image(to_v, ctx.heads), None


def _softmax_in(scores_XTm: Tensor) -> torch.dtype:
    """A CPU takes bf16 columns 32 at a time and what remains one by one, fp32 ones 16 at a time."""
    many_remain = scores_XTm.device.type == "cpu" and scores_XTm.shape[-1] % 32 >= 16
    return torch.float32 if many_remain and scores_XTm.dtype == torch.bfloat16 else scores_XTm.dtype


def _by_head(values_BTHh: Tensor) -> Tensor:
    """(B H, T, h)."""
    return values_BTHh.transpose(1, 2).flatten(0, 1)


def _by_image(values_XTh: Tensor, heads: int) -> Tensor:
    """`_by_head` undone."""
    return values_XTh.unflatten(0, (-1, heads)).transpose(1, 2)


class Attention(TimmAttention):  # type: ignore[misc]
    def forward(self, tokens_BTD: Tensor, attn_mask: None = None, is_causal: bool = False) -> Tensor:
        return self.attend(self.qkv(tokens_BTD))

    def attend(self, qkv_BT3D: Tensor, m: int | None = None) -> Tensor:
        """(B, T, D); with `m` (B, m, D), what the last tokens see."""
        q, k, v = qkv_BT3D.unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(2)
        return self.seen(q if m is None else q[:, -m:], k, v)

    def seen(self, q_BmHh: Tensor, k_BTHh: Tensor, v_BTHh: Tensor) -> Tensor:
        """(B, m, D) for those that ask."""
        if self.fused_attn:
            q, k, v = (values.transpose(1, 2) for values in (q_BmHh, k_BTHh, v_BTHh))
            seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        else:
            seen = Plain.apply(q_BmHh, k_BTHh, v_BTHh, self.scale)
        return self.proj(seen)
