"""Labels of pretraining images: what a spec says of them, and what a run reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scaling.data.labels import label_rows, label_set
from scaling.data.phantoms import Phantoms
from scaling.data.source import Labels, TaskInfo, TaskKind
from scaling.errors import RunFailed
from scaling.plan import Plan
from scaling.planned import Job
from scaling.worker import Data


def info(name: str, kind: TaskKind, n_classes: int) -> TaskInfo:
    return TaskInfo(name=name, modality="ct", kind=kind, n_classes=n_classes, identity=name)


TASKS = (info("unused", "binary", 2), info("grade", "ordinal", 4), info("signs", "multi-label", 3))


def labels(task: list[int], values: list[list[int]]) -> Labels:
    return Labels(tasks=TASKS, task=np.array(task), values=np.array(values))


SOME = labels([2, -1, 1], [[1, 0, 1], [0, 0, 0], [3, 0, 0]])


def test_there_is_a_head_for_each_task_that_has_a_label() -> None:
    found = label_set(SOME)
    assert found is not None
    assert [(head.task, head.kind, head.n_classes, head.n_label_values) for head in found.heads] == [
        ("grade", "ordinal", 4, 1),
        ("signs", "multi-label", 3, 3),
    ]


def test_a_row_is_an_images_head_and_its_label() -> None:
    assert label_rows(SOME).tolist() == [[1, 1, 0, 1], [-1, 0, 0, 0], [0, 3, 0, 0]]


def test_images_without_any_label_have_no_set() -> None:
    assert label_set(labels([-1, -1], [[0], [0]])) is None


@pytest.mark.parametrize(
    "other",
    [
        labels([2, -1, 1], [[1, 1, 1], [0, 0, 0], [3, 0, 0]]),
        labels([2, -1, 1], [[1, 0, 1], [0, 0, 0], [2, 0, 0]]),
        labels([2, 2, 1], [[1, 0, 1], [0, 0, 0], [3, 0, 0]]),
        labels([1, -1, 2], [[3, 0, 0], [0, 0, 0], [1, 0, 1]]),
    ],
    ids=["a sign", "a class", "one more label", "the order"],
)
def test_any_change_of_a_label_changes_the_identity(other: Labels) -> None:
    one, two = label_set(SOME), label_set(other)
    assert one is not None
    assert two is not None
    assert one.heads == two.heads
    assert one.identity != two.identity


# --- what a run reads -------------------------------------------------------------------------------------------


@pytest.fixture
def job(plan_of: Callable[..., Plan], tmp_path: Path) -> Job:
    plan = plan_of(
        ("algorithm: [mae, dinov2]", "algorithm: [supervised]"),
        ("  dinov2: {prototypes: 16, head_hidden: 16, head_bottleneck: 8, n_local: 1}\n", "  supervised: {}\n"),
    )
    return plan.job(plan.runs[0])


def read(job: Job) -> np.ndarray:
    rows = Data(job, lambda: None).labels()
    assert rows is not None
    return rows


def test_a_run_reads_the_labels_of_its_images_in_their_order(job: Job) -> None:
    rows, spec = read(job), job.spec
    assert len(rows) == spec.n_images == len(Data(job, lambda: None).images())
    assert set(rows[:, 0].tolist()) - {-1} == set(range(len(spec.options.labels.heads)))  # type: ignore[attr-defined]
    np.testing.assert_array_equal(read(job), rows)  # now from the cache


def test_an_algorithm_without_labels_reads_none(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of()
    assert Data(plan.job(plan.runs[0]), lambda: None).labels() is None


def test_labels_that_changed_since_the_plan_are_refused(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Phantoms.labels

    def relabelled(source: Phantoms, indices: np.ndarray) -> Labels:
        known = before(source, indices)
        return Labels(tasks=known.tasks, task=known.task, values=1 - known.values)

    monkeypatch.setattr(Phantoms, "labels", relabelled)
    with pytest.raises(RunFailed, match="the images' labels changed since the plan was made; run the sweep again"):
        read(job)
