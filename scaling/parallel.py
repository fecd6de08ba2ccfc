"""One step over many processes and in many pieces, with the numbers of one process and one piece.

A global batch is cut into parts; every random draw is made for the whole batch and sliced, so that an image meets the
same chance whoever computes it. Everything here does nothing where there is one process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Generator, Tensor

BUCKET = 2**24
"""Values reduced at once, 64 MiB: few calls, little memory."""
TIMEOUT = timedelta(hours=2)
"""A rank waits so long while rank 0 reads data or saves; a dead peer is noticed at once, by its closed connection."""


class PeerLost(RuntimeError):
    """Another rank of the run ended; it knows why."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Rows `start` to `stop` of a global batch of `n` images."""

    n: int
    start: int
    stop: int

    @classmethod
    def of(cls, n: int, index: int, count: int) -> Part:
        """The `index`-th of `count` parts that differ by at most one image."""
        return cls(n=n, start=n * index // count, stop=n * (index + 1) // count)

    @property
    def share(self) -> float:
        """By which a mean over the part is weighted; 1 when it is the whole."""
        return (self.stop - self.start) / self.n

    def n_all(self, n: int) -> int:
        """What `n` rows of the part are in the global batch."""
        return n * self.n // (self.stop - self.start)

    def rows(self, whole: Tensor) -> Tensor:
        """Those of the part among (k n, ...) rows, k groups of the batch one after the other."""
        if self.stop - self.start == self.n:
            return whole
        groups = whole.unflatten(0, (-1, self.n))
        return groups[:, self.start : self.stop].flatten(0, 1)


class Draws:
    """Random numbers of a step: made for the global batch on the generator's device, given out for a part of it."""

    def __init__(self, generator: Generator, part: Part | None = None) -> None:
        self.generator = generator
        self.part = part
        """None when what is here is the whole batch."""

    @property
    def device(self) -> torch.device:
        return self.generator.device

    @property
    def share(self) -> float:
        """Of the whole batch that is here."""
        return 1.0 if self.part is None else self.part.share

    def uniform(self, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform values; the first axis is images, or several groups of them one after the other."""
        return self.rows(self.of_all((self.n_all(shape[0]), *shape[1:]), low, high))

    def of_all(self, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform values that belong to no image, the same in every part."""
        return torch.rand(shape, generator=self.generator, device=self.device) * (high - low) + low

    def n_all(self, n: int) -> int:
        """What `n` rows here are in the global batch."""
        return n if self.part is None else self.part.n_all(n)

    def rows(self, whole: Tensor) -> Tensor:
        return whole if self.part is None else self.part.rows(whole)


# --- processes --------------------------------------------------------------------------------------------------


def n_ranks() -> int:
    """1 outside a group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


@dataclass(frozen=True, kw_only=True)
class Member:
    """Which of the processes that share a run this one is."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Among those on this machine."""
    local_size: int = 1

    @classmethod
    def from_environment(cls) -> Member:
        """As torchrun says; alone where it says nothing."""
        names = {"rank": "RANK", "size": "WORLD_SIZE", "local_rank": "LOCAL_RANK", "local_size": "LOCAL_WORLD_SIZE"}
        return cls(**{field: int(os.environ[name]) for field, name in names.items() if name in os.environ})


@contextmanager
def group(member: Member, device: torch.device) -> Iterator[None]:
    """The ranks joined: CPU tensors over gloo, those of GPUs over NCCL.

    Left standing after an exception, because taking it down may wait for a peer that is gone; the process then ends.
    """
    if member.size == 1:
        yield
        return
    if member.local_size == member.size and sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # else the host's name must resolve
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    yield
    dist.destroy_process_group()


@contextmanager
def _together() -> Iterator[None]:
    """Turns the many errors of a broken connection into one. Raises PeerLost."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # gloo and NCCL raise nothing more special
        raise PeerLost(f"another rank of the run is gone: {error}".splitlines()[0]) from error


def total(values: Tensor) -> Tensor:
    """The sum over ranks, in place, without gradients."""
    if n_ranks() > 1:
        with _together():
            dist.all_reduce(values)
    return values


def largest(values: Tensor) -> Tensor:
    """The maximum over ranks, in place, without gradients."""
    if n_ranks() > 1:
        with _together():
            dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values


def any_rank(yes: bool) -> bool:
    """Whether any rank says so: the same answer on all of them, without waiting for a GPU."""
    return bool(largest(torch.tensor(int(yes))).item()) if n_ranks() > 1 else yes


def barrier() -> None:
    """Waits for all ranks, on the CPU."""
    any_rank(False)


class _Gather(torch.autograd.Function):
    """Sums of zero-padded rows: parts may differ in size, and the backward is the same sum again."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, at: int, n_all: int) -> Tensor:
        ctx.at, ctx.n = at, len(mine)
        whole = mine.new_zeros(n_all, *mine.shape[1:])
        whole[at : at + len(mine)] = mine
        return total(whole)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return total(gradients[0].clone(memory_format=torch.contiguous_format))[ctx.at : ctx.at + ctx.n], None, None


def gather(mine: Tensor) -> tuple[Tensor, int]:
    """Rows of all ranks in order, (n, ...) -> (sum of n, ...), and where those here begin; differentiable."""
    if n_ranks() == 1:
        return mine, 0
    sizes = torch.zeros(n_ranks(), dtype=torch.int64)
    sizes[rank()] = len(mine)
    at, n_all = int(total(sizes)[: rank()].sum()), int(sizes.sum())
    gathered: Tensor = _Gather.apply(mine, at, n_all)
    return gathered, at


@torch.no_grad()
def reduce_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Sums gradients over ranks, in place, in flat buckets. The same parameters must have one on every rank."""
    if n_ranks() == 1:
        return
    bucket: list[Tensor] = []
    held = 0
    for gradient in [p.grad for p in parameters if p.grad is not None]:
        if bucket and held + gradient.numel() > BUCKET:
            _reduce(bucket)
            bucket, held = [], 0
        bucket.append(gradient)
        held += gradient.numel()
    if bucket:
        _reduce(bucket)


def _reduce(bucket: list[Tensor]) -> None:
    flat = total(torch.cat([g.flatten() for g in bucket]))
    pieces = flat.split([g.numel() for g in bucket])
    torch._foreach_copy_(bucket, [piece.view_as(g) for piece, g in zip(pieces, bucket, strict=True)])
