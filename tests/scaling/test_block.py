"""Blocks that are compiled, or compute their activations anew: the same training, other means."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scaling import checkpoint
from scaling.catalog import ALGORITHMS
from scaling.data.source import Images
from scaling.kernels import Kernels
from scaling.models.block import Block, blocks_of, compile_blocks, recompute_blocks
from scaling.models.vit import use_fused_attention
from scaling.options import Recipe
from scaling.records import BASELINES
from scaling.train import Training, build
from tests.scaling.tiny import tiny_spec

CPU = torch.device("cpu")
PLAIN = Kernels(precision="fp32", attention="plain")
FUSED = Kernels(precision="fp32", attention="fused")
COMPILED = replace(FUSED, compiled=True)
TRAINED = [name for name in ALGORITHMS if name not in BASELINES]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _fused_again() -> Iterator[None]:
    yield
    use_fused_attention(True)


@pytest.fixture(scope="module")
def images() -> Images:
    return np.random.default_rng(0).integers(0, 256, (20, 1, 16, 16), dtype=np.uint8)


def training_of(
    images: Images, algorithm: str = "mae", kernels: Kernels = PLAIN, *, recomputed: bool = False, **more: Any
) -> Training:
    n_micro = more.pop("n_micro", 1)
    spec = tiny_spec(algorithm, precision=kernels.precision, **more)
    assert isinstance(spec.options, Recipe)
    module = build(spec, CPU, kernels, recomputed=recomputed)
    labels = np.column_stack([np.zeros(20, np.int64), np.arange(20) % 4]) if algorithm == "supervised" else None
    return Training(spec, spec.options, module, images, CPU, kernels, n_micro=n_micro, labels=labels)


def stepped(training: Training, n: int = 3) -> list[float]:
    """Losses of so many more steps."""
    losses = []
    for step in range(training.n_done, training.n_done + n):
        training.step((torch.arange(8) + 3 * step) % 20)
        losses.append(training.loss.item())
    return losses


def breaking(plain: Callable[..., Tensor], **how: Any) -> Callable[..., Tensor]:
    """In place of `torch.compile`, on a machine without a compiler."""

    def call(*inputs: Any) -> Tensor:
        raise RuntimeError("no compiler\nand much more")

    return call


# --- activations computed anew ------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("algorithm", TRAINED)
def test_activations_computed_anew_give_the_bits_of_those_that_were_kept(
    algorithm: str, precision: Any, images: Images
) -> None:
    kernels, n_micro = Kernels(precision=precision, attention="plain"), 1 if precision == "fp32" else 3
    kept, anew = (
        training_of(images, algorithm, kernels, recomputed=recomputed, drop_path=0.5, n_micro=n_micro)
        for recomputed in (False, True)
    )
    assert stepped(anew) == stepped(kept)
    mine, theirs = anew.module.state_dict(), kept.module.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_a_block_that_computes_anew_keeps_its_input_alone() -> None:
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    block = Block(32, 2)
    tokens = torch.randn(8, 17, 32, requires_grad=True)
    for recomputed in (False, True):
        kept.clear()
        block.recomputed = recomputed
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            block(tokens)
        assert (sum(kept) > 10 * tokens.numel()) != recomputed  # 16 values a token and width, or none beside the input


def test_without_gradients_nothing_is_computed_twice() -> None:
    seen: list[int] = []
    block = Block(32, 2)
    recompute_blocks(block)
    block.attn.register_forward_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        block(torch.randn(8, 17, 32))
    assert len(seen) == 1
    block(torch.randn(8, 17, 32, requires_grad=True)).sum().backward()
    assert len(seen) == 3


# --- compiling ----------------------------------------------------------------------------------------------------


def test_where_compiling_fails_a_run_goes_on_without_and_says_why(
    images: Images, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "compile", breaking)
    training, plain = training_of(images, kernels=COMPILED), training_of(images, kernels=FUSED)
    assert training.used == COMPILED
    assert stepped(training) == stepped(plain)
    assert training.used == FUSED
    assert training.kernels == COMPILED  # a checkpoint's: the next machine may have a compiler
    assert capsys.readouterr().err == (
        "blocks train uncompiled, because compiling them failed: RuntimeError: no compiler\n"
    )


def test_memory_that_runs_out_in_a_compiled_block_is_no_failure_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*inputs: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "compile", lambda plain, **how: full)
    block = nn.Sequential(Block(32, 2))
    compiling = compile_blocks(block)
    with pytest.raises(torch.OutOfMemoryError):
        block(torch.randn(8, 17, 32))
    assert not compiling.failed


def test_at_rest_compiled_blocks_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", breaking)
    block = nn.Sequential(Block(32, 2))
    compiling = compile_blocks(block)
    block.eval()(torch.randn(5, 17, 32))
    assert not compiling.failed


needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")


@pytest.fixture
def fresh_graphs() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@needs_compiler
@pytest.mark.timeout(900)  # inductor takes a minute of a core and more
@pytest.mark.slow
@pytest.mark.usefixtures("fresh_graphs")
@pytest.mark.filterwarnings("ignore")  # of the compiler's, about itself
@pytest.mark.parametrize(
    ("drop_path", "recomputed", "n_micro"), [(0.0, False, 1), (0.5, True, 2)], ids=["plain", "drop path, recomputed"]
)
def test_compiled_blocks_train_as_uncompiled_ones_do(
    drop_path: float, recomputed: bool, n_micro: int, images: Images
) -> None:
    more: dict[str, Any] = {"drop_path": drop_path, "n_micro": n_micro}
    plain, compiled = (
        training_of(images, kernels=FUSED, **more),
        training_of(images, kernels=COMPILED, recomputed=recomputed, **more),
    )
    assert compiled.module.state_dict().keys() == plain.module.state_dict().keys()
    indices, gradients = torch.arange(8), []
    for training in (plain, compiled):
        training._differentiate(training.module, indices, 0.0)  # type: ignore[arg-type]
        gradients.append({n: p.grad for n, p in training.module.named_parameters() if p.grad is not None})
        training.optimizer.zero_grad()
    assert compiled.used == COMPILED
    torch.testing.assert_close(compiled.loss, plain.loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-6)  # fp32 sums in another order
    torch.testing.assert_close(stepped(compiled), stepped(plain), rtol=1e-4, atol=1e-5)


@needs_compiler
@pytest.mark.timeout(900)  # inductor takes a minute of a core and more
@pytest.mark.slow
@pytest.mark.usefixtures("fresh_graphs")
@pytest.mark.filterwarnings("ignore")
def test_steps_of_a_shape_share_graphs_and_a_resumed_run_has_the_bits_of_a_whole_one(
    images: Images, tmp_path: Path
) -> None:
    from torch._dynamo.utils import counters

    counters.clear()
    whole = training_of(images, kernels=COMPILED, n_micro=3)  # of 8: micro-batches of two sizes
    stepped(whole, 1)
    made = counters["stats"]["unique_graphs"]
    assert made == 2 * 3  # encoder, decoder, and its last block on masked patches alone; one code for all blocks
    stepped(whole, 2)
    checkpoint.save(tmp_path / "checkpoint.pt", whole.state())
    last = stepped(whole, 2)
    part = training_of(images, kernels=COMPILED, n_micro=3)
    state = checkpoint.load(tmp_path / "checkpoint.pt", CPU)
    assert state is not None
    part.restore(copy.deepcopy(state))
    assert Kernels.of(state["kernels"]) == COMPILED
    assert stepped(part, 2) == last
    assert counters["stats"]["unique_graphs"] == made
    assert sum(1 for block in blocks_of(whole.module) if block.compiled) == 4
