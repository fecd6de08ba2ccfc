"""Collapse is seen where it was planted and nowhere else, and looking changes nothing."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scaling import health, train
from scaling.attempt import Attempt
from scaling.cost import shape_of
from scaling.data.source import Images
from scaling.grid import RunSpec
from scaling.health import Reading, Watch, at_rest, due, feature_std, rankme, reasons, verdict
from scaling.models.vit import Encoder
from scaling.options import LearningRate
from scaling.rundir import RunDir
from scaling.train import Trained, pretrain
from tests.scaling.tiny import N_STEPS, tiny_spec

CPU = torch.device("cpu")
INITIAL = Reading(step=0, feature_std=0.5, rankme=6.0)
HEALTHY, FLAT = {"feature_std": 0.3, "rankme": 4.0}, {"feature_std": 0.001, "rankme": 1.02}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def images() -> Images:
    return np.random.default_rng(0).integers(0, 256, (20, 1, 16, 16), dtype=np.uint8)


@pytest.fixture
def run(tmp_path: Path, images: Images) -> Callable[..., tuple[Trained, RunDir]]:
    """Trains in a directory of that name, as an attempt of its own."""

    def make(spec: RunSpec, name: str = "run", **more: Any) -> tuple[Trained, RunDir]:
        run_dir = RunDir(tmp_path / name)
        run_dir.lease("mine")
        attempt = Attempt(run_dir.path, "mine")
        return pretrain(spec, images, attempt, device=CPU, checkpoint_minutes=0.0, **more), run_dir

    return make


# --- what is measured -------------------------------------------------------------------------------------------


def test_the_deviation_of_features_without_a_common_direction_is_one() -> None:
    features = torch.randn(4000, 32, generator=torch.Generator().manual_seed(0))
    assert feature_std(features) == pytest.approx(1, abs=0.02)  # 1/sqrt(2 n) for each feature


def test_the_deviation_of_one_direction_is_nought_whatever_its_length() -> None:
    features = torch.ones(50, 1) * torch.randn(8, generator=torch.Generator().manual_seed(0))
    assert feature_std(features * torch.arange(1, 51)[:, None]) < 1e-6  # fp32


@pytest.mark.parametrize(("n", "d"), [(40, 12), (12, 40)])
@pytest.mark.parametrize("rank", [1, 3, 12])
def test_rankme_is_the_number_of_equal_singular_values(n: int, d: int, rank: int) -> None:
    generator = torch.Generator().manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(n, rank, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(d, rank, generator=generator, dtype=torch.float64))
    assert rankme(7 * left @ right.T) == pytest.approx(rank, rel=1e-6)


def test_rankme_of_unequal_singular_values_is_the_papers() -> None:
    shares = np.array([0.5, 0.3, 0.2])
    assert rankme(torch.diag(torch.tensor(shares))) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_what_cannot_be_measured_is_left_out_of_the_line_and_is_no_collapse(value: float) -> None:
    features = torch.full((5, 3), value)
    reading = Reading(step=3, feature_std=math.nan, rankme=rankme(features))
    assert reading.line() == {}
    assert reasons(reading, INITIAL) == []


# --- the verdict ------------------------------------------------------------------------------------------------


def readings(flat: set[int], n: int = 20, **other: float) -> list[Reading]:
    """One after each of `n` equal parts of a run of 100 steps; those of the parts in `flat` are bad."""
    bad = other or FLAT
    return [Reading(step=100 * i // n, **{**HEALTHY, **(bad if i in flat else {})}) for i in range(1, n + 1)]


def first(found: list[Reading]) -> int | None:
    """The step at which the run is called collapsed."""
    ends = [known.step for i, known in enumerate(found) if verdict(found[: i + 1], INITIAL, 100)]
    return ends[0] if ends else None


@pytest.mark.parametrize(
    ("flat", "step"),
    [
        (set(), None),
        (set(range(1, 21)), 50),  # from the start on: not before half the run
        (set(range(1, 10)), None),  # a slow start that recovers
        (set(range(11, 21)), 80),  # of the last 30 % every one
        (set(range(11, 21)) - {14}, 100),  # once healthy: the clock starts anew
        (set(range(16, 21)), None),  # too late to be sure
    ],
)
def test_a_run_is_called_collapsed_once_it_was_flat_for_long_enough(flat: set[int], step: int | None) -> None:
    assert first(readings(flat)) == step


def test_of_few_measurements_two_are_wanted() -> None:
    assert first(readings({3, 4, 5}, n=5)) == 80
    assert first(readings({5}, n=5)) is None


@pytest.mark.parametrize("bad", [{"teacher_entropy": 1.0}, {"teacher_entropy": 0.0}, {"rankme": 1.01}])
def test_any_of_the_signs_is_enough(bad: dict[str, float]) -> None:
    assert first(readings(set(range(11, 21)), **bad)) == 80


@pytest.mark.parametrize("fine", [{"teacher_entropy": 0.99}, {"teacher_entropy": 0.01}, {"rankme": 2.0}])
def test_a_teacher_that_is_only_vague_or_sure_and_few_dimensions_are_no_collapse(fine: dict[str, float]) -> None:
    assert first(readings(set(range(1, 21)), **fine)) is None


def test_the_reason_names_the_values() -> None:
    said = verdict(readings(set(range(11, 21))), INITIAL, 100)
    assert "standard deviation is 0.001, below 5% of the 0.5 at initialisation" in said
    assert "RankMe is 1.02" in said
    assert "since step 75 of 100" in said


def test_measurements_are_as_many_as_wanted_and_the_last_is_at_the_end() -> None:
    for n_steps, every, points in ((1000, 10, 20), (173, 1, 5), (1999, 19, 10), (48, 1, 5), (3, 1, 5)):
        logged = [step for step in range(1, n_steps + 1) if step % every == 0 or step == n_steps]
        found = [step for step in logged if due(step, every, n_steps, points)]
        assert len(found) == min(points, len(logged)), (n_steps, every, points)
        assert found[-1] == n_steps


# --- in a run ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["mae", "dinov2"])
def test_a_healthy_run_is_done_and_its_health_logged(algorithm: str, run: Callable[..., Any]) -> None:
    trained, run_dir = run(tiny_spec(algorithm))
    assert (trained.status, trained.reason) == ("done", "")
    found = [reading for line in run_dir.metrics() if (reading := Reading.of_line(line))]
    assert [reading.step for reading in found] == [3, 5, 8, 10, 12]
    assert all(0.05 < reading.feature_std < 1.1 for reading in found)
    assert all(1 < reading.rankme <= 20 for reading in found)
    assert all((reading.teacher_entropy is not None) == (algorithm == "dinov2") for reading in found)


PLANTED = {
    "a teacher without an opinion": ("dinov2", {"teacher_temp": (1e4, 1e4)}, "the teacher's entropy is 1.0000"),
    "a learning rate that flattens": ("mae", {"lr": LearningRate(base=1.0, rule="constant")}, "standard deviation"),
}


@pytest.mark.parametrize(("algorithm", "options", "reason"), PLANTED.values(), ids=PLANTED)
def test_a_planted_collapse_ends_the_run_early_with_its_reason(
    algorithm: str, options: dict[str, Any], reason: str, run: Callable[..., Any]
) -> None:
    trained, run_dir = run(tiny_spec(algorithm, **options))
    assert trained.status == "collapsed"
    assert reason in trained.reason
    assert 6 <= trained.images_seen // 8 < N_STEPS
    assert run_dir.last_metrics()["step"] == trained.images_seen // 8


def test_a_resumed_run_remembers_what_it_measured_and_ends_where_it_would_have(run: Callable[..., Any]) -> None:
    spec = tiny_spec("dinov2", teacher_temp=(1e4, 1e4))
    whole, whole_dir = run(spec, "whole")

    def interrupt(step: int) -> None:
        if step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec, "parts", on_step=interrupt)
    parts, parts_dir = run(spec, "parts")
    assert (parts.status, parts.reason, parts.images_seen) == (whole.status, whole.reason, whole.images_seen)
    lines = [[Reading.of_line(line) for line in where.metrics()] for where in (whole_dir, parts_dir)]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("algorithm", ["mae", "dinov2"])
def test_looking_changes_no_bit_of_the_run(
    algorithm: str, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny_spec(algorithm, drop_path=0.3)
    watched, _ = run(spec, "watched")
    monkeypatch.setattr(train, "_seen_along", lambda *_: {})
    alone, alone_dir = run(spec, "alone")
    assert not any(Reading.of_line(line) for line in alone_dir.metrics())
    state = alone.module.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in watched.module.state_dict().items())


def test_a_module_at_rest_draws_nothing_and_goes_back_to_the_modes_it_was_in() -> None:
    module = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Dropout(0.5))
    module[1].eval()
    before = torch.get_rng_state()
    with at_rest(module, contextlib.nullcontext):
        assert not torch.is_grad_enabled()
        assert torch.equal(module(torch.ones(9)), torch.ones(9))
    assert [part.training for part in module] == [True, False]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_long_run_is_watched_more_closely_than_a_short_one_for_no_more_than_its_share(images: Images) -> None:
    many = np.repeat(images, 20, axis=0)
    looks = []
    for factor in (1, 10_000):
        spec = tiny_spec().model_copy(update={"images_seen": 96 * factor})
        watch = Watch(spec, Encoder(shape_of(spec)), many, CPU, contextlib.nullcontext)
        looks.append((len(watch.images), watch.points))
    assert looks == [(32, 5), (256, 20)]
    assert health.affordable(spec, health.SHARE) >= 256 * 21
