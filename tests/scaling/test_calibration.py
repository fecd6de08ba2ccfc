"""Measurements of memory and speed: what they are filed under, how they are kept, that they measure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scaling.calibrate import measure
from scaling.calibration import Calibration, image_bytes, load_calibrations, save, shape_key
from scaling.catalog import ALGORITHMS, MODELS
from scaling.data import feed
from scaling.errors import RunFailed
from scaling.failures import EXIT_DONE
from scaling.grid import RunSpec
from scaling.options import LearningRate
from scaling.parallel import Part
from scaling.planned import Job
from scaling.probe_options import KnnOptions, LinearOptions
from scaling.probing import Probe
from scaling.source_options import PhantomsOptions


@pytest.fixture(autouse=True)
def _same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def spec_of(algorithm: str = "mae", options: dict[str, Any] | None = None, **changed: Any) -> RunSpec:
    size = MODELS["vit_atto"]
    values: dict[str, Any] = {
        "model": "vit_atto",
        "algorithm": algorithm,
        "mixture": "all",
        "n_images": 100,
        "seed": 0,
        "width": size.width,
        "depth": size.depth,
        "heads": size.heads,
        "image_size": 32,
        "channels": 1,
        "patch_size": 8,
        "options": ALGORITHMS[algorithm].options(**(options or {})),
        "images_seen": 1000,
        "batch_size": 16,
        "precision": "fp32",
        "data_identity": "0" * 64,
        **changed,
    }
    return RunSpec(**values)


def job_of(spec: RunSpec, tmp_path: Path, n_micro: int = 1, *, recomputed: bool = False) -> Job:
    return Job(
        spec=spec,
        data=PhantomsOptions(source="phantoms"),
        mixture="natural",
        tasks={},
        probe=Probe(linear=LinearOptions(), knn=KnnOptions()),
        cache=str(tmp_path / "cache"),
        checkpoint_minutes=10.0,
        use_gpu=False,
        cpus=1,
        n_micro=n_micro,
        recomputed=recomputed,
    )


def calibration(**changed: Any) -> Calibration:
    values: dict[str, Any] = {
        "device": "NVIDIA H100 80GB HBM3",
        "device_memory_bytes": 80 * 2**30,
        "shape_key": "0123456789ab",
        "model": "vit_atto",
        "algorithm": "mae",
        "batch_size": 16,
        "n_micro": 1,
        "precision": "bf16",
        "memory_bytes": 2**30,
        "host_memory_bytes": 2**31,
        "images_per_second": 1234.5,
        "seconds": 3.0,
        **changed,
    }
    return Calibration(**values)


# --- the key ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        spec_of(seed=7),
        spec_of(n_images=5, mixture="ct", data_identity="1" * 64),
        spec_of(images_seen=5),
        spec_of(options={"lr": LearningRate(base=1.0), "weight_decay": 0.0, "warmup": 0.5}),
        spec_of(model="vit_of_the_same_size"),
    ],
    ids=["seed", "images", "length", "recipe", "name"],
)
def test_what_changes_neither_memory_nor_speed_shares_a_measurement(other: RunSpec) -> None:
    assert shape_key(other, 1) == shape_key(spec_of(), 1)


CHANGED = [
    *({field: 64} for field in ("width", "depth", "heads", "image_size", "batch_size")),
    {"channels": 3},
    {"patch_size": 4},
    {"precision": "bf16"},
    {"options": {"mask_ratio": 0.5}},
    {"options": {"decoder": "paper"}},
    {"options": {"drop_path": 0.1}},
    {"algorithm": "dinov2"},
]


@pytest.mark.parametrize("changed", CHANGED, ids=str)
def test_what_decides_memory_or_speed_is_measured_on_its_own(changed: dict[str, Any]) -> None:
    assert shape_key(spec_of(**changed), 1) != shape_key(spec_of(), 1)


def test_micro_batches_are_measured_on_their_own() -> None:
    assert len({shape_key(spec_of(), n_micro) for n_micro in (1, 2, 4)}) == 3


def test_activations_computed_anew_are_measured_on_their_own() -> None:
    assert shape_key(spec_of(), 1, recomputed=True) != shape_key(spec_of(), 1)


# --- the store --------------------------------------------------------------------------------------------------


def test_measurements_come_back_as_they_were_saved(tmp_path: Path) -> None:
    mine = [calibration(), calibration(shape_key="f" * 12), calibration(device="cpu: x86_64, 2 threads")]
    for one in mine:
        save(tmp_path, one)
    found = load_calibrations(tmp_path)
    assert len(found) == 3
    assert all(one in found for one in mine)
    assert (tmp_path / "calibration" / "nvidia-h100-80gb-hbm3" / "0123456789ab.json").exists()


def test_the_newest_measurement_of_a_shape_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    save(tmp_path, calibration())
    save(tmp_path, calibration(memory_bytes=5))
    assert [one.memory_bytes for one in load_calibrations(tmp_path)] == [5]


def test_measurements_of_another_version_are_left_out(tmp_path: Path) -> None:
    path = save(tmp_path, calibration())
    (path.parent / "other.json").write_text(json.dumps({"device": "x", "memory": 3}))
    assert load_calibrations(tmp_path) == [calibration()]


def test_no_measurement_is_no_error(tmp_path: Path) -> None:
    assert load_calibrations(tmp_path) == []


def test_a_runs_own_images_come_on_top() -> None:
    spec = spec_of(n_images=1000, channels=3)
    assert image_bytes(spec) == 1000 * 3 * 32 * 32
    assert calibration().gpu_bytes(spec) == 2**30 + image_bytes(spec)
    assert calibration().host_bytes(spec) == 2**31 + image_bytes(spec)


@pytest.mark.parametrize(("share", "resident"), [(0.41, False), (0.39, True)])
def test_images_are_counted_where_the_feed_has_them(
    share: float, resident: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(n_images=1000, batch_size=16)
    images = np.zeros((1000, 1, 32, 32), np.uint8)
    memory = int(images.nbytes / share)
    monkeypatch.setattr(feed, "_free_bytes", lambda device: memory)
    made = feed.feed_of(images, [Part.of(16, 0, 1)], torch.device("cpu"))
    assert isinstance(made, feed.Resident) == resident
    assert image_bytes(spec, memory) == (1000 if resident else 2 * 16) * 32 * 32
    assert calibration(device_memory_bytes=memory).gpu_bytes(spec) == 2**30 + image_bytes(spec, memory)
    assert calibration(device_memory_bytes=2 * memory).gpu_bytes(spec, 0.5) == 2**30 + image_bytes(spec, memory)


# --- measuring --------------------------------------------------------------------------------------------------


def test_a_measurement_is_filed_under_the_shape_of_its_job(tmp_path: Path) -> None:
    spec = spec_of(images_seen=16)  # a run of one step is measured over as many as any other
    measured = measure(job_of(spec, tmp_path, n_micro=2), torch.device("cpu"), steps=2)
    assert measured.shape_key == shape_key(spec, 2)
    assert (measured.model, measured.algorithm, measured.batch_size, measured.n_micro) == ("vit_atto", "mae", 16, 2)
    assert measured.device.startswith("cpu: ")
    assert measured.precision == "fp32"
    assert measured.images_per_second > 0
    assert measured.seconds > 0
    assert 50 * 2**20 < measured.host_memory_bytes < measured.device_memory_bytes  # torch alone takes more than 50 MiB


def test_a_baseline_has_nothing_to_measure(tmp_path: Path) -> None:
    spec = spec_of("random", images_seen=0, n_images=0)
    with pytest.raises(RunFailed, match="'random' trains nothing"):
        measure(job_of(spec, tmp_path), torch.device("cpu"))


@pytest.mark.slow
def test_a_larger_batch_is_measured_to_take_more_memory_micro_batches_and_activations_made_anew_less(
    tmp_path: Path,
) -> None:
    import subprocess
    import sys

    from scaling.rundir import RunDir, write_json

    took = []
    for name, batch_size, n_micro in (("small", 16, 1), ("large", 1024, 1), ("micro", 1024, 16), ("anew", 1024, 1)):
        job = job_of(spec_of(batch_size=batch_size), tmp_path / name, n_micro, recomputed=name == "anew")
        run_dir = RunDir(tmp_path / name / "job")
        run_dir.lease("mine")
        write_json(run_dir.path / "job.json", job.model_dump(mode="json"))
        command = [sys.executable, "-m", "scaling.worker", str(run_dir.path), "mine", "--calibrate"]
        done = subprocess.run(command, cwd=Path(__file__).resolve().parents[2], timeout=120)
        assert done.returncode == EXIT_DONE, run_dir.log_tail()
        (measured,) = load_calibrations(tmp_path / name)
        took.append(measured.memory_bytes)
    small, large, micro, anew = took
    # Activations of 1024 images, 17 tokens of 48 values in some 30 tensors a block and four blocks: about 400 MB.
    assert large > small + 50 * 2**20
    assert micro < large - 50 * 2**20
    # Blocks keep 16 values a token and width: 42 MB in the encoder, 2 x 36 MB in the decoder. All but the inputs and
    # one block's are spared, 70 MB, of which the peak, elsewhere in the step, shows the better half.
    assert anew < large - 20 * 2**20


@pytest.mark.gpu
def test_on_a_gpu_a_measurement_counts_what_torch_reserves(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    measured = measure(job_of(spec_of(), tmp_path), torch.device("cuda", 0), steps=2)
    assert measured.device == torch.cuda.get_device_name(0)
    assert 600 * 2**20 < measured.memory_bytes < measured.device_memory_bytes
