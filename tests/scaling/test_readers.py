"""Readers of pictures, packs, tables, shards and Parquet give the pixels and words that were written."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
import webdataset
from numpy.typing import NDArray
from PIL import Image

from scaling.catalog import READERS
from scaling.errors import SpecError
from scaling.importing.reader import Frame, Reader, Unreadable

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (12, 9), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (12, 9, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (12, 9)).astype(np.uint16)
DEEP_COLOUR = RNG.integers(0, 65536, (12, 9, 3)).astype(np.uint16)
REAL = RNG.normal(size=(12, 9))


def reader(name: str, path: Path, **options: Any) -> Reader:
    entry = READERS[name]
    values = json.dumps({"reader": name, "path": str(path), **options})
    made: Reader = entry.load()(entry.options.model_validate_json(values))
    return made


def read(name: str, path: Path, **options: Any) -> list[Frame]:
    """All images, each item by a reader of its own as in a worker; what is known of the item is filled in."""
    found = []
    for item in reader(name, path, **options).items():
        for frame in reader(name, path, **options).frames(item):
            assert isinstance(frame, Frame), str(frame)
            found.append(frame)
    return found


def png(pixels: NDArray = GREY) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def opened(pixels: NDArray) -> Any:
    return Image.fromarray(pixels)


# --- pictures ----------------------------------------------------------------------------------------------------

PICTURES: dict[str, tuple[str, Callable[[Path], object], NDArray]] = {
    "PNG, grey": ("a.png", lambda path: opened(GREY).save(path), GREY),
    "PNG, colour": ("a.png", lambda path: opened(COLOUR).save(path), COLOUR),
    "PNG, 16 bits": ("a.png", lambda path: opened(DEEP).save(path), DEEP),
    "PNG, 1 bit": ("a.png", lambda path: opened(GREY > 99).save(path), np.where(GREY > 99, 255, 0).astype(np.uint8)),
    "PNG, palette": (
        "a.png",
        lambda path: opened(COLOUR).convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(path),
        COLOUR,
    ),
    "BMP": ("a.bmp", lambda path: opened(COLOUR).save(path), COLOUR),
    "WebP": ("a.webp", lambda path: opened(COLOUR).save(path, lossless=True), COLOUR),
    "JPEG 2000": ("a.jp2", lambda path: opened(COLOUR).save(path), COLOUR),
    "another ending's content": ("a.jpg", lambda path: opened(GREY).save(path, "png"), GREY),
    "CMYK": ("a.tif", lambda path: opened(COLOUR).convert("CMYK").save(path), COLOUR),
    "TIFF, 8 bits": ("a.tif", lambda path: tifffile.imwrite(path, GREY), GREY),
    "TIFF, 16 bits, big-endian": ("a.tif", lambda path: tifffile.imwrite(path, DEEP, byteorder=">"), DEEP),
    "TIFF, 16 bits of colour": ("a.TIFF", lambda path: tifffile.imwrite(path, DEEP_COLOUR), DEEP_COLOUR),
    "TIFF, deflated": ("a.tif", lambda path: tifffile.imwrite(path, DEEP, compression="zlib", predictor=True), DEEP),
    "TIFF, LZW": ("a.tif", lambda path: opened(COLOUR).save(path, compression="tiff_lzw"), COLOUR),
    "TIFF, LZW, 16 bits": ("a.tif", lambda path: opened(DEEP).save(path, compression="tiff_lzw"), DEEP),
    "TIFF, planes apart": (
        "a.tif",
        lambda path: tifffile.imwrite(path, DEEP_COLOUR.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"),
        DEEP_COLOUR,
    ),
    "TIFF, signed 32 bits": (
        "a.tif",
        lambda path: tifffile.imwrite(path, DEEP.astype("i4") - 9),
        DEEP.astype("i4") - 9,
    ),
    "TIFF, unsigned 32 bits": (
        "a.tif",
        lambda path: tifffile.imwrite(path, DEEP.astype("u4") << 16),
        DEEP.astype("u4") << 16,
    ),
    "TIFF, float": ("a.tif", lambda path: tifffile.imwrite(path, REAL.astype("f4")), REAL.astype("f4")),
    "TIFF, double": ("a.tif", lambda path: tifffile.imwrite(path, REAL), REAL),
    "TIFF, white is zero": ("a.tif", lambda path: tifffile.imwrite(path, GREY, photometric="miniswhite"), 255 - GREY),
    "TIFF, BigTIFF": ("a.tif", lambda path: tifffile.imwrite(path, GREY, bigtiff=True), GREY),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_give_the_pixels_that_were_written(tmp_path: Path, kind: str) -> None:
    name, write, pixels = PICTURES[kind]
    write(tmp_path / name)
    [frame] = read("folder", tmp_path)
    assert frame.id == name
    assert frame.pixels.dtype == pixels.dtype
    np.testing.assert_array_equal(frame.pixels, pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_pictures_are_turned_as_their_orientation_says(tmp_path: Path, orientation: int, ending: str) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    opened(GREY).save(tmp_path / "a.png", exif=exif)
    if ending == "tif":  # the same by our own turns, of which Pillow's are the reference
        tifffile.imwrite(tmp_path / "a.tif", GREY, extratags=[(274, 3, 1, orientation, True)])
        first, second = read("folder", tmp_path)
        np.testing.assert_array_equal(first.pixels, second.pixels)
    else:
        [first] = read("folder", tmp_path)
        assert first.pixels.shape == (GREY.shape if orientation < 5 else GREY.shape[::-1])
        expected = {1: GREY, 2: GREY[:, ::-1], 3: GREY[::-1, ::-1], 4: GREY[::-1], 6: np.rot90(GREY, -1)}
        np.testing.assert_array_equal(first.pixels, expected.get(orientation, first.pixels))


@pytest.mark.parametrize(("background", "value"), [("black", 0), ("white", 255)])
def test_transparent_pixels_show_the_background(tmp_path: Path, background: str, value: int) -> None:
    clear = np.where(GREY > 99, 255, 0).astype(np.uint8)
    opened(np.dstack([COLOUR, clear])).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "b.tif", np.dstack([COLOUR, clear]), photometric="rgb", extrasamples=["unassalpha"])
    for frame in read("folder", tmp_path, background=background):
        np.testing.assert_array_equal(frame.pixels, np.where(clear[..., None] > 0, COLOUR, value))


@pytest.mark.parametrize("name", ["a.tif", "a.gif"])
def test_pages_are_images_of_one_group_unless_the_first_alone_is_wanted(tmp_path: Path, name: str) -> None:
    pages = [GREY, GREY[::-1], GREY[:, ::-1]]
    first, *more = map(opened, pages)
    first.save(tmp_path / name, save_all=True, append_images=more)
    found = read("folder", tmp_path)
    assert [frame.id for frame in found] == [f"{name}#{i}" for i in range(3)]
    assert {frame.about.group for frame in found} == {name}
    if name == "a.tif":
        np.testing.assert_array_equal([frame.pixels for frame in found], pages)
    assert [frame.id for frame in read("folder", tmp_path, frames="first")] == [name]


def test_tiff_without_its_package_is_an_error_that_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY)
    [item] = reader("folder", tmp_path).items()
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(SpecError, match=r"pip install 'scaling-laws-orchestrator\[readers\]'"):
        list(reader("folder", tmp_path).items())
    with pytest.raises(Unreadable, match="tifffile is not installed"):
        list(reader("folder", tmp_path).frames(item))


def test_reduced_copies_of_a_page_are_no_images(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(GREY)
        file.write(GREY[::2, ::2], subfiletype=1)
    [frame] = read("folder", tmp_path)
    np.testing.assert_array_equal(frame.pixels, GREY)


# --- folders -----------------------------------------------------------------------------------------------------


def test_a_folder_is_listed_in_order_without_hidden_files_and_follows_no_link_to_a_folder(tmp_path: Path) -> None:
    inner, outer = tmp_path / "in", tmp_path / "out"
    for path in (inner / "b" / "2.png", inner / "a.png", inner / "b" / "10.png", inner / "b.png", outer / "x.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png())
    for name in ("Thumbs.db", ".DS_Store", "._a.png", "notes.txt"):
        (inner / name).write_bytes(png())
    (inner / "link.png").symlink_to(outer / "x.png")
    (inner / "folder").symlink_to(outer)
    (inner / "loop").symlink_to(inner)
    (inner / "again.png").symlink_to(inner / "a.png")
    (inner / "self.png").symlink_to(inner / "self.png")
    items = list(reader("folder", inner).items())
    names = ["a.png", "again.png", "b.png", "b/10.png", "b/2.png", "folder", "link.png", "loop", "self.png"]
    assert [item.id for item in items] == names
    reasons = []
    for item in items[-4:]:
        with pytest.raises(Unreadable) as why:
            list(reader("folder", inner).frames(item))
        reasons.append(str(why.value))
    linked = "a link to a folder, which is not followed; import that as a source of its own"
    assert reasons == [linked, "path outside the folder", linked, "cannot be opened: Too many levels of symbolic links"]


def test_a_link_that_is_turned_out_of_the_folder_after_listing_is_not_followed(tmp_path: Path) -> None:
    inner = tmp_path / "in"
    inner.mkdir()
    (inner / "a.png").write_bytes(png())
    [item] = reader("folder", inner).items()
    (inner / "a.png").unlink()
    (tmp_path / "secret.png").write_bytes(png())
    (inner / "a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(Unreadable, match="path outside the folder"):
        list(reader("folder", inner).frames(item))


@pytest.mark.parametrize(
    "by", [{"split": "folder"}, {"split": r"^(\w+)/"}, {"split": "folder", "task": {"label": r"/(ill|well)/"}}]
)
def test_paths_tell_class_split_group_and_modality(tmp_path: Path, by: dict[str, Any]) -> None:
    for split in ("train", "valid", "test"):
        for name in ("ill/p1-1.png", "well/p2-1.png"):
            path = tmp_path / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png())
    task = {"name": "ill", "kind": "binary", "classes": ["well", "ill"], "label": "(ill|well)/", **by.get("task", {})}
    options = {"group": r"/(p\d+)-", "modality": {"*/ill/*": "ct", "*": "mr"}, **by, "task": task}
    items = list(reader("folder", tmp_path, **options).items())
    said = [(i.about.split, i.about.modality, i.about.group, dict(i.about.labels)) for i in items]
    assert said == [
        (split, modality, group, {"ill": label})
        for split in ("test", "train", "val")
        for modality, group, label in (("ct", "p1", 1), ("mr", "p2", 0))
    ]


# --- packs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_pack_gives_its_rows_labels_and_splits(tmp_path: Path, save: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaling.importing.npz.ITEM_ROWS", 4)
    images = {
        split: RNG.integers(0, 256, (n, 8, 8), dtype=np.uint8) for split, n in (("train", 10), ("val", 3), ("test", 5))
    }
    labels = {split: np.arange(len(each))[:, None] % 3 for split, each in images.items()}
    arrays = {f"{s}_images": images[s] for s in images} | {f"{s}_labels": labels[s] for s in images}
    save(tmp_path / "pack.npz", **arrays)
    options = {"tasks": {"pack.npz": {"name": "kind", "kind": "multi-class"}}}
    items = list(reader("npz", tmp_path, **options).items())
    assert [item.span for item in items] == [(0, 4), (4, 8), (8, 10), (0, 3), (0, 4), (4, 5)]
    one = reader("npz", tmp_path, **options)
    order = [*range(len(items)), 4, 1, 2, 0]  # one reader, whatever order its items come in
    for item in (items[i] for i in order):
        assert item.span is not None
        assert item.about.split is not None
        frames = [frame for frame in one.frames(item) if isinstance(frame, Frame)]
        part = slice(*item.span)
        np.testing.assert_array_equal([frame.pixels for frame in frames], images[item.about.split][part])
        assert [frame.about.labels["kind"] for frame in frames] == labels[item.about.split][part, 0].tolist()


def test_slices_of_a_volume_are_of_one_group(tmp_path: Path) -> None:
    volumes = RNG.integers(0, 256, (2, 5, 6, 7), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", train_images=volumes)
    found = read("npz", tmp_path, stride=2)
    assert [frame.id for frame in found] == [f"a.npz/train/{v}#{d}" for v in range(2) for d in (0, 2, 4)]
    assert [frame.about.group for frame in found] == ["a.npz/train/0"] * 3 + ["a.npz/train/1"] * 3
    np.testing.assert_array_equal([frame.pixels for frame in found], volumes[:, ::2].reshape(6, 6, 7))


def test_a_pack_names_its_patients(tmp_path: Path) -> None:
    arrays = {
        "train_images": RNG.integers(0, 256, (4, 6, 6, 3), dtype=np.uint8),
        "train_patients": np.array([3, 3, 9, 9]),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    assert [frame.about.group for frame in read("npz", tmp_path, group="patients")] == ["3", "3", "9", "9"]


# --- tables ------------------------------------------------------------------------------------------------------

ROWS = [
    {
        "path": f"img/{i}.png",
        "ill": ("no", "yes")[i % 2],
        "a": i % 2,
        "b": 1,
        "found": ("", "mass", "mass|edema")[i % 3],
        "set": ("train", "valid", "TEST")[i // 6 % 3],
        "patient": f"p{i // 2}",
        "kind": ("CT", "MR")[i % 2],
    }
    for i in range(18)
]
COLUMNS = {
    "group": "patient",
    "split": "set",
    "modality_column": "kind",
    "modality": {"CT": "ct", "MR": "mr"},
    "tasks": {
        "ill": {"kind": "binary", "columns": ["ill"]},
        "signs": {"kind": "multi-label", "columns": ["a", "b"]},
        "found": {"kind": "multi-label", "columns": ["found"], "separator": "|"},
    },
}
EXPECTED = [
    (
        ("train", "val", "test")[i // 6],
        f"p{i // 2}",
        ("ct", "mr")[i % 2],
        i % 2,
        (i % 2, 1),
        (int(i % 3 == 2), int(i % 3 > 0)),
    )
    for i in range(18)
]


def told(frames: list[Frame]) -> list[tuple[Any, ...]]:
    return [(f.about.split, f.about.group, f.about.modality, *f.about.labels.values()) for f in frames]


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_tables_tell_of_the_files_they_name(tmp_path: Path, ending: str) -> None:
    (tmp_path / "img").mkdir()
    for row in ROWS:
        (tmp_path / str(row["path"])).write_bytes(png())
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "table.parquet")
    else:
        with open(tmp_path / f"table.{ending}", "w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, list(ROWS[0]), delimiter="\t" if ending == "tsv" else ",")
            writer.writeheader()
            writer.writerows(ROWS)
    frames = read("table", tmp_path, **COLUMNS)
    assert [frame.id for frame in frames] == [row["path"] for row in ROWS]
    assert told(frames) == EXPECTED
    settings = reader("table", tmp_path / f"table.{ending}", **COLUMNS).tasks()
    assert {name: setting.classes for name, setting in settings.items()} == {
        "ill": ("no", "yes"),
        "signs": ("a", "b"),
        "found": ("edema", "mass"),
    }


def test_a_label_that_changes_in_a_table_changes_its_items(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "b.png").write_bytes(png())
    stamps = []
    for label in ("0", "1"):
        (tmp_path / "t.csv").write_text(f"path,y\na.png,{label}\nb.png,0\n")
        options = {"tasks": {"y": {"kind": "binary", "columns": ["y"], "classes": ["0", "1"]}}}
        stamps.append([item.stamp for item in reader("table", tmp_path, **options).items()])
    assert stamps[0][0] != stamps[1][0]
    assert stamps[0][1] == stamps[1][1]


# --- shards ------------------------------------------------------------------------------------------------------


def shards(folder: Path) -> None:
    with webdataset.ShardWriter(str(folder / "part-%03d.tar"), maxcount=6, verbose=0) as sink:
        for i, row in enumerate(ROWS):
            about = {"patient": row["patient"], "meta": {"kind": row["kind"], "set": row["set"]}, "a": i % 2, "b": 1}
            found = [each for each in str(row["found"]).split("|") if each]
            sink.write({"__key__": f"{i:04}", "png": COLOUR, "cls": i % 2, "json": {**about, "found": found}})


def test_shards_of_the_webdataset_package_are_read_where_they_lie(tmp_path: Path) -> None:
    shards(tmp_path)
    options = {
        "group": "patient",
        "split": "meta.set",
        "modality_column": "meta.kind",
        "modality": {"CT": "ct", "MR": "mr"},
        "tasks": {
            "ill": {"kind": "binary", "columns": ["cls"], "classes": ["no", "yes"]},
            "signs": {"kind": "multi-label", "columns": ["a", "b"]},
            "found": {"kind": "multi-label", "columns": ["found"]},
        },
    }
    frames = read("webdataset", tmp_path, **options)
    assert [frame.id for frame in frames] == [f"part-{i // 6:03}.tar/{i:04}.png" for i in range(18)]
    assert told(frames) == EXPECTED
    for frame in frames:
        np.testing.assert_array_equal(frame.pixels, COLOUR)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"part-{i:03}.tar" for i in range(3)]


def test_splits_and_groups_of_shards_may_stand_in_their_names(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "val-00.tar")) as sink:
        for key in ("p1_1", "p1_2", "p2_1"):
            sink.write({"__key__": key, "left.png": GREY, "right.png": GREY})
    found = read("webdataset", tmp_path, split="path", group="key")
    assert [(f.id, f.about.group, f.about.split) for f in found][1:3] == [
        ("val-00.tar/p1_1.right.png", "p1", "val"),
        ("val-00.tar/p1_2.left.png", "p1", "val"),
    ]
    assert len(read("webdataset", tmp_path, image="left.png")) == 3


# --- Parquet of the Hub ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("struct", [True, False])
def test_parquet_of_the_hub_gives_images_and_the_names_of_classes(tmp_path: Path, struct: bool) -> None:
    def image(content: bytes) -> Any:
        return {"bytes": content, "path": None} if struct else content

    features = {
        "image": {"_type": "Image"},
        "ill": {"_type": "ClassLabel", "names": ["no", "yes"]},
        "found": {"feature": {"_type": "ClassLabel", "names": ["edema", "mass"]}, "_type": "Sequence"},
    }
    names = ["edema", "mass"]
    rows = [
        {
            **row,
            "image": image(png(COLOUR)),
            "ill": i % 2,
            "found": [names.index(each) for each in str(row["found"]).split("|") if each],
        }
        for i, row in enumerate(ROWS)
    ]
    table = pa.Table.from_pylist(rows).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    pq.write_table(table, tmp_path / "train-00000-of-00001.parquet", row_group_size=7)
    found = {"kind": "multi-label", "columns": ["found"]}
    options = {**COLUMNS, "tasks": {**COLUMNS["tasks"], "found": found}}  # type: ignore[dict-item]
    items = list(reader("huggingface", tmp_path, **options).items())
    assert [item.span for item in items] == [(0, 7), (7, 14), (14, 18)]
    frames = read("huggingface", tmp_path, **options)
    assert told(frames) == EXPECTED
    assert frames[8].id == "train-00000-of-00001.parquet/8"
    np.testing.assert_array_equal(frames[17].pixels, COLOUR)
    assert reader("huggingface", tmp_path, **options).tasks()["ill"].classes == ("no", "yes")


def test_the_split_of_a_parquet_file_may_stand_in_its_name(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([{"image": png()}]), tmp_path / "validation-00000-of-00001.parquet")
    [item] = reader("huggingface", tmp_path, split="path").items()
    assert item.about.split == "val"


# --- all of them -------------------------------------------------------------------------------------------------


def test_readers_are_told_apart_by_their_options() -> None:
    for name, entry in READERS.items():
        assert entry.options.model_fields["reader"].annotation.__args__ == (name,)  # type: ignore[union-attr]
        assert callable(entry.load())


@pytest.mark.parametrize("name", ["folder", "npz", "webdataset", "huggingface", "table"])
def test_an_empty_folder_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match="path: "):
        list(reader(name, tmp_path).items())


@pytest.mark.parametrize(("name", "ending"), [("npz", ".npz"), ("webdataset", ".tar"), ("huggingface", ".parquet")])
def test_a_shard_behind_a_link_that_is_not_followed_is_not_just_missing(name: str, ending: str, tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / f"a{ending}").touch()
    (inside / f"a{ending}").symlink_to(outside / f"a{ending}")
    (inside / "more").symlink_to(outside)
    options = READERS[name].options.model_validate_json(json.dumps({"reader": name, "path": str(inside)}))
    with pytest.raises(SpecError) as refused:
        list(READERS[name].load()(options).items())
    assert [str(problem).split(": a link")[0] for problem in refused.value.problems] == [
        f"path: a{ending}",
        "path: more",
    ]
