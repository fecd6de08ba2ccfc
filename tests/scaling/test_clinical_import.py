"""Clinical files through a whole import: what a store holds of patients, labels and slices."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest

from scaling.catalog import READERS
from scaling.data.store import Store
from scaling.importing.importer import import_source, surveyed
from scaling.source_options import StoreOptions
from tests.scaling.dicom_files import write

SECRETS = [b"P-4711", b"Mustermann", b"Erika", b"1.2.840.99.7"]


def scans(folder: Path) -> None:
    """Twelve patients with two CT slices each; every second one has a bright spot."""
    random = np.random.default_rng(0)
    rows = ["PatientID,spot,set"]
    for patient in range(12):
        name, ill = f"P-4711-{patient}", patient % 2
        for number in range(2):
            values = random.integers(900, 1100, (24, 24))
            values[8 : 8 + 4 * ill, 8 : 8 + 4 * ill] = 1264
            uids = {"StudyInstanceUID": f"1.2.840.99.7.{patient}", "PatientName": "Mustermann^Erika"}
            path = folder / f"{patient:02}-{number}.dcm"
            write(
                path,
                values.astype(np.int16),
                modality="CT",
                RescaleSlope=1,
                RescaleIntercept=-1024,
                PatientID=name,
                **uids,
            )
        rows.append(f"{name},{ill},{('train', 'train', 'val', 'test')[patient // 3]}")
    (folder / "labels.csv").write_text("\n".join(rows))


def imported(store: Path, name: str, options: dict[str, object]) -> None:
    checked = READERS[str(options["reader"])].options.model_validate_json(json.dumps(options))
    import_source(store, surveyed(name, checked, 16), workers=1)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for name in ("dicom", "nifti"):
        (tmp_path / name).mkdir()
    scans(tmp_path / "dicom")
    body = np.random.default_rng(1).integers(100, 900, (20, 20, 9)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(body, np.eye(4)), tmp_path / "nifti" / "sub-01_T1w.nii.gz")
    task = {"spot": {"kind": "binary", "columns": ["spot"]}}
    labels = {"file": "labels.csv", "key": "PatientID", "of": "patient", "split": "set", "tasks": task}
    imported(tmp_path / "store", "ct", {"reader": "dicom", "path": str(tmp_path / "dicom"), "labels": labels})
    imported(tmp_path / "store", "mr", {"reader": "nifti", "path": str(tmp_path / "nifti"), "stride": 2})
    return tmp_path / "store"


def test_a_store_of_scans_has_their_task_and_nothing_that_names_a_patient(store: Path) -> None:
    rows = pq.read_table(store / "ct" / "manifest.parquet").to_pylist()
    assert [row["image_id"] for row in rows] == [f"{patient:02}-{n}.dcm" for patient in range(12) for n in range(2)]
    assert [row["label.spot"] for row in rows] == [patient % 2 for patient in range(12) for _ in range(2)]
    assert len({row["group"] for row in rows}) == 12
    for path in store.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [secret for secret in SECRETS if secret in content], path.name

    source = Store(StoreOptions(source="store", path=str(store), image_size=16, contaminated="keep"))
    [task] = source.tasks()
    assert (task.name.split("/")[-1], task.kind, task.n_train, task.n_other) == ("spot", "binary", 12, 12)
    train = source.task(task.name).train
    assert {bool(image.max() == 255) for image in train.images[train.labels == 1]} == {True}
    assert {bool(image.max() == 255) for image in train.images[train.labels == 0]} == {False}
    pool = source.pool()
    assert dict(zip(*np.unique(np.array(pool.modalities)[pool.modality], return_counts=True), strict=True)) == {
        "ct": 12,
        "mr": 5,
    }
