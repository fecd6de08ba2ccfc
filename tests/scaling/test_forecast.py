"""When a sweep will be over: by runs of the kind, by calibrated steps until there are any, with an honest spread."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scaling.calibration import Calibration
from scaling.config import load
from scaling.forecast import Forecast
from scaling.launch.machine import here
from scaling.plan import Plan, make_plan, open_source
from scaling.sizing import Sizer


@pytest.fixture
def plan(sweep_file: Callable[..., Path]) -> Plan:
    sweep, document = load(sweep_file())
    sweep, source = open_source(sweep, document)
    return make_plan(sweep, document, source)


def calibrated(images_per_second: float) -> Calibration:
    return Calibration(
        device="cpu: made up, 1 threads",
        device_memory_bytes=1,
        shape_key="key",
        model="vit_atto",
        algorithm="mae",
        batch_size=16,
        n_micro=1,
        precision="fp32",
        memory_bytes=1,
        host_memory_bytes=1,
        images_per_second=images_per_second,
        seconds=1.0,
    )


def test_nothing_is_foretold_of_what_was_never_timed(plan: Plan) -> None:
    forecast = Forecast([])
    assert forecast.seconds(plan.runs[0]) is None
    assert forecast.eta([None, 3.0], slots=2) is None


def test_calibrated_steps_foretell_until_a_run_of_the_kind_is_finished(plan: Plan) -> None:
    run, other = plan.runs[0], plan.runs[1]
    assert (run.point.model, run.point.algorithm) == (other.point.model, other.point.algorithm)
    given = replace(Sizer(plan, [here("here")], []).size(run), calibrated=calibrated(8.0))
    forecast = Forecast([])
    forecast.allot(run, given)
    assert forecast.seconds(run) == pytest.approx(64 / 8)
    forecast.learn(other, 5.0)
    assert forecast.seconds(run) == pytest.approx(5.0)


def test_what_is_trained_is_foretold_as_probes_alone(plan: Plan) -> None:
    run, other = plan.runs[:2]
    forecast = Forecast([])
    forecast.learn(other, 10.0)
    assert forecast.seconds(run) == pytest.approx(10.0)
    assert forecast.seconds(run, probes_only=True) is None  # no probe was timed yet
    forecast.learn(other, 3.0, probes_only=True)
    assert forecast.seconds(run, probes_only=True) == pytest.approx(3.0)


def test_slots_share_what_is_left_and_the_longest_run_bounds_it() -> None:
    forecast = Forecast([])
    eta = forecast.eta([10.0] * 6, slots=2)
    assert eta is not None
    assert (eta.seconds, eta.spread) == (30.0, None)
    alone = forecast.eta([100.0, 1.0, 1.0], slots=2)
    assert alone is not None
    assert alone.seconds == 100.0
    over = forecast.eta([], slots=2)
    assert over is not None
    assert over.seconds == 0.0


def test_the_spread_is_the_scatter_of_earlier_forecasts(plan: Plan) -> None:
    generator = np.random.default_rng(0)
    forecast, scatter = Forecast([plan.runs[0].measured(10.0)]), 0.2
    for _ in range(50):
        forecast.learn(plan.runs[1], 10.0 * math.exp(generator.normal(0, scatter)))
    eta = forecast.eta([100.0], slots=1)
    assert eta is not None
    assert eta.spread is not None
    # The mean that foretells is itself of up to 50 values: the scatter of 50 draws is within a third of the true one.
    assert eta.spread == pytest.approx(100 * math.expm1(scatter), rel=0.34)
