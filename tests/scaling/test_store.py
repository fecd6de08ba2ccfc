"""The store source: its pool, what it reads, which tasks it has, and what it says of a store that is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scaling.cli import main
from scaling.data.clean import cleaned
from scaling.data.rows import is_direct
from scaling.data.store import Store
from scaling.errors import DataMissing, SpecError
from scaling.sets import withheld
from scaling.source_options import StoreOptions
from scaling.store.layout import TaskCard
from scaling.store.opened import StoredImages, open_sources, resized
from scaling.store.writing import Row, write_source
from tests.scaling.stores import CELLS, SIZE, SLICES, cell_rows, pictures, plain_rows, slice_rows, write_example


def opened(path: Path, **changed: object) -> Store:
    return Store(StoreOptions.model_validate({"source": "store", "path": str(path), "image_size": SIZE, **changed}))


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_example(tmp_path_factory.mktemp("stores") / "store")


# --- the pool ----------------------------------------------------------------------------------------------------


def test_what_is_of_no_split_or_of_training_is_pretrained_on(example: Path) -> None:
    pool = opened(example, channels=3).pool()
    wanted = {
        "ct": sum(row.split in (None, "train") for row in slice_rows(120)),
        "microscopy": sum(row.split == "train" for row in cell_rows(96)),
        "xray": 50,
    }
    counts = np.bincount(pool.modality, minlength=3).tolist()
    assert dict(zip(pool.modalities, counts, strict=True)) == wanted


def test_pixels_are_those_that_were_stored(example: Path) -> None:
    store = opened(example, sources=["films"])
    images = store.read(np.arange(50))
    np.testing.assert_array_equal(images, pictures(50, seed=2))


def test_images_of_a_group_that_is_tested_on_are_left_out_and_counted(tmp_path: Path) -> None:
    """Patient 1 has a test image and two without a split; patient 2 has none to test."""
    rows = [
        Row(image_id=f"{i}", modality="ct", height=9, width=9, group=group, split=split)  # type: ignore[arg-type]
        for i, (group, split) in enumerate([("1", None), ("1", "test"), ("1", "train"), ("2", None), ("2", "train")])
    ]
    write_source(tmp_path / "s", "a", pictures(5, seed=0), rows)
    store = opened(tmp_path / "s")
    np.testing.assert_array_equal(store.read(np.arange(2)), pictures(5, seed=0)[3:])
    assert store.left_out == {"of groups that are in validation or test splits": 2}


def test_a_copy_of_a_left_out_image_in_another_source_is_left_out_too(tmp_path: Path) -> None:
    images = pictures(4, seed=0)
    rows = [
        Row(image_id=f"{i}", modality="ct", height=9, width=9, group="1", split=split)  # type: ignore[arg-type]
        for i, split in enumerate((None, "val"))
    ]
    write_source(tmp_path / "s", "a", images[:2], rows)
    write_source(tmp_path / "s", "b", images[[0, 2, 3]], plain_rows(3))
    assert len(opened(tmp_path / "s").pool().keys) == 2


def test_the_same_image_in_two_sources_is_in_the_pool_once(tmp_path: Path) -> None:
    images = pictures(6, seed=0)
    write_source(tmp_path / "s", "a", images[:4], plain_rows(4))
    write_source(tmp_path / "s", "b", images[2:], plain_rows(4, modality="ct"))
    store = opened(tmp_path / "s")
    assert sorted(image.tobytes() for image in store.read(np.arange(6))) == sorted(i.tobytes() for i in images)
    assert store.left_out == {"copies of another image": 2}
    assert dict(zip(store.pool().modalities, np.bincount(store.pool().modality), strict=True)) == {"ct": 2, "xray": 4}


def test_patients_of_the_same_number_in_two_sources_are_two(tmp_path: Path) -> None:
    for name, seed, split in (("a", 0, "test"), ("b", 1, "train")):
        rows = [Row(image_id="1", modality="ct", height=9, width=9, group="patient-1", split=split)]  # type: ignore[arg-type]
        write_source(tmp_path / "s", name, pictures(1, seed=seed), rows)
    assert len(opened(tmp_path / "s").pool().keys) == 1


def test_a_new_source_leaves_the_keys_and_groups_of_the_others_as_they_were(tmp_path: Path) -> None:
    store = write_example(tmp_path / "s", ["slices"])
    before = opened(store).pool()
    write_example(store, ["films", "cells"])
    after = opened(store).pool()
    of_slices = np.isin(after.keys, before.keys)
    np.testing.assert_array_equal(np.sort(after.groups[of_slices]), np.sort(before.groups))
    assert opened(store).version != opened(store, sources=["slices"]).version


def test_a_store_that_only_tests_has_nothing_to_pretrain_on(tmp_path: Path) -> None:
    write_source(
        tmp_path / "s", "a", pictures(1, seed=0), [Row(image_id="1", modality="ct", height=1, width=1, split="test")]
    )
    with pytest.raises(SpecError, match="no image to pretrain on"):
        opened(tmp_path / "s").pool()


# --- reading -----------------------------------------------------------------------------------------------------


def test_rows_come_in_the_order_asked_for_and_as_often(example: Path) -> None:
    card, sources = open_sources(example)
    images = StoredImages([sources["films"], sources["slices"]], card.image_size, SIZE, 1)
    both = np.concatenate([pictures(50, seed=2), pictures(120, seed=0)])
    rows = np.random.default_rng(0).integers(0, 170, 400)
    np.testing.assert_array_equal(images.take(rows), both[rows])
    assert images.take(np.empty(0, np.int64)).shape == (0, 1, SIZE, SIZE)


def test_rows_beyond_the_last_are_refused(example: Path) -> None:
    card, sources = open_sources(example)
    with pytest.raises(IndexError, match="of 50"):
        StoredImages([sources["films"]], card.image_size, SIZE, 1).take(np.array([50]))


def test_smaller_images_are_means_over_areas(example: Path) -> None:
    small = opened(example, sources=["films"], image_size=14).read(np.arange(50))
    means = pictures(50, seed=2).reshape(50, 1, 14, 2, 14, 2).mean((3, 5))
    np.testing.assert_array_equal(small, np.floor(means + 0.5).astype(np.uint8))


def test_areas_that_cut_pixels_weigh_them_by_their_parts() -> None:
    """Of 3 pixels to 2: each is one and a half of them."""
    image = np.array([[0, 60, 120]] * 3, np.uint8)[None, None]
    assert resized(image, 2)[0, 0].tolist() == [[20, 100], [20, 100]]


def test_grey_becomes_three_channels_and_colour_luminance(example: Path) -> None:
    np.testing.assert_array_equal(
        opened(example, sources=["films"], channels=3).read(np.array([7])), pictures(50, seed=2)[[7]].repeat(3, 1)
    )
    grey = opened(example, sources=["cells"]).read(np.array([0]))[0, 0]
    r, g, b = pictures(96, seed=1, channels=3)[0].astype(float)
    assert np.abs(grey - (0.299 * r + 0.587 * g + 0.114 * b)).max() <= 1


def test_batches_are_read_in_place_where_nothing_has_to_be_computed(example: Path) -> None:
    assert is_direct(opened(example))
    assert not is_direct(opened(example, image_size=14))


# --- tasks -------------------------------------------------------------------------------------------------------


def test_tasks_have_the_labels_and_images_of_their_splits(example: Path) -> None:
    task = opened(example).task("side")
    rows, images = slice_rows(120), pictures(120, seed=0)
    for split in ("train", "val", "test"):
        mine = [i for i, row in enumerate(rows) if row.split == split]
        np.testing.assert_array_equal(getattr(task, split).images, images[mine])
        assert getattr(task, split).labels.tolist() == [i % 2 for i in mine]
    assert (task.info.modality, task.info.kind, task.info.n_classes) == ("ct", "binary", 2)
    signs = opened(example, channels=3).task("signs")
    assert signs.test.labels.tolist() == [list(r.labels["signs"]) for r in cell_rows(96) if r.split == "test"]  # type: ignore[arg-type]


def test_tasks_may_be_of_sources_that_are_not_pretrained_on(example: Path) -> None:
    store = opened(example, sources=["films"], tasks=["side"])
    assert store.pool().modalities == ("xray",)
    assert [info.name for info in store.tasks()] == ["side"]


def test_an_identity_changes_with_a_label_and_with_nothing_else(tmp_path: Path) -> None:
    def identity(name: str, rows: list[Row], part_size: int = 32) -> str:
        write_source(tmp_path / name, "slices", pictures(120, seed=0), rows, tasks=SLICES, part_size=part_size)
        return opened(tmp_path / name).tasks()[0].identity

    rows = slice_rows(120)
    first = identity("one", rows)
    assert identity("two", rows, part_size=7) == first
    at = next(i for i, row in enumerate(rows) if row.split == "val")
    other = [
        Row(**{**vars(row), "labels": {"side": 1 - row.labels["side"]}}) if i == at else row
        for i, row in enumerate(rows)
    ]  # type: ignore[operator, arg-type]
    assert identity("three", other) != first


def _store_of(folder: Path, rows: list[Row], tasks: dict[str, TaskCard]) -> Path:
    write_source(folder, "slices", pictures(len(rows), seed=0), rows, tasks=tasks)
    return folder


def test_a_task_without_a_test_split_is_no_task_and_is_said_to_be_none(tmp_path: Path) -> None:
    rows = [row if row.split != "test" else Row(**{**vars(row), "split": None}) for row in slice_rows(120)]
    store = opened(_store_of(tmp_path / "s", rows, SLICES))
    assert store.tasks() == ()
    assert store.untasked == {"side": "no labelled image is in its test split, 15 are of no split"}
    with pytest.raises(SpecError, match="task 'side' cannot be probed: no labelled image is in its test split"):
        opened(tmp_path / "s", tasks=["side"])


def test_a_class_that_a_split_lacks_is_named(tmp_path: Path) -> None:
    three = {"side": TaskCard(kind="multi-class", classes=["left", "right", "both"])}
    store = opened(_store_of(tmp_path / "s", slice_rows(120), three))
    assert store.untasked["side"].startswith("its train split has no image of both; its val split has no image of both")
    same = [Row(**{**vars(row), "labels": {"signs": (1, 0, i % 2)}}) for i, row in enumerate(cell_rows(96))]
    write_source(tmp_path / "t", "cells", pictures(96, seed=0), same, tasks=CELLS)
    assert "its train split has no image with and without round, large" in opened(tmp_path / "t").untasked["signs"]


def test_a_task_whose_patients_are_on_both_sides_is_doubted(tmp_path: Path) -> None:
    """Patients 1 and 4 have a test image among those they train with; so the pool goes without them."""
    rows = [
        Row(**{**vars(row), "split": "test"}) if i in (3, 12) else row  # type: ignore[arg-type]
        for i, row in enumerate(slice_rows(120))
    ]
    clean = cleaned(opened(_store_of(tmp_path / "s", rows, SLICES)))
    (said,) = [line for line in withheld(clean) if line.startswith("task")]
    assert said.startswith("task 'side': 2 groups stand in several of its splits")
    assert clean.left_out == {"of groups that are in validation or test splits": 4}  # type: ignore[attr-defined]


def test_training_labels_reach_the_pool_and_those_of_tested_images_do_not(example: Path) -> None:
    store = opened(example, channels=3)
    labels = store.labels(np.arange(len(store.pool().keys)))
    assert [info.name for info in labels.tasks] == ["signs", "side"]
    n_train = {"side": sum(row.split == "train" for row in slice_rows(120)), "signs": 48}
    for code, info in enumerate(labels.tasks):
        assert (labels.task == code).sum() == n_train[info.name]


# --- what is wrong -----------------------------------------------------------------------------------------------


def test_a_store_that_is_not_there_is_missing_data_and_no_mistake(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match=r"no folder .*nowhere; `scaling data import` makes a store"):
        opened(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image_size": 64}, "data.image_size: 64 is more than the 28 pixels .* give 28 or less, or import again"),
        ({"sources": ["slice"]}, "data.sources.0: unknown source 'slice'; did you mean 'slices'"),
        ({"tasks": ["sid"]}, "data.tasks.0: unknown task 'sid'; did you mean 'side'"),
    ],
)
def test_what_a_store_does_not_have_is_refused(example: Path, changed: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        opened(example, **changed)


def test_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        write_source(tmp_path / "s", name, pictures(120, seed=seed), slice_rows(120), tasks=SLICES)
    with pytest.raises(SpecError, match="task 'side' is of sources a and b; give it another name"):
        opened(tmp_path / "s")
    assert opened(tmp_path / "s", tasks=[]).tasks() == ()


def _rewritten(manifest: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(manifest)), manifest)


def _card(source: Path, **changed: object) -> None:
    path = source / "source.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def _linked(path: Path) -> None:
    elsewhere = path.parents[2] / f"elsewhere-{path.name}"
    shutil.move(path, elsewhere)
    path.symlink_to(elsewhere)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "a part is cut": (lambda s: _cut(s / "slices/images-00001.npy"), "images-00001.npy: is cut short: 25,116 bytes"),
    "a part has more": (
        lambda s: (s / "slices/images-00001.npy").write_bytes((s / "slices/images-00000.npy").read_bytes() + b"x"),
        "images-00001.npy: is too long",
    ),
    "a part is gone": (lambda s: (s / "slices/images-00002.npy").unlink(), "images-00002.npy: is missing; import it"),
    "a part is a link": (
        lambda s: _linked(s / "slices/images-00000.npy"),
        "images-00000.npy: is a link; a store holds",
    ),
    "a source is a link": (lambda s: _linked(s / "slices"), "slices: is a link; a store holds plain files"),
    "the manifest is a link": (lambda s: _linked(s / "slices/manifest.parquet"), "manifest.parquet: is a link"),
    "the card is a link": (lambda s: _linked(s / "slices/source.json"), "source.json: is a link"),
    "the store's card is a link": (lambda s: _linked(s / "store.json"), "store.json: is a link"),
    "the manifest is gone": (lambda s: (s / "slices/manifest.parquet").unlink(), "manifest.parquet: is missing"),
    "the manifest is no Parquet": (
        lambda s: (s / "slices/manifest.parquet").write_bytes(b"PAR1 no more"),
        "manifest.parquet: is no readable Parquet file",
    ),
    "a row is gone": (
        lambda s: _rewritten(s / "slices/manifest.parquet", lambda table: table.slice(1)),
        "manifest.parquet: has 119 rows for 120 images",
    ),
    "a column is gone": (
        lambda s: _rewritten(s / "slices/manifest.parquet", lambda table: table.drop_columns(["group_hash"])),
        "manifest.parquet: lacks group_hash",
    ),
    "a column has another type": (
        lambda s: _rewritten(
            s / "slices/manifest.parquet",
            lambda table: table.set_column(1, "key", table["image_id"]),
        ),
        "manifest.parquet: has another type of key",
    ),
    "a label is out of range": (
        lambda s: _rewritten(
            s / "slices/manifest.parquet",
            lambda table: table.set_column(
                table.column_names.index("label.side"), "label.side", pa.array([7] * len(table), pa.int16())
            ),
        ),
        "has labels of task 'side' from 7 to 7; 0 to 1 allowed",
    ),
    "a split has another name": (
        lambda s: _rewritten(
            s / "slices/manifest.parquet",
            lambda table: table.set_column(
                table.column_names.index("split"),
                "split",
                pa.array(["exam"] * len(table)).dictionary_encode().cast(table.schema.field("split").type),
            ),
        ),
        "has split 'exam'; allowed: train, val, test",
    ),
    "the card counts otherwise": (lambda s: _card(s / "slices", n_images=121), "says 121 images and lists 120"),
    "the card has another name": (lambda s: _card(s / "slices", name="films"), "is the card of a source 'films'"),
    "the card names a path": (lambda s: _card(s / "slices", name="../../etc"), "is no card of a source: name"),
    "a task is a path": (
        lambda s: _card(s / "slices", tasks={"../up": {"kind": "binary", "classes": ["a", "b"]}}),
        "has a task '../up', which is no name",
    ),
    "the card is no JSON": (lambda s: (s / "slices/source.json").write_text("{"), "is no card of a source"),
    "the card is not text": (lambda s: (s / "slices/source.json").write_bytes(b"\xff\xfe"), "source.json: "),
    "there is no store's card": (lambda s: (s / "store.json").unlink(), "is no store: it has no store.json"),
    "no source is there": (
        lambda s: [shutil.rmtree(s / name) for name in ("slices", "cells", "films")],
        "has no source yet; `scaling data import` adds one",
    ),
}


@pytest.mark.parametrize("name", HARM)
def test_a_store_that_was_harmed_is_refused_with_one_clear_problem(example: Path, tmp_path: Path, name: str) -> None:
    store = tmp_path / "store"
    shutil.copytree(example, store)
    harm, message = HARM[name]
    harm(store)
    with pytest.raises(SpecError) as refused:
        opened(store)
    assert message in str(refused.value)
    assert len(refused.value.problems) == 1


def test_all_that_is_wrong_is_said_at_once(example: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(example, store)
    _cut(store / "slices/images-00001.npy")
    (store / "films/manifest.parquet").unlink()
    _card(store / "cells", version="x")
    with pytest.raises(SpecError) as refused:
        opened(store)
    assert len(refused.value.problems) == 3


def test_a_part_of_another_shape_of_the_same_size_is_noticed_when_it_is_read(example: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(example, store)
    path = store / "films/images-00000.npy"
    np.save(path, np.load(path).reshape(50, 1, 14, 56))
    with pytest.raises(ValueError, match=r"holds uint8 \(50, 1, 14, 56\), not uint8 \(50, 1, 28, 28\)"):
        opened(store, sources=["films"]).read(np.array([0]))


def test_a_part_that_asks_to_be_unpickled_is_not(example: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(example, store)
    path = store / "films/images-00000.npy"
    size = path.stat().st_size
    np.save(path, np.array([{"a": 1}] * 3, object), allow_pickle=True)
    path.write_bytes(path.read_bytes().ljust(size, b"\0"))
    with pytest.raises(ValueError, match=r"is no readable part: .*object"):
        opened(store, sources=["films"]).read(np.array([0]))


@pytest.mark.slow
def test_a_sweep_pretrains_and_probes_on_a_store(
    example: Path, tmp_path: Path, one_thread: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "stored.yaml"
    path.write_text(
        "name: stored\n"
        "grid: {model: [vit_atto], algorithm: [mae, supervised], n_images: [60]}\n"
        f"data: {{source: store, path: {example}, image_size: 28, channels: 3}}\n"
        "encoder: {patch_size: 7}\n"
        "pretrain: {images_seen: 120, batch_size: 20, precision: fp32}\n"
        "probe: {bootstrap: 20, linear: {n_c: 2}}\n"
        "baselines: []\n"
        f"root: {tmp_path / 'root'}\n"
    )
    assert main(["run", str(path), "--launcher", "inline", "--tracking", "none", "--no-report"]) == 0
    assert main(["export", "stored", str(tmp_path / "out.csv"), "--root", str(tmp_path / "root")]) == 0
    rows = pd.read_csv(tmp_path / "out.csv")
    assert set(rows["task"]) == {"side", "signs"}
    assert set(rows["n_images"]) == {60}
    assert rows["auc"].between(0, 1).all()
    capsys.readouterr()
