"""What a run reads: images of a direct source where they lie, and repeated sets from the YAML to the table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from scaling import checkpoint, reading
from scaling.config import load
from scaling.data.phantoms import Phantoms
from scaling.data.rows import Rows
from scaling.data.source import Images, Source
from scaling.data.store import Store
from scaling.errors import RunFailed
from scaling.plan import Plan, make_plan, source_of
from scaling.planned import Job, PlannedRun
from scaling.reading import Data
from scaling.report import observations
from scaling.rundir import write_json
from scaling.trajectories import trajectories
from scaling.worker import attempt
from tests.scaling.stores import write_example

SWEEP = """\
name: repeated
question: Does an image that is seen again count once?
grid: {model: [vit_atto], algorithm: [mae], n_images: [96], mixture: [half], seed: [0]}
baselines: []
mixtures:
  half: {weights: {ct: 1, mr: 1}, repeat: true}
data: {source: phantoms, image_size: 32, pool_size: 120, n_train: 32, n_val: 32, n_test: 32}
encoder: {patch_size: 8}
pretrain: {images_seen: 192, batch_size: 16, precision: fp32, checkpoint_minutes: 0.0001}
probe: {bootstrap: 20, linear: {n_c: 2}}
"""
Made = Callable[..., tuple[Plan, PlannedRun, Job]]


class Direct(Phantoms):
    """A source that pretends to be mapped."""

    direct, version = True, "1"

    def places(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Backwards, so that they are no positions of the pool."""
        return len(self.pool().keys) - 1 - indices

    def take(self, places: NDArray[np.int64]) -> Images:
        return self.read(len(self.pool().keys) - 1 - places)


@pytest.fixture
def made(sweep_file: Callable[..., Path]) -> Made:
    """The plan of a sweep of one run, ready for an attempt by `mine`."""

    def make(*replacements: tuple[str, str], text: str = SWEEP) -> tuple[Plan, PlannedRun, Job]:
        sweep, document = load(sweep_file(*replacements, text=text))
        plan = make_plan(sweep, document, source_of(sweep.data))
        run = plan.runs[0]
        job = plan.job(run).model_copy(update={"use_gpu": False})
        run.dir.path.mkdir(parents=True, exist_ok=True)
        write_json(run.dir.path / "job.json", job.model_dump(mode="json"))
        run.dir.lease("mine")
        return plan, run, job

    return make


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> list[Direct]:
    """The sources that runs open, all of them direct."""
    opened: list[Direct] = []

    def open_direct(options: object) -> Source:
        opened.append(Direct(options))  # type: ignore[arg-type]
        return opened[-1]

    monkeypatch.setattr(reading, "source_of", open_direct)
    return opened


# --- repeats ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_thread")
def test_a_repeated_set_goes_from_the_yaml_to_the_table(made: Made) -> None:
    plan, run, _ = made()
    unique = run.n_unique_by_modality
    assert run.n_by_modality == {"ct": 48, "mr": 48}
    assert sum(unique.values()) < 96
    assert attempt(run.dir.path, "mine") == 0
    (row,) = observations(plan).drop_duplicates("run").to_dict("records")
    assert (row["n_images"], row["n_images_asked"], row["images_seen"]) == (sum(unique.values()), 96, 192)
    assert row["shares"] == "ct=0.5;mr=0.5"
    epochs = dict(part.split("=") for part in row["epochs"].split(";"))
    assert {name: float(n) for name, n in epochs.items()} == pytest.approx({m: 96 / n for m, n in unique.items()})
    assert set(trajectories(plan)["n_images"]) == {sum(unique.values())}


def test_the_unique_images_are_stored_once_with_their_copies(made: Made) -> None:
    _, run, job = made()
    data = Data(job, lambda: None)
    images, copies = data.images(), data.copies()
    assert copies is not None
    assert len(images) == len(copies) == run.spec.n_unique
    assert copies.sum() == 96
    again = Data(job, lambda: pytest.fail("read again")).copies()
    np.testing.assert_array_equal(again, copies)


@pytest.mark.usefixtures("one_thread")
def test_a_run_on_repeats_is_resumed_bit_for_bit(made: Made) -> None:
    _, run, _ = made()
    assert attempt(run.dir.path, "mine") == 0
    whole = checkpoint.load(run.dir.path / "encoder.pt", "cpu")  # type: ignore[arg-type]
    for name in ("result.json", "encoder.pt"):
        (run.dir.path / name).unlink()

    class Cut(RuntimeError):
        pass

    def cut(step: int) -> None:
        if step == 5:
            raise Cut

    run.dir.lease("second")
    assert attempt(run.dir.path, "second", cut) != 0
    assert (run.dir.path / "checkpoint.pt").exists()
    run.dir.lease("third")
    assert attempt(run.dir.path, "third") == 0
    resumed = checkpoint.load(run.dir.path / "encoder.pt", "cpu")  # type: ignore[arg-type]
    assert whole is not None
    assert resumed is not None
    assert all((whole[name] == resumed[name]).all() for name in whole)


