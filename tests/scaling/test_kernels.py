"""Which kernels a run computes with: asked for, by rule, or measured once for all runs of a shape on a device."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from scaling import calibrate, kernels
from scaling.calibrate import choose
from scaling.execution import Compile
from scaling.kernels import LONG, Kernels, by_rule, candidates, decide
from scaling.train import Training
from tests.scaling.tiny import tiny_spec

CPU = torch.device("cpu")
FUSED = Kernels(precision="fp32", attention="fused")
PLAIN = Kernels(precision="fp32", attention="plain")
BF16 = Kernels(precision="bf16", attention="plain")
OFFERED = [FUSED, PLAIN, BF16]


def taking(**seconds: float) -> Callable[[Kernels], float]:
    """Pretends that kernels take so long a step: `fused`, `plain`, `bf16`."""
    return lambda kernels: seconds["bf16" if kernels == BF16 else kernels.attention]


def never(kernels: Kernels) -> float:
    pytest.fail(f"measured {kernels}")


# --- the rule ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wanted", "attention"), [("fp32", "fused"), ("bf16", "plain")])
def test_a_precision_that_was_asked_for_is_kept_and_leaves_nothing_to_a_clock(wanted: str, attention: str) -> None:
    (only,) = candidates(wanted, CPU)
    assert (only.precision, only.attention) == (wanted, attention)


@pytest.mark.parametrize(("units", "expected"), [(True, BF16), (False, FUSED)])
def test_auto_is_bf16_where_the_processor_has_matrix_units(
    units: bool, expected: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: units)
    assert by_rule("auto", CPU) == expected
    assert candidates("auto", CPU)[0] == expected
    assert set(candidates("auto", CPU)) == set(OFFERED)


@pytest.mark.parametrize(("supported", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_on_gpus_that_compute_in_it(
    supported: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert by_rule("auto", torch.device("cuda")) == Kernels(precision=expected, attention="fused")  # type: ignore[arg-type]


@pytest.mark.parametrize(("compile", "able", "n"), [("auto", True, 2), ("auto", False, 1), ("never", True, 1)])
def test_on_a_gpu_the_rules_kernels_may_be_compiled_where_there_is_a_compiler(
    compile: Compile, able: bool, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(kernels, "can_compile", lambda: able)
    plain = Kernels(precision="bf16", attention="fused")
    assert candidates("auto", torch.device("cuda"), compile) == [plain, replace(plain, compiled=True)][:n]
    (asked,) = candidates("bf16", torch.device("cuda"), compile)
    assert asked == plain


@pytest.mark.parametrize(("triton", "compiler"), [(True, True), (True, False), (False, True)])
def test_compiling_for_a_gpu_takes_triton_and_a_c_compiler(
    triton: bool, compiler: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if triton else None)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/gcc" if compiler and name == "gcc" else None)
    assert kernels.can_compile() == (triton and compiler)


@pytest.mark.parametrize("wanted", ["auto", "fp32"])
def test_who_always_wants_compiled_blocks_has_them_by_rule(wanted: str) -> None:
    (only,) = candidates(wanted, CPU, "always")
    assert only.compiled
    assert not any(offered.compiled for offered in candidates(wanted, CPU))


def test_kernels_from_before_blocks_were_compiled_are_not_compiled() -> None:
    assert Kernels.of({"precision": "fp32", "attention": "fused", "host": "h"}) == FUSED
    assert Kernels.of(asdict(replace(FUSED, compiled=True))) == replace(FUSED, compiled=True)
    assert Kernels.of({"precision": "fp32"}) is None


# --- the measurement --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"fused": 1.0, "plain": 0.95, "bf16": 0.5}, BF16),
        ({"fused": 1.0, "plain": 0.8, "bf16": 0.9}, PLAIN),
        ({"fused": 1.0, "plain": 0.92, "bf16": 0.95}, FUSED),  # within a tenth: the rule holds
        ({"fused": 1.0, "plain": 2.0, "bf16": 3.0}, FUSED),
    ],
)
def test_the_fastest_is_taken_where_it_is_worth_leaving_the_rule(
    seconds: dict[str, float], expected: Kernels, tmp_path: Path
) -> None:
    assert decide(tmp_path, "shape", OFFERED, taking(**seconds), CPU) == expected


def test_a_decision_is_made_once_and_says_on_what_grounds(tmp_path: Path) -> None:
    seconds = {"fused": 1.0, "plain": 0.8, "bf16": 0.5}
    decide(tmp_path, "shape", OFFERED, taking(**seconds), CPU)
    assert decide(tmp_path, "shape", OFFERED, never, CPU) == BF16
    (path,) = tmp_path.glob("*/shape.json")
    assert json.loads(path.read_text())["seconds"] == {str(k): taking(**seconds)(k) for k in OFFERED}
    assert [p.name for p in path.parent.iterdir()] == ["shape.json"]


def test_another_shape_has_a_decision_of_its_own(tmp_path: Path) -> None:
    decide(tmp_path, "shape", OFFERED, taking(fused=1.0, plain=0.8, bf16=0.5), CPU)
    assert decide(tmp_path, "other", OFFERED, taking(fused=1.0, plain=0.5, bf16=0.8), CPU) == PLAIN


def test_of_two_that_measure_at_once_the_first_decides_for_both(tmp_path: Path) -> None:
    def overtaken(kernels: Kernels) -> float:
        decide(tmp_path, "shape", OFFERED, taking(fused=1.0, plain=0.5, bf16=0.8), CPU)
        return taking(fused=1.0, plain=0.8, bf16=0.5)(kernels)

    assert decide(tmp_path, "shape", OFFERED, overtaken, CPU) == PLAIN


@pytest.mark.parametrize("harm", ["", "{", "{}", '{"precision": "fp8", "attention": "plain"}'])
def test_a_decision_that_cannot_be_read_is_made_anew(harm: str, tmp_path: Path) -> None:
    decide(tmp_path, "shape", OFFERED, taking(fused=1.0, plain=0.8, bf16=0.5), CPU)
    (path,) = tmp_path.glob("*/shape.json")
    path.write_text(harm)
    assert decide(tmp_path, "shape", OFFERED, taking(fused=1.0, plain=0.5, bf16=0.8), CPU) == PLAIN
    assert decide(tmp_path, "shape", OFFERED, never, CPU) == PLAIN


def test_without_a_choice_nothing_is_measured_or_written(tmp_path: Path) -> None:
    assert decide(tmp_path, "shape", [PLAIN], never, CPU) == PLAIN
    assert not list(tmp_path.iterdir())


def test_real_steps_of_a_run_decide_for_all_of_its_shape(tmp_path: Path) -> None:
    spec = tiny_spec(precision="auto")
    signs: list[int] = []
    chosen = choose(spec, CPU, tmp_path, lambda: signs.append(1))
    assert len(signs) == 3
    (path,) = tmp_path.glob("kernels/*/*.json")
    decision = json.loads(path.read_text())
    assert (decision["precision"], decision["attention"]) == (chosen.precision, chosen.attention)
    assert len(decision["seconds"]) == 3
    assert all(seconds > 0 for seconds in decision["seconds"].values())
    assert choose(spec.model_copy(update={"seed": 1, "images_seen": 9000}), CPU, tmp_path) == chosen


COMPILED = replace(PLAIN, compiled=True)
STEP = 0.5
"""Seconds of an uncompiled step."""
ENOUGH = math.ceil(LONG / STEP)
"""Steps of a run from which compiling is tried."""


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], list[Kernels]]:
    """Has this machine offer compiled blocks, whose steps take so long; says what was tried."""

    def pretend(seconds: float) -> list[Kernels]:
        seen: list[Kernels] = []

        def step_seconds(training: Training) -> float:
            seen.append(training.kernels)
            return seconds if training.kernels.compiled else STEP

        monkeypatch.setattr(torch, "compile", lambda plain, **how: plain)
        monkeypatch.setattr(calibrate, "candidates", lambda *asked: [PLAIN, COMPILED])
        monkeypatch.setattr(calibrate, "_tried", step_seconds)
        return seen

    return pretend


def test_only_a_run_that_is_long_enough_to_pay_for_it_tries_compiled_blocks(
    tried: Callable[[float], list[Kernels]], tmp_path: Path
) -> None:
    seen = tried(STEP / 2)
    short, long = (tiny_spec(precision="auto", images_seen=8 * steps) for steps in (ENOUGH - 1, ENOUGH))
    for _ in range(2):
        assert choose(short, CPU, tmp_path) == PLAIN
    assert seen == [PLAIN]  # a second run of the shape need not measure again how long it takes
    for _ in range(2):
        assert choose(long, CPU, tmp_path) == COMPILED
    assert seen == [PLAIN, PLAIN, COMPILED]
    assert choose(short, CPU, tmp_path) == PLAIN


@pytest.mark.parametrize("seconds", [0.95 * STEP, 2 * STEP, math.inf])
def test_compiled_blocks_are_left_where_they_win_little_or_cannot_be_made(
    seconds: float, tried: Callable[[float], list[Kernels]], tmp_path: Path
) -> None:
    seen, spec = tried(seconds), tiny_spec(precision="auto", images_seen=8 * ENOUGH)
    for _ in range(2):
        assert choose(spec, CPU, tmp_path) == PLAIN
    assert seen == [PLAIN, PLAIN, COMPILED]
    times = json.loads(next(path for path in tmp_path.glob("kernels/*/*.json") if "pace" not in path.name).read_text())
    assert times["seconds"][str(COMPILED)] == (seconds if math.isfinite(seconds) else None)


def test_what_cannot_be_compiled_takes_for_ever(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def broken(*inputs: object) -> torch.Tensor:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", lambda plain, **how: broken)
    monkeypatch.setattr(calibrate, "candidates", lambda *asked: [PLAIN, COMPILED])
    monkeypatch.setattr(calibrate, "LONG", 0.0)
    assert choose(tiny_spec(precision="auto"), CPU, tmp_path) == PLAIN
    assert "no compiler" in capsys.readouterr().err


def test_compiling_that_takes_too_long_is_not_done_whatever_it_wins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch, "compile", lambda plain, **how: plain)
    monkeypatch.setattr(calibrate, "candidates", lambda *asked: [PLAIN, COMPILED])
    monkeypatch.setattr(calibrate, "LONG", 0.0)
    monkeypatch.setattr(calibrate, "COMPILE_LIMIT", 0.0)
    assert choose(tiny_spec(precision="auto"), CPU, tmp_path) == PLAIN
    assert "compiling took 0 s" in capsys.readouterr().err
