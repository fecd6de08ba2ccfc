"""Checkpoints come back bit by bit, survive a crash while writing, and run no code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from scaling import checkpoint

CPU = torch.device("cpu")


def test_what_was_saved_comes_back_bit_by_bit(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {"w": torch.randn(3, 4, generator=generator), "half": torch.randn(5, generator=generator).bfloat16()}
    plain = {"step": 3, "seconds": 0.1, "precision": "fp32", "betas": (0.9, 0.95), "nothing": None}
    checkpoint.save(tmp_path / "c.pt", {"module": tensors, **plain})
    state = checkpoint.load(tmp_path / "c.pt", CPU)
    assert state is not None
    assert all(torch.equal(state["module"][name], tensor) for name, tensor in tensors.items())
    assert {name: state[name] for name in plain} == plain


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path / "c.pt", CPU) is None


def test_a_crash_while_saving_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.pt"
    checkpoint.save(path, {"step": 1})

    def crash(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, {"step": 2})
    assert checkpoint.load(path, CPU) == {"step": 1}


class Code:
    """Pickles as a call."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("made-by-a-checkpoint",)


def test_a_checkpoint_that_holds_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"step": Code()}, tmp_path / "c.pt")
    with pytest.raises(pickle.UnpicklingError):
        checkpoint.load(tmp_path / "c.pt", CPU)
    assert not (tmp_path / "made-by-a-checkpoint").exists()
