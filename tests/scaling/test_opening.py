"""From the `data:` of a sweep to its source: roots, tasks of another source, and mistakes at their place."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from scaling.catalog import SOURCES
from scaling.cli import main
from scaling.config import load
from scaling.data.source import Source
from scaling.errors import DataMissing, SpecError
from scaling.opening import open_source
from scaling.plan import load_plan, make_plan
from scaling.source_options import TaskSource
from tests.scaling.medmnist_fakes import write_fakes
from tests.scaling.stores import write_example

SWEEP = """\
name: joined
grid: {model: vit_atto, algorithm: mae, n_images: [8, 16]}
data:
  source: npz
  image_size: 28
  channels: 3
  files: {cells.npz: {modality: microscopy, pretrain: [train]}}
  tasks_from: {source: medmnist, sets: [octmnist, retinamnist]}
pretrain: {images_seen: 32, batch_size: 8}
"""


def opened(folder: Path, text: str = SWEEP, root: Path | None = None) -> Source:
    sweep = folder / "joined.yaml"
    sweep.write_text(text)
    return open_source(*load(sweep), data_root=str(root) if root else None)[1]


def test_tasks_may_come_from_any_source() -> None:
    union, _ = get_args(TaskSource)
    assert set(get_args(union)) == {entry.options for entry in SOURCES.values()}


def test_one_source_is_pretrained_on_and_another_probed(packs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fakes(packs, ("octmnist", "retinamnist"), monkeypatch)
    source = opened(packs, root=packs)
    assert source.pool().modalities == ("microscopy",)
    assert [(info.name, info.kind) for info in source.tasks()] == [
        ("octmnist", "multi-class"),
        ("retinamnist", "ordinal"),
    ]
    assert source.task("octmnist").train.images.shape == source.read(np.arange(40)).shape  # both 40 x 3 x 28 x 28
    assert not source.synthetic


def test_its_plan_has_the_images_of_one_and_the_tasks_of_the_other(
    packs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fakes(packs, ("octmnist", "retinamnist"), monkeypatch)
    (packs / "a.yaml").write_text(SWEEP + f"root: {packs / 'state'}\n")
    sweep, document = load(packs / "a.yaml")
    sweep, source = open_source(sweep, document, data_root=str(packs))
    plan = make_plan(sweep, document, source)
    (run,) = [run for run in plan.runs if run.point.n_images == 16]
    assert run.n_by_modality == {"microscopy": 16}
    assert [info.name for info in run.tasks.values()] == ["octmnist", "retinamnist"]
    job = plan.job(run)
    again = type(job).model_validate_json(job.model_dump_json())  # as a worker reads it
    assert again.data == sweep.data
    assert again.data.tasks_from.root == str(packs)  # type: ignore[union-attr]


def test_what_is_missing_of_both_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        opened(tmp_path, root=tmp_path)
    text = str(caught.value)
    assert "joined.yaml:7: data.files.cells.npz: no file" in text
    assert "joined.yaml:8: data.tasks_from: 2 of 2 files of MedMNIST are not in" in text


def test_a_root_that_is_nowhere_said_is_data_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCALING_DATA_ROOT", raising=False)
    with pytest.raises(DataMissing, match=r"data.root: is not set; give --data-root DIR, or set \$SCALING_DATA_ROOT"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (
            "medmnist, sets",
            "mednist, sets",
            r"joined.yaml:8: data.tasks_from.source: unknown source 'mednist'; did you",
        ),
        (
            "octmnist,",
            "octmist,",
            r"joined.yaml:8: data.tasks_from.sets\[0\]: unknown set 'octmist'; did you mean 'octm",
        ),
        (
            "medmnist, sets",
            "medmnist, set",
            r"joined.yaml:8: data.tasks_from.set: unknown key 'set'; did you mean 'sets'",
        ),
        (
            "medmnist, sets",
            "medmnist, image_size: 64, sets",
            r"data: has tasks_from.image_size 64, which is not its own 28; one encoder reads both, so leave it out",
        ),
        (
            "{source: medmnist, sets: [octmnist, retinamnist]}",
            "{source: medmnist, tasks_from: {source: phantoms}}",
            "data.*: takes tasks from a source that takes them from another; name that one",
        ),
    ],
)
def test_mistakes_in_it_are_named(tmp_path: Path, old: str, new: str, text: str) -> None:
    with pytest.raises(SpecError, match=text):
        opened(tmp_path, SWEEP.replace(old, new))


STORED = """\
name: stored
grid: {model: vit_atto, algorithm: mae, n_images: [16]}
data:
  source: store
  path: STORE
  image_size: 28
  channels: 3
  tasks_from: {source: medmnist, sets: [chestmnist, retinamnist]}
pretrain: {images_seen: 32, batch_size: 8}
probe: {tasks: all, linear: {}, knn: {k: 5}, bootstrap: 10}
baselines: []
"""


def test_a_sweep_pretrains_on_a_store_and_probes_medmnist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    write_fakes(tmp_path / "data", ("chestmnist", "retinamnist"), monkeypatch)
    store = write_example(tmp_path / "store")
    sweep = tmp_path / "stored.yaml"
    sweep.write_text(STORED.replace("STORE", str(store)) + f"root: {tmp_path / 'state'}\n")
    command = ["run", str(sweep), "--data-root", str(tmp_path / "data"), "--launcher", "inline", "--tracking", "none"]
    assert main([*command, "--no-report"]) == 0
    (run,) = load_plan(tmp_path / "state", "stored").runs
    results = {(found.task, found.probe): found for key in run.tasks for found in run.dir.probes(key) or ()}
    assert {task for task, _ in results} == {"chestmnist", "retinamnist"}
    assert all(found.auc is not None and 0 <= found.auc <= 1 for found in results.values())
    assert not list((tmp_path / "state" / "cache").glob("task-*"))  # they are read where they lie