def test_a_set_without_repeats_has_no_copies(made: Made) -> None:
    _, run, job = made(("n_images: [96]", "n_images: [8]"))
    assert run.spec.repeated_from == 0
    assert Data(job, lambda: None).copies() is None


# --- direct sources ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_thread")
def test_a_direct_source_trains_to_the_same_bits_and_is_not_copied(made: Made, direct: list[Direct]) -> None:
    _, run, job = made()
    assert attempt(run.dir.path, "mine") == 0
    kept = checkpoint.load(run.dir.path / "encoder.pt", "cpu")  # type: ignore[arg-type]
    cache = Path(job.cache)
    assert not list(cache.glob("images-*"))
    assert len(list(cache.glob("places-*"))) == 1
    for name in ("result.json", "encoder.pt"):
        (run.dir.path / name).unlink()
    for source in direct:
        type(source).direct = False
    try:
        run.dir.lease("second")
        assert attempt(run.dir.path, "second") == 0
    finally:
        Direct.direct = True
    assert list(cache.glob("images-*"))
    copied = checkpoint.load(run.dir.path / "encoder.pt", "cpu")  # type: ignore[arg-type]
    assert kept is not None
    assert copied is not None
    assert all((kept[name] == copied[name]).all() for name in kept)


STORED = """\
name: stored
question: Is a store read where it lies?
grid: {{model: [vit_atto], algorithm: [{algorithm}], n_images: [200], mixture: [even], seed: [0]}}
baselines: []
mixtures:
  even: {{temperature: 3, repeat: true}}
data: {{source: store, path: {store}, image_size: 28, channels: 1}}
encoder: {{patch_size: 7}}
pretrain: {{images_seen: 208, batch_size: 16, precision: fp32}}
probe: {{bootstrap: 20, tasks: [side], linear: {{n_c: 2}}}}
"""


@pytest.mark.parametrize("algorithm", ["mae", "supervised"])
@pytest.mark.usefixtures("one_thread")
def test_a_store_trains_to_the_bits_of_its_copied_images(
    algorithm: str, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = STORED.format(algorithm=algorithm, store=write_example(tmp_path / "store"))
    _, run, job = made(text=text)
    assert run.spec.repeated_from
    assert attempt(run.dir.path, "mine") == 0
    kept = checkpoint.load(run.dir.path / "encoder.pt", "cpu")  # type: ignore[arg-type]
    assert not list(Path(job.cache).glob("images-*"))
    for name in ("result.json", "encoder.pt"):
        (run.dir.path / name).unlink()
    monkeypatch.setattr(reading, "is_direct", lambda source: False)
    run.dir.lease("second")
    assert attempt(run.dir.path, "second") == 0
    copied = checkpoint.load(run.dir.path / "encoder.pt", "cpu")  # type: ignore[arg-type]
    assert list(Path(job.cache).glob("images-*"))
    assert kept is not None
    assert copied is not None
    assert all((kept[name] == copied[name]).all() for name in kept)


def test_places_once_known_take_no_pool(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, job = made(text=STORED.format(algorithm="mae", store=write_example(tmp_path / "store")))
    first, rows = Data(job, lambda: None).images(), np.arange(20)
    monkeypatch.setattr(Store, "pool", lambda self: pytest.fail("asked for the pool"))
    again = Data(job, lambda: None).images()
    np.testing.assert_array_equal(first[rows], again[rows])


def test_places_of_another_version_are_looked_up_anew(made: Made, direct: list[Direct]) -> None:
    _, _, job = made()
    first = Data(job, lambda: None).images()
    assert isinstance(first, Rows)
    direct[0].version = "2"
    Data(job, lambda: None).images()
    assert len(list(Path(job.cache).glob("places-*"))) == 1  # the second source is of version 1 again
    data = Data(job, lambda: None)
    data.source.version = "2"  # type: ignore[attr-defined]
    data.images()
    assert len(list(Path(job.cache).glob("places-*"))) == 2


@pytest.mark.usefixtures("direct")
def test_a_direct_source_that_changed_fails_the_run(made: Made) -> None:
    _, _, job = made()
    changed = job.model_copy(update={"spec": job.spec.model_copy(update={"data_identity": "0" * 64})})
    with pytest.raises(RunFailed, match="the source's images changed since the plan was made"):
        Data(changed, lambda: None).images()
