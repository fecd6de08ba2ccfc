"""The training loop: the same bits with and without interruption, every image once an epoch, an honest end."""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import torch
from torch import Tensor

from scaling import checkpoint
from scaling import train as training_loop
from scaling.attempt import Attempt
from scaling.catalog import ALGORITHMS
from scaling.data.feed import feed_of
from scaling.data.order import batches, step_seed
from scaling.data.source import Images
from scaling.grid import RunSpec
from scaling.kernels import Kernels
from scaling.options import LearningRate
from scaling.records import BASELINES
from scaling.rundir import LeaseLost, RunDir
from scaling.train import Trained, build, pretrain
from tests.scaling.tiny import N_STEPS, tiny_spec

CPU = torch.device("cpu")
PLAIN = Kernels(precision="fp32", attention="plain")
TRAINED = [name for name in ALGORITHMS if name not in BASELINES]


class Thrown(RuntimeError):
    """What a test throws into a run."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def images() -> Images:
    return np.random.default_rng(0).integers(0, 256, (20, 1, 16, 16), dtype=np.uint8)


@pytest.fixture
def run_dir(tmp_path: Path) -> Callable[[str], RunDir]:
    def make(name: str) -> RunDir:
        (tmp_path / name).mkdir(exist_ok=True)
        return RunDir(tmp_path / name)

    return make


def train(spec: RunSpec, images: Images, run_dir: RunDir, **changed: Any) -> Trained:
    """A new attempt, which takes the run from the one before."""
    token = uuid4().hex
    run_dir.lease(token)
    numbers = np.arange(len(images))
    labels = np.column_stack([np.where(numbers % 5, 0, -1), numbers % 4]) if spec.algorithm == "supervised" else None
    settings = {"device": CPU, "checkpoint_minutes": 0.0, "labels": labels, **changed}
    return pretrain(spec, images, Attempt(run_dir.path, token), **settings)


def stop_at(step: int) -> Callable[[int], None]:
    def on_step(done: int) -> None:
        if done == step:
            raise Thrown

    return on_step


def curve(run_dir: RunDir) -> list[dict[str, float]]:
    """What was logged, without the clock's and the machine's share."""

    def same(name: str) -> bool:
        return name not in ("seconds", "time") and not name.startswith("system/")

    return [{name: value for name, value in line.items() if same(name)} for line in run_dir.metrics()]


# --- resuming ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("algorithm", TRAINED)
def test_a_run_that_was_stopped_ends_with_the_bits_of_one_that_was_not(
    algorithm: str, precision: str, images: Images, run_dir: Callable[[str], RunDir]
) -> None:
    spec = tiny_spec(algorithm, precision=precision, drop_path=0.2)
    whole, parts = run_dir("whole"), run_dir("parts")
    expected = train(spec, images, whole)
    for step in (3, 4, 9):
        with pytest.raises(Thrown):
            train(spec, images, parts, on_step=stop_at(step))
        torch.rand(7)  # whatever else this process draws is of no account
    resumed = train(spec, images, parts)
    assert [line["step"] for line in curve(parts)] == list(range(1, N_STEPS + 1))
    assert curve(parts) == curve(whole)
    assert resumed.train_loss == expected.train_loss
    assert resumed.images_seen == expected.images_seen
    state = resumed.module.state_dict()
    for name, tensor in expected.module.state_dict().items():
        assert torch.equal(state[name], tensor), name


def test_a_resumed_run_repeats_only_what_came_after_the_checkpoint(
    images: Images, run_dir: Callable[[str], RunDir]
) -> None:
    spec, where = tiny_spec("mae"), run_dir("run")
    with pytest.raises(Thrown):
        train(spec, images, where, on_step=stop_at(7))  # logged, not yet saved
    heard: list[int] = []
    train(spec, images, where, on_step=heard.append)
    assert heard == [7, 8, 9, 10, 11, 12]


def test_without_time_for_a_checkpoint_a_stopped_run_starts_again(
    images: Images, run_dir: Callable[[str], RunDir]
) -> None:
    spec, where = tiny_spec("mae"), run_dir("run")
    with pytest.raises(Thrown):
        train(spec, images, where, on_step=stop_at(7), checkpoint_minutes=60.0)
    heard: list[int] = []
    train(spec, images, where, on_step=heard.append)
    assert heard[0] == 1
    assert [line["step"] for line in curve(where)] == list(range(1, N_STEPS + 1))


def test_a_damaged_checkpoint_is_set_aside_and_the_run_starts_again(
    images: Images, run_dir: Callable[[str], RunDir], capsys: pytest.CaptureFixture[str]
) -> None:
    spec, where = tiny_spec("mae"), run_dir("run")
    with pytest.raises(Thrown):
        train(spec, images, where, on_step=stop_at(7))
    harmed = where.path / "checkpoint.pt"
    harmed.write_bytes(b"\x80\x02" + harmed.read_bytes()[100:])
    heard: list[int] = []
    train(spec, images, where, on_step=heard.append)
    assert heard[0] == 1
    assert [line["step"] for line in curve(where)] == list(range(1, N_STEPS + 1))
    assert (where.path / "checkpoint.pt.damaged").exists()
    assert f"{harmed} is damaged" in capsys.readouterr().err


def test_a_checkpoint_of_another_version_is_set_aside_and_the_run_starts_again(
    images: Images, run_dir: Callable[[str], RunDir], capsys: pytest.CaptureFixture[str]
) -> None:
    spec, where = tiny_spec("mae"), run_dir("run")
    with pytest.raises(Thrown):
        train(spec, images, where, on_step=stop_at(7))
    path = where.path / "checkpoint.pt"
    state = checkpoint.load(path, torch.device("cpu"))
    assert state is not None
    state["module"]["centre"] = state["module"].pop("decoder.mask_token")
    checkpoint.save(path, state)
    heard: list[int] = []
    train(spec, images, where, on_step=heard.append)
    assert heard[0] == 1
    assert [line["step"] for line in curve(where)] == list(range(1, N_STEPS + 1))
    assert "of another version" in capsys.readouterr().err


def test_a_checkpoint_from_before_kernels_were_chosen_goes_on_with_its_precision(
    images: Images, run_dir: Callable[[str], RunDir]
) -> None:
    spec, where = tiny_spec("mae", precision="auto"), run_dir("run")
    with pytest.raises(Thrown):
        train(spec, images, where, on_step=stop_at(7))
    path = where.path / "checkpoint.pt"
    state = checkpoint.load(path, torch.device("cpu"))
    assert state is not None
    del state["kernels"]
    checkpoint.save(path, {**state, "precision": "bf16"})
    heard: list[int] = []
    assert train(spec, images, where, on_step=heard.append).kernels.precision == "bf16"
    assert heard[0] > 1


def test_a_resumed_run_keeps_the_precision_it_began_with(
    images: Images, run_dir: Callable[[str], RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, where = tiny_spec("mae", precision="auto"), run_dir("run")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    with pytest.raises(Thrown):
        train(spec, images, where, on_step=stop_at(7))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert train(spec, images, where).kernels.precision == "bf16"


def test_a_resumed_run_keeps_the_kernels_it_began_with(images: Images, run_dir: Callable[[str], RunDir]) -> None:
    spec, whole, parts = tiny_spec("mae", precision="auto"), run_dir("whole"), run_dir("parts")
    began = Kernels(precision="bf16", attention="plain")
    train(spec, images, whole, kernels=began)
    with pytest.raises(Thrown):
        train(spec, images, parts, kernels=began, on_step=stop_at(7))
    other = Kernels(precision="fp32", attention="fused")  # what another machine would choose
    assert train(spec, images, parts, kernels=other).kernels == began
    assert curve(parts) == curve(whole)


@pytest.mark.parametrize("n_micro", [1, 3])
def test_images_read_ahead_from_a_file_give_the_bits_of_resident_ones(
    n_micro: int, images: Images, run_dir: Callable[[str], RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, share in (("resident", 1.0), ("streamed", 0.0)):
        monkeypatch.setattr(training_loop, "feed_of", functools.partial(feed_of, share=share))
        train(tiny_spec("dinov2"), images, run_dir(name), n_micro=n_micro)
    assert curve(run_dir("streamed")) == curve(run_dir("resident"))


def test_the_time_of_all_attempts_counts(images: Images, run_dir: Callable[[str], RunDir]) -> None:
    spec, where = tiny_spec("mae"), run_dir("run")
    with pytest.raises(Thrown):
        train(spec, images, where, on_step=stop_at(11))
    before = max(line["seconds"] for line in itertools.islice(where.metrics(), 10))
    assert train(spec, images, where).seconds >= before > 0


def test_gpu_seconds_count_what_each_attempt_held(images: Images, run_dir: Callable[[str], RunDir]) -> None:
    spec, where = tiny_spec("mae"), run_dir("run")
    with pytest.raises(Thrown):
        train(spec, images, where, on_step=stop_at(11), n_gpus=2.0)
    state = checkpoint.load(where.path / "checkpoint.pt", torch.device("cpu"))
    assert state is not None
    before = state["seconds"]
    trained = train(spec, images, where, n_gpus=0.5)
    assert trained.gpu_seconds == pytest.approx(2 * before + 0.5 * (trained.seconds - before))
    assert train(spec, images, run_dir("on a CPU")).gpu_seconds == 0


def test_a_checkpoint_without_gpu_seconds_counts_as_if_all_attempts_held_the_same(
    images: Images, run_dir: Callable[[str], RunDir]
) -> None:
    spec, where = tiny_spec("mae"), run_dir("run")
    with pytest.raises(Thrown):
        train(spec, images, where, on_step=stop_at(11))
    state = checkpoint.load(where.path / "checkpoint.pt", torch.device("cpu"))
    assert state is not None
    del state["gpu_seconds"]
    checkpoint.save(where.path / "checkpoint.pt", state)
    trained = train(spec, images, where, n_gpus=0.5)
    assert trained.gpu_seconds == pytest.approx(0.5 * trained.seconds)


@pytest.mark.parametrize(("checkpoint_minutes", "resumed_at"), [(0.0, 5), (60.0, 1)])
def test_a_run_that_lost_its_lease_writes_nothing_more(
    checkpoint_minutes: float, resumed_at: int, images: Images, run_dir: Callable[[str], RunDir]
) -> None:
    where = run_dir("run")

    def on_step(step: int) -> None:
        if step == 5:
            where.lease("second")

    with pytest.raises(LeaseLost):
        train(tiny_spec("mae"), images, where, on_step=on_step, checkpoint_minutes=checkpoint_minutes)
    assert [line["step"] for line in curve(where)] == [1, 2, 3, 4, 5]
    assert not list(where.path.glob(".checkpoint.pt.*"))
    heard: list[int] = []
    train(tiny_spec("mae"), images, where, on_step=heard.append)
    assert heard[0] == resumed_at  # the first attempt saved step 4 or nothing, and could not save step 5


# --- the run ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", TRAINED)
def test_another_seed_gives_another_run_and_the_same_seed_the_same(
    algorithm: str, images: Images, run_dir: Callable[[str], RunDir]
) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(tiny_spec(algorithm, seed=seed, images_seen=16), images, run_dir(name))
    assert curve(run_dir("a")) == curve(run_dir("b"))
    assert curve(run_dir("a")) != curve(run_dir("c"))


def test_the_budget_is_met_in_full_batches(images: Images, run_dir: Callable[[str], RunDir]) -> None:
    trained = train(tiny_spec("mae", images_seen=90), images, run_dir("run"))
    assert trained.images_seen == N_STEPS * 8
    assert [line["images_seen"] for line in curve(run_dir("run"))] == [8 * step for step in range(1, N_STEPS + 1)]


def test_the_loss_of_a_run_is_the_mean_over_its_last_tenth(images: Images, run_dir: Callable[[str], RunDir]) -> None:
    trained = train(tiny_spec("mae", images_seen=160), images, run_dir("run"))
    losses = [line["loss"] for line in curve(run_dir("run"))]
    assert len(losses) == 20
    assert trained.train_loss == pytest.approx(np.mean(losses[18:]), rel=1e-6)


def test_the_learning_rate_logged_is_the_recipes(images: Images, run_dir: Callable[[str], RunDir]) -> None:
    spec = tiny_spec("mae", images_seen=80, warmup=0.2, lr=LearningRate(base=1e-3, rule="constant"))
    train(spec, images, run_dir("run"))
    shares = [0.5, 1.0] + [(1 + math.cos(math.pi * step / 8)) / 2 for step in range(1, 9)]
    expected = [1e-3 * share for share in shares]
    assert [line["lr"] for line in curve(run_dir("run"))] == pytest.approx(expected, abs=1e-12)


def test_a_long_run_logs_about_a_hundred_lines_and_its_last_step(
    images: Images, run_dir: Callable[[str], RunDir]
) -> None:
    train(tiny_spec("mae", images_seen=8 * 205), images, run_dir("run"), checkpoint_minutes=60.0)
    steps = [line["step"] for line in curve(run_dir("run"))]
    assert steps == [*range(2, 205, 2), 205]


@pytest.mark.parametrize("algorithm", TRAINED)
def test_a_loss_that_is_not_finite_ends_the_run_as_diverged(
    algorithm: str, images: Images, run_dir: Callable[[str], RunDir]
) -> None:
    absurd = LearningRate(base=1e38, rule="constant")
    trained = train(tiny_spec(algorithm, lr=absurd, warmup=0.0), images, run_dir("run"))
    assert trained.status == "diverged"
    assert trained.train_loss is None
    assert trained.images_seen < N_STEPS * 8
    text = (run_dir("run").path / "metrics.jsonl").read_text()
    assert all(math.isfinite(value) for line in text.splitlines() for value in json.loads(line).values())


@pytest.mark.parametrize("algorithm", BASELINES)
def test_a_baseline_is_built_and_not_trained(algorithm: str, images: Images, run_dir: Callable[[str], RunDir]) -> None:
    trained = train(tiny_spec(algorithm), images, run_dir("run"))
    assert (trained.images_seen, trained.train_loss, trained.status) == (0, None, "done")
    assert {path.name for path in run_dir("run").path.iterdir()} == {".lock", "lease.json"}


def test_the_seed_fixes_the_initialisation() -> None:
    def weights(seed: int) -> Tensor:
        return torch.cat([p.flatten() for p in build(tiny_spec("mae", seed=seed), CPU, PLAIN).parameters()])

    first = weights(0)
    torch.rand(5)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


# --- the order of images ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_images", "batch_size"), [(12, 4), (10, 4), (7, 16), (1, 3)])
def test_every_image_is_seen_once_an_epoch(n_images: int, batch_size: int) -> None:
    epochs = 4 * batch_size
    steps = itertools.islice(batches(n_images, batch_size, 0, 0), epochs * n_images // batch_size)
    seen = torch.cat(list(steps)).reshape(epochs, n_images)
    assert torch.equal(seen.sort(dim=1).values, torch.arange(n_images).expand(epochs, -1))
    if n_images > 2:
        assert len({tuple(row) for row in seen.tolist()}) > epochs / 2  # each epoch in an order of its own


@pytest.mark.parametrize("start", [1, 2, 3, 5, 8, 13])
@pytest.mark.parametrize(("n_images", "batch_size"), [(12, 4), (10, 4), (7, 16)])
def test_the_order_goes_on_from_any_step_as_if_never_stopped(n_images: int, batch_size: int, start: int) -> None:
    whole = list(itertools.islice(batches(n_images, batch_size, 3, 0), start + 6))
    rest = list(itertools.islice(batches(n_images, batch_size, 3, start), 6))
    assert torch.equal(torch.stack(whole[start:]), torch.stack(rest))


def test_another_seed_gives_another_order() -> None:
    first, second = (next(batches(100, 100, seed, 0)) for seed in (0, 1))
    assert not torch.equal(first, second)


# --- seeds of steps ---------------------------------------------------------------------------------------------


def test_no_two_steps_of_any_runs_share_a_seed() -> None:
    steps = range(-100, 1000)  # epochs take the negative ones
    seeds = [step_seed(seed, step) for seed in (0, 1, 2, 7, 2**31 - 1) for step in steps]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_neighbouring_steps_and_runs_share_no_more_bits_than_chance() -> None:
    def distance(one: int, other: int) -> int:
        return (one ^ other).bit_count()

    steps = [distance(step_seed(0, step), step_seed(0, step + 1)) for step in range(1000)]
    runs = [distance(step_seed(seed, 5), step_seed(seed + 1, 5)) for seed in range(1000)]
    for distances in (steps, runs):
        # 63 coins: mean 31.5, deviation 4.0; the mean of 1000 within four standard errors.
        assert np.mean(distances) == pytest.approx(31.5, abs=4 * 4.0 / 1000**0.5)
