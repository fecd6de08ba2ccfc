"""A transformer block that can train compiled, and can keep its input alone for the backward pass. Numbers stay.

Letters in shapes: B images, T tokens, D width.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from timm.models.vision_transformer import Block as TimmBlock
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from scaling.models.attention import Attention

GRAPHS = 64
"""Most graphs of one block's code: one for each of width, drop-path, tokens, images, with and without a gradient.
Dynamo's own limit of 8 is few for DINOv2 in micro-batches of two sizes."""


class Compiling:
    """Shared by the blocks of a module: once one of them cannot be compiled, none is tried any more."""

    def __init__(self) -> None:
        self.failed = ""
        """Why not."""

    def of(self, plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`plain`, compiled at its first call with each shape; uncompiled where that fails."""
        fast = torch.compile(plain, dynamic=False)

        def call(*inputs: Tensor | int | None) -> Tensor:
            if not self.failed:
                try:
                    return fast(*inputs)
                except torch.OutOfMemoryError:
                    raise
                except (RuntimeError, ImportError, OSError) as error:  # what else is wrong shows without it
                    self.failed = f"{type(error).__name__}: {error}".splitlines()[0]
                    print(f"blocks train uncompiled, because compiling them failed: {self.failed}", file=sys.stderr)
            return plain(*inputs)

        return call


class Block(TimmBlock):  # type: ignore[misc]
    recomputed = False
    """Whether activations are computed anew in the backward pass instead of kept (Chen et al. 2016, arXiv 1604.06174):
    the same bits for one more forward pass."""
    compiled: Callable[..., Tensor] | None = None
    """Used in training alone: at rest, images come in numbers of all kinds."""

    def __init__(self, *sizes: Any, **options: Any) -> None:
        super().__init__(*sizes, **{**options, "attn_layer": Attention})

    def forward(self, tokens_BTD: Tensor, m: int | None = None, qkv_BT3D: Tensor | None = None) -> Tensor:
        """(B, T, D); with `m` (B, m, D), the last tokens alone. `qkv`, of the tokens' norm, where it is known."""
        transform = self.compiled if self.training and self.compiled is not None else self.transform
        if self.recomputed and torch.is_grad_enabled():
            recomputed: Tensor = checkpoint(transform, tokens_BTD, m, qkv_BT3D, use_reentrant=False)
            return recomputed
        return transform(tokens_BTD, m, qkv_BT3D)

    def qkv(self, tokens_BTD: Tensor) -> Tensor:
        """(B, T, 3 D): queries, keys and values."""
        projected: Tensor = self.attn.qkv(self.norm1(tokens_BTD))
        return projected

    def transform(self, tokens_BTD: Tensor, m: int | None = None, qkv_BT3D: Tensor | None = None) -> Tensor:
        tail = tokens_BTD if m is None else tokens_BTD[:, -m:]
        tail = tail + self.drop_path1(self.ls1(self._attended(tokens_BTD, m, qkv_BT3D)))
        after: Tensor = tail + self.drop_path2(self.ls2(self.mlp(self.norm2(tail))))
        return after

    def _attended(self, tokens_BTD: Tensor, m: int | None, qkv_BT3D: Tensor | None) -> Tensor:
        """Of the tokens before the last `m`, only keys and values are computed: the same numbers at three quarters of
        the block's cost where m is 0.75 T."""
        attention, d = self.attn, tokens_BTD.shape[-1]
        if qkv_BT3D is not None:
            seen: Tensor = attention.attend(qkv_BT3D, m)
        elif m is None:
            seen = attention(self.norm1(tokens_BTD))
        else:
            normed, heads = self.norm1(tokens_BTD), (attention.num_heads, attention.head_dim)
            weight, bias = attention.qkv.weight, attention.qkv.bias
            q = F.linear(normed[:, -m:], weight[:d], bias[:d]).unflatten(-1, heads)
            k, v = F.linear(normed, weight[d:], bias[d:]).unflatten(-1, (2, *heads)).unbind(2)
            seen = attention.seen(q, k, v)
        return seen


def blocks_of(module: nn.Module) -> Iterator[Block]:
    return (block for block in module.modules() if isinstance(block, Block))


def compile_blocks(module: nn.Module) -> Compiling:
    """Each block by itself, so that names of weights stay and one graph serves all blocks of a shape."""
    import torch._dynamo.config as dynamo  # seconds that a run without it need not spend
    import torch._functorch.config as autograd
    import torch._inductor.config as inductor

    dynamo.recompile_limit = max(dynamo.recompile_limit, GRAPHS)
    autograd.force_non_lazy_backward_lowering = True  # so that all that can fail fails in a block's forward pass
    inductor.compile_threads = torch.get_num_threads()
    compiling = Compiling()
    for block in blocks_of(module):
        block.compiled = compiling.of(block.transform)
        for drop in (block.drop_path1, block.drop_path2):
            if not isinstance(drop, nn.Identity):  # compiled it would draw other numbers
                drop.forward = torch.compiler.disable(drop.forward)
    return compiling


def recompute_blocks(module: nn.Module) -> None:
    for block in blocks_of(module):
        block.recomputed = True
