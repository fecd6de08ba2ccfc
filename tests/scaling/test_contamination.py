"""Copies of what tasks are judged by: planted ones are found in the pool and left out, and nothing else is."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from scaling.config import load
from scaling.data import contamination
from scaling.data.clean import Clean, cleaned
from scaling.data.contamination import Looked, Seen, copies, hashes_of, seen
from scaling.data.joined import Joined
from scaling.data.npz import Npz
from scaling.data.source import Images, Source
from scaling.data.store import Store
from scaling.opening import open_source
from scaling.plan import load_plan, make_plan
from scaling.source_options import NpzOptions, StoreOptions
from scaling.store.writing import write_source
from tests.scaling.stores import SIZE, SLICES, pictures, plain_rows, slice_rows


def looked(images: Images) -> Looked:
    return Looked(hashes=hashes_of(len(images), images.__getitem__), read=images.__getitem__)


def compressed(images: Images) -> Images:
    out = []
    for image in images[:, 0]:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=90)
        out.append(np.asarray(Image.open(file)))
    return np.stack(out)[:, None]


def enlarged(images: Images) -> Images:
    return np.stack([np.asarray(Image.fromarray(image[0]).resize((64, 64), 3)) for image in images])[:, None]


COPIES: dict[str, Callable[[Images], Images]] = {
    "the same": lambda images: images,
    "brighter": lambda images: images + np.uint8(25),
    "with less contrast": lambda images: (images * 0.8 + 20).astype(np.uint8),
    "compressed": compressed,
    "enlarged": enlarged,
    "in colour": lambda images: images.repeat(3, 1),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_found_among_others(name: str) -> None:
    held = pictures(40, seed=0, size=SIZE)
    pool = COPIES[name](held)
    found = copies(looked(pool), seen(held))
    assert np.array_equal(found.pool, found.held)  # each with the one it was made of, and no other
    assert len(found.pool) >= 38  # of 40: noise of 20 grey values is much for a compressed one
    assert (found.unexplained <= 0.02).all()


def test_different_images_are_no_copies() -> None:
    assert not len(copies(looked(pictures(400, seed=1)), seen(pictures(200, seed=2))).pool)


def alike(images: Images) -> Looked:
    """As if all hashes were one."""
    return Looked(hashes=np.zeros(len(images), np.uint64), read=images.__getitem__)


def seen_alike(images: Images) -> Seen:
    return dataclasses.replace(seen(images), hashes=np.zeros(len(images), np.uint64))


def test_pixels_decide_where_hashes_are_alike() -> None:
    images = pictures(12, seed=3)
    found = copies(alike(images), seen_alike(images))
    assert found.pool.tolist() == found.held.tolist() == list(range(12))


def test_an_inverted_image_is_no_copy() -> None:
    image = pictures(1, seed=4)
    assert not len(copies(alike(image), seen_alike(255 - image)).pool)


def test_images_of_one_grey_are_copies_of_each_other_alone() -> None:
    flat = np.stack([np.full((1, SIZE, SIZE), value, np.uint8) for value in (0, 90)])
    pool = np.concatenate([flat, pictures(1, seed=5)])
    assert copies(alike(pool), seen_alike(flat[:1])).pool.tolist() == [0, 1]
    assert copies(alike(flat), seen_alike(pool[2:])).pool.tolist() == []


def test_blocks_of_a_pool_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(60, seed=6)
    held = seen(images[5:50] + np.uint8(3))
    whole = copies(looked(images), held)
    assert len(whole.pool) == 45
    for name, value in (("BLOCK", 13), ("CHUNK", 7), ("PIECE", 3)):
        monkeypatch.setattr(contamination, name, value)
    parts = copies(looked(images), held)
    for field in ("pool", "held", "bits"):
        np.testing.assert_array_equal(getattr(parts, field), getattr(whole, field))


# --- sources -----------------------------------------------------------------------------------------------------


@pytest.fixture
def contaminated(tmp_path: Path) -> Path:
    """A store whose `films` hold three test images of `slices`: one as it is, one brighter, one compressed."""
    images, rows = pictures(120, seed=0), slice_rows(120)
    test = [i for i, row in enumerate(rows) if row.split == "test"][:3]
    store = tmp_path / "store"
    write_source(store, "slices", images, rows, tasks=SLICES)
    films = pictures(40, seed=1)
    films[5], films[17], films[29] = images[test[0]], images[test[1]] + np.uint8(25), compressed(images[test[2:]])[0]
    write_source(store, "films", films, plain_rows(40))
    return store


def store_of(path: Path, **changed: object) -> Store:
    values = {"source": "store", "path": str(path), "image_size": SIZE, **changed}
    return Store(StoreOptions.model_validate(values))


def found_films(source: Source) -> set[bytes]:
    return {image.tobytes() for image in source.read(np.arange(len(source.pool().keys)))}


def test_planted_copies_are_left_out_of_a_store_and_counted(contaminated: Path) -> None:
    store = store_of(contaminated)
    clean = Clean(store)
    assert clean.contamination.counts() == {("side", "test"): (3, 3)}
    assert clean.left_out == {**store.left_out, "copies of what side is judged by": 3}
    assert len(clean.pool().keys) == len(store.pool().keys) - 3
    planted = np.load(contaminated / "films" / "images-00000.npy")[[5, 17, 29]]
    assert {image.tobytes() for image in planted} == found_films(store) - found_films(clean)


def test_the_pool_is_as_it_was_where_nothing_is_contaminated(tmp_path: Path) -> None:
    write_source(tmp_path / "s", "slices", pictures(120, seed=0), slice_rows(120), tasks=SLICES)
    store = store_of(tmp_path / "s")
    clean = Clean(store)
    assert clean.pool() is store.pool()
    assert clean.left_out == store.left_out


def test_what_was_found_is_kept_in_the_store_and_used_again(
    contaminated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cleaned(store_of(contaminated)).pool()
    (table,) = (contaminated / ".copies").iterdir()
    assert pq.read_table(table).to_pydict()["task"] == ["side"] * 3
    monkeypatch.setattr("scaling.data.clean.copies", None)  # would fail if it were looked for again
    np.testing.assert_array_equal(cleaned(store_of(contaminated)).pool().keys, first.keys)


def test_a_damaged_table_is_made_again(contaminated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = cleaned(store_of(contaminated)).pool()
    (table,) = (contaminated / ".copies").iterdir()
    table.write_bytes(b"PAR1 cut")
    np.testing.assert_array_equal(cleaned(store_of(contaminated)).pool().keys, first.keys)
    assert "is made again" in capsys.readouterr().err


def test_nothing_is_written_through_a_link_out_of_the_store(contaminated: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (contaminated / ".copies").symlink_to(tmp_path / "elsewhere")
    assert cleaned(store_of(contaminated)).left_out["copies of what side is judged by"] == 3  # type: ignore[attr-defined]
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_new_image_is_looked_at_too(contaminated: Path) -> None:
    before = cleaned(store_of(contaminated)).pool()
    test = [i for i, row in enumerate(slice_rows(120)) if row.split == "test"][:1]
    write_source(contaminated, "more", pictures(120, seed=0)[test] + np.uint8(9), plain_rows(1, prefix="more"))
    np.testing.assert_array_equal(np.sort(cleaned(store_of(contaminated)).pool().keys), np.sort(before.keys))


def test_copies_in_another_source_than_that_of_the_tasks_are_found(contaminated: Path) -> None:
    """The tasks' images are smaller and in a pack; the pool's are in a store."""
    packs = contaminated.parent
    held = np.load(contaminated / "films" / "images-00000.npy")[[3, 4, 6, 7]]
    small = np.stack([np.asarray(Image.fromarray(image[0]).resize((28, 28), 3)) for image in held])
    others = pictures(12, seed=9)[:, 0]
    arrays = {"train_images": others[:8], "val_images": others[8:], "test_images": small}
    labels = {f"{split}_labels": np.arange(n)[:, None] % 2 for split, n in (("train", 8), ("val", 4), ("test", 4))}
    np.savez(packs / "pack.npz", **arrays, **labels)
    files = {"pack.npz": {"modality": "ct", "task": {"kind": "binary"}}}
    tasks = Npz(NpzOptions.model_validate({"source": "npz", "root": str(packs), "image_size": SIZE, "files": files}))
    store = store_of(contaminated)
    clean = cleaned(Joined(store, tasks))
    assert len(clean.pool().keys) == len(store.pool().keys) - 4
    assert clean.left_out["copies of what pack is judged by"] == 4  # type: ignore[attr-defined]


YAML = """\
name: checked
grid: {{model: [vit_atto], algorithm: [mae], n_images: [20]}}
data: {{source: {source}{more}}}
pretrain: {{images_seen: 40, batch_size: 10}}
probe: {{bootstrap: 10}}
root: {root}
"""


def _planned(tmp_path: Path, source: str, more: str) -> tuple[int, tuple[str, ...]]:
    path = tmp_path / "sweep.yaml"
    path.write_text(YAML.format(source=source, more=more, root=tmp_path / "root"))
    sweep, opened = open_source(*load(path), data_root=str(tmp_path))
    plan = make_plan(sweep, load(path)[1], opened)
    plan.save()
    assert load_plan(tmp_path / "root", "checked").of_the_data == plan.of_the_data
    return len(opened.pool().keys), plan.of_the_data


@pytest.mark.parametrize(("how", "n"), [("exclude", 3), ("keep", 0)])
def test_a_sweep_leaves_copies_out_unless_it_is_told_to_keep_them(contaminated: Path, how: str, n: int) -> None:
    total = len(store_of(contaminated).pool().keys)
    more = f", path: {contaminated}, image_size: {SIZE}, contaminated: {how}"
    n_pool, said = _planned(contaminated.parent, "store", more)
    assert n_pool == total - n
    assert ("3 images are not pretrained on: copies of what side is judged by" in said) == bool(n)


def test_packs_are_cleaned_too(tmp_path: Path) -> None:
    images = pictures(60, seed=0)[:, 0]
    images[3], images[11] = images[50] + np.uint8(12), images[35]  # of test and val
    splits = {"train": slice(0, 30), "val": slice(30, 45), "test": slice(45, 60)}
    arrays: dict[str, NDArray] = {f"{split}_images": images[part] for split, part in splits.items()}
    arrays |= {f"{split}_labels": np.arange(len(images[part]))[:, None] % 2 for split, part in splits.items()}
    np.savez(tmp_path / "pack.npz", **arrays)
    files = "{pack.npz: {modality: ct, pretrain: [train], task: {kind: binary}}}"
    n_pool, said = _planned(tmp_path, "npz", f", image_size: {SIZE}, files: {files}")
    assert n_pool == 28
    assert said == ("2 images are not pretrained on: copies of what pack is judged by",)


def test_real_packs_have_the_copies_that_were_looked_at(shared: Path) -> None:
    """BreastMNIST shows many lesions twice; PneumoniaMNIST repeats some validation images; cells are all their own."""
    files = {
        "breastmnist.npz": {"modality": "ultrasound", "pretrain": ["train"], "task": {"kind": "binary"}},
        "pneumoniamnist.npz": {"modality": "xray", "pretrain": ["train"], "task": {"kind": "binary"}},
        "bccd_cells_28.npz": {"modality": "microscopy", "pretrain": ["train"], "task": {"kind": "multi-class"}},
    }
    root = str(shared / "data")
    source = Npz(NpzOptions.model_validate({"source": "npz", "root": root, "image_size": 28, "files": files}))
    assert Clean(source).contamination.counts() == {
        ("breastmnist", "val"): (26, 32),
        ("breastmnist", "test"): (44, 55),
        ("pneumoniamnist", "val"): (8, 8),
    }
