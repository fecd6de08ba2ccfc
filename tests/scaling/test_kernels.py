"""Which kernels a run computes with: asked for, by rule, or measured once for all runs of a shape on a device."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scaling.calibrate import choose
from scaling.grid import RunSpec
from scaling.kernels import Kernels, by_rule, candidates, decide
from scaling.options import MaeOptions

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
    spec = RunSpec(
        model="none", algorithm="mae", mixture="all", n_images=20, seed=0, width=32, depth=2, heads=2, image_size=16,
        channels=1, patch_size=4, options=MaeOptions(), images_seen=90, batch_size=8, precision="auto",
        data_identity="0" * 64,
    )  # fmt: skip
    signs: list[int] = []
    chosen = choose(spec, CPU, tmp_path, lambda: signs.append(1))
    assert len(signs) == 3
    (path,) = tmp_path.glob("kernels/*/*.json")
    decision = json.loads(path.read_text())
    assert (decision["precision"], decision["attention"]) == (chosen.precision, chosen.attention)
    assert len(decision["seconds"]) == 3
    assert all(seconds > 0 for seconds in decision["seconds"].values())
    assert choose(spec.model_copy(update={"seed": 1, "images_seen": 9000}), CPU, tmp_path) == chosen
