"""With which kernels a run computes: precision, attention, compiled or not; by rule or as measured on such a device.

All of them give the same numbers to rounding, not to the bit: a run keeps those it began with, and runs of one shape
on one kind of device share a decision, which lies in a file under the root.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from scaling.execution import Compile
from scaling.rundir import read_json, write_json

WORTH = 1.1
"""Measured kernels replace those of the rule only where they are so many times as fast: less may be noise, and the
rule is the same on every day."""
COMPILING = 60.0
"""Seconds that compiling the blocks of a shape takes; a guess for one processor core."""
LONG = 20 * COMPILING
"""Seconds of a run from which compiled blocks are tried: at a tenth faster, half of what is won pays for compiling."""


@dataclass(frozen=True, kw_only=True)
class Kernels:
    precision: Literal["bf16", "fp32"]
    """Of matrix products; weights, sums and the residual stream are fp32 in either."""
    attention: Literal["plain", "fused"]
    compiled: bool = False
    """Whether transformer blocks are compiled for training (torch.compile, inductor), each by itself."""

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Kernels | None:
        """As a checkpoint, a record or a decision has them; None without. Older ones were not compiled."""
        if "precision" not in found or "attention" not in found:
            return None
        return cls(
            precision=found["precision"], attention=found["attention"], compiled=bool(found.get("compiled", False))
        )

    @property
    def fused(self) -> bool:
        return self.attention == "fused"

    def __str__(self) -> str:
        return f"{self.precision}, {self.attention} attention" + ", compiled" * self.compiled


def by_rule(wanted: str, device: torch.device, compile: Compile = "auto") -> Kernels:
    """Without a measurement. `auto` is bf16 where there are matrix units for it: CUDA since Ampere, CPUs with AMX.

    On CPU fused bf16 attention is several times slower than plain, fp32 the other way round at 0.5 M and more.
    """
    precision = wanted if wanted != "auto" else _precision(device)
    assert precision in ("bf16", "fp32")
    fused = device.type == "cuda" or precision == "fp32"
    attention: Literal["plain", "fused"] = "fused" if fused else "plain"
    return Kernels(precision=precision, attention=attention, compiled=compile == "always")  # type: ignore[arg-type]


def _precision(device: torch.device) -> str:
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return "bf16" if device.type == "cpu" and has_amx() else "fp32"


def candidates(wanted: str, device: torch.device, compile: Compile = "auto") -> list[Kernels]:
    """What is worth measuring, the rule's first. A precision that was asked for leaves nothing to choose: such a run
    shall not depend on a clock.

    On CUDA precision and attention are the rule's: bf16 runs on the matrix units, fused attention in their cache; its
    blocks may be compiled. On a CPU compiling took 107 s and won nothing.
    """
    rule = by_rule(wanted, device, compile)
    if wanted != "auto" or compile == "always":
        return [rule]
    if device.type != "cpu":
        return [rule, replace(rule, compiled=True)] if compile == "auto" and can_compile() else [rule]
    others = [
        Kernels(precision="fp32", attention="fused"),
        Kernels(precision="fp32", attention="plain"),
        Kernels(precision="bf16", attention="plain"),
    ]
    return [rule, *(kernels for kernels in others if kernels != rule)]


def can_compile() -> bool:
    """For a GPU: whether Triton is there, and the C compiler that it calls."""
    return importlib.util.find_spec("triton") is not None and any(
        shutil.which(name) for name in (os.environ.get("CC") or "cc", "gcc", "clang")
    )


def pace(folder: Path, key: str, device: torch.device, seconds: Callable[[], float]) -> float:
    """Seconds of a step by the rule's kernels, measured once per `key` and kind of device."""
    path = folder / _slug(device_key(device)) / f"{key}-pace.json"
    with suppress(ValueError, KeyError, TypeError):
        if found := read_json(path):
            return float(found["seconds"])
    measured = seconds()
    write_json(path, {"seconds": measured})
    return measured


def decide(
    folder: Path, key: str, offered: list[Kernels], seconds_of: Callable[[Kernels], float], device: torch.device
) -> Kernels:
    """One of those offered, the rule's first; measured once per `key` and kind of device, then read. Infinite seconds
    are never chosen.

    Of processes that measure at the same time the first to finish decides for all.
    """
    if len(offered) == 1:
        return offered[0]
    path = folder / _slug(device_key(device)) / f"{key}.json"
    known = _read(path, offered)
    if known is None:
        measured = [seconds_of(kernels) for kernels in offered]
        fastest = min(range(len(offered)), key=measured.__getitem__)
        chosen = offered[fastest] if measured[0] > WORTH * measured[fastest] else offered[0]
        times = {str(k): round(s, 6) if math.isfinite(s) else None for k, s in zip(offered, measured, strict=True)}
        known = _keep(path, {**asdict(chosen), "rule": asdict(offered[0]), "seconds": times}, offered) or chosen
    return known


def _keep(path: Path, decision: dict[str, Any], offered: list[Kernels]) -> Kernels | None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    write_json(draft, decision)
    try:
        os.link(draft, path)  # fails where the file is there, unlike a rename
    except FileExistsError:
        if _read(path, offered) is None:
            draft.replace(path)
    except OSError:  # a file system without links
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return _read(path, offered)


def _read(path: Path, offered: list[Kernels]) -> Kernels | None:
    """None without a decision for what is offered, or with a damaged one."""
    with suppress(ValueError, KeyError, TypeError):
        if found := read_json(path):
            kernels = Kernels.of(found)
            return kernels if kernels in offered else None
    return None


def device_key(device: torch.device) -> str:
    """A GPU by its name; a processor by its name, what it has for bf16, and the threads used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name, flags = os.uname().machine, ""
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        if found := re.search(r"^model name\s*:\s*(.+)$", text, re.M):
            name = found[1]
        flags = " ".join(flag for flag in ("amx_bf16", "avx512_bf16") if re.search(rf"\b{flag}\b", text))
    return f"{name} {flags} {torch.get_num_threads()} threads"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
