"""A run is followed on validation images, at a price that is known, without being touched."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scaling.attempt import Attempt
from scaling.data.source import Split, Task, TaskInfo, TaskKind
from scaling.errors import SpecError
from scaling.execution import OnlineProbe
from scaling.parallel import Member
from scaling.plan import Plan
from scaling.planned import Job
from scaling.probes.online import FEWEST, MOST, Online, Portion, portion
from scaling.rundir import RunDir, write_json
from scaling.worker import execute

CPU = torch.device("cpu")


def info(name: str, modality: str = "ct", kind: TaskKind = "binary", n_classes: int = 2) -> TaskInfo:
    return TaskInfo(name=name, modality=modality, kind=kind, n_classes=n_classes, identity="0")


TASKS = [info("lesion"), info("organ"), info("film", "xray")]


# --- on what, and how often -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("affordable", "names", "points", "n_images"),
    [
        (10**6, ["lesion", "film"], 10, MOST),  # of different modalities
        (2 * 10 * 500, ["lesion", "film"], 10, 500),
        (2 * 10 * FEWEST - 1, ["lesion"], 10, 479),
        (5 * FEWEST, ["lesion"], 5, FEWEST),
    ],
)
def test_auto_takes_what_the_training_can_afford(affordable: int, names: list[str], points: int, n_images: int) -> None:
    chosen = portion(OnlineProbe(), TASKS, affordable)
    assert chosen is not None
    assert ([task.name for task in chosen.tasks], chosen.points, chosen.n_images) == (names, points, n_images)
    assert len(names) * points * n_images <= affordable


@pytest.mark.parametrize(("tasks", "affordable"), [("auto", 4 * FEWEST - 1), ("none", 10**6)])
def test_a_run_too_short_for_it_or_told_so_is_not_followed(tasks: str, affordable: int) -> None:
    assert portion(OnlineProbe.model_validate({"tasks": tasks}), TASKS, affordable) is None


def test_named_tasks_are_followed_whatever_it_costs() -> None:
    chosen = portion(OnlineProbe(tasks=["organ", "film"], points=20), TASKS, 0)
    assert chosen is not None
    assert ([task.name for task in chosen.tasks], chosen.points, chosen.n_images) == (["organ", "film"], 20, FEWEST)


def test_a_name_that_is_no_task_of_the_sweep_is_refused(plan_of: Callable[..., Plan]) -> None:
    wrong = ("precision: fp32", "precision: fp32, online_probe: {tasks: [ct_lesion, ct_lesoin]}")
    with pytest.raises(SpecError, match=r"pretrain.online_probe.tasks\[1\]: unknown task 'ct_lesoin'; did you mean"):
        plan_of(wrong)


# --- what it reads ----------------------------------------------------------------------------------------------


class Brightness(nn.Module):
    """Two tokens of one feature each: an image's mean, and noise of its own that carries nothing."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean(dim=(1, 2, 3))
        return torch.stack([mean, images[:, 0, 0, 0]], dim=1)[..., None]


def task_of(n: int, *, informative: bool = True) -> Task:
    """Class 1 is brighter; the test split's images are missing, so that reading them would fail."""
    rng = np.random.default_rng(0)

    def split() -> Split:
        labels = rng.integers(0, 2, n)
        images = rng.integers(0, 100, (n, 1, 4, 4)) + (100 * labels * informative)[:, None, None, None]
        return Split(images=images.astype(np.uint8), labels=labels)

    none = Split(images=np.empty((0, 1, 4, 4), np.uint8), labels=np.empty(0, np.int64))
    return Task(info=info("t"), train=split(), val=split(), test=none)


def follow(task: Task, n_images: int = 600) -> dict[str, float]:
    online = Online(Portion(tasks=[task.info], points=3, n_images=n_images), lambda _: task, CPU, 64)
    return online(Brightness(), contextlib.nullcontext)


def test_what_the_features_tell_is_read_from_validation_images() -> None:
    assert follow(task_of(500)) == {"probe_auc/t": 1.0}


def test_labels_the_features_know_nothing_of_give_chance() -> None:
    found = follow(task_of(500, informative=False))["probe_auc/t"]
    assert found == pytest.approx(0.5, abs=0.12)  # 3 standard errors of 200 images, and the best of the penalties


def test_of_a_large_task_a_fixed_part_is_held() -> None:
    task = task_of(500)
    online = Online(Portion(tasks=[task.info], points=3, n_images=300), lambda _: task, CPU, 64)
    (held,) = online.followed
    assert (len(held.train.labels), len(held.val.labels)) == (200, 100)


def test_a_split_without_a_class_gives_no_value() -> None:
    task = task_of(100)
    one_sided = Split(images=task.val.images, labels=np.ones_like(task.val.labels))
    assert follow(Task(info=task.info, train=task.train, val=one_sided, test=task.test)) == {}


# --- in a run ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["mae", "dinov2"])
def test_a_run_is_followed_to_its_end_without_a_bit_changed_and_through_an_interruption(
    algorithm: str, plan_of: Callable[..., Plan], tmp_path: Path
) -> None:
    followed = ("precision: fp32", "precision: fp32, online_probe: {tasks: [smear_cells, ct_lesion], points: 3}")
    plan = plan_of(("images_seen: 64", "images_seen: 192"), followed)
    run = next(r for r in plan.runs if r.point.algorithm == algorithm and r.point.n_images == 32)

    def carry_out(name: str, stop_at: int = 0, **changed: object) -> RunDir:
        """With a checkpoint after every step."""
        run_dir = RunDir(tmp_path / name)
        run_dir.path.mkdir(exist_ok=True)
        settings = {"use_gpu": False, "checkpoint_minutes": 0.0, **changed}
        write_json(run_dir.path / "job.json", job.model_copy(update=settings).model_dump(mode="json"))
        run_dir.lease("mine")

        def on_step(step: int) -> None:
            if step == stop_at:
                raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt):
            execute(Attempt(run_dir.path, "mine"), Member(), on_step)
        return run_dir

    job: Job = plan.job(run)
    whole = carry_out("whole")
    carry_out("parts", stop_at=9)
    parts, alone = carry_out("parts"), carry_out("alone", online=OnlineProbe(tasks="none"))

    def curve(run_dir: RunDir) -> list[tuple[int, float, float]]:
        lines = [line for line in run_dir.metrics() if "probe_auc/ct_lesion" in line]
        return [(line["step"], line["probe_auc/ct_lesion"], line["probe_auc/smear_cells"]) for line in lines]

    assert [step for step, *_ in curve(whole)] == [4, 8, 12]
    assert curve(parts) == curve(whole)
    assert curve(alone) == []
    encoders = {(run_dir.path / "encoder.pt").read_bytes() for run_dir in (whole, parts, alone)}
    assert len(encoders) == 1
