"""Folders of image files: every kind of pixels, labels and splits from paths, and files that are none."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scaling.errors import SpecError
from scaling.importing.folder import Folder, pixels_of
from scaling.importing.reader import Frame, Unreadable
from scaling.reader_options import FolderOptions

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (6, 9)).astype(np.uint16)


def reader(path: Path, **options: Any) -> Folder:
    return Folder(FolderOptions.model_validate({"reader": "folder", "path": str(path), **options}))


def frames(path: Path, **options: Any) -> list[Frame]:
    found = []
    for item in reader(path, **options).items():
        for frame in reader(path, **options).frames(item):
            assert isinstance(frame, Frame)
            found.append(frame)
    return found


def written(path: Path, pixels: np.ndarray = GREY, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **how)
    return path


@pytest.mark.parametrize("suffix", ["png", "tif", "tiff", "bmp", "PNG"])
@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_lossless_files_give_their_pixels(tmp_path: Path, suffix: str, pixels: np.ndarray) -> None:
    written(tmp_path / f"a.{suffix}", pixels)
    [frame] = frames(tmp_path)
    np.testing.assert_array_equal(frame.pixels, pixels)
    assert frame.id == f"a.{suffix}"


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_files_of_16_bits_keep_them(tmp_path: Path, suffix: str) -> None:
    written(tmp_path / f"a.{suffix}", DEEP)
    [frame] = frames(tmp_path)
    assert frame.pixels.dtype == np.uint16
    np.testing.assert_array_equal(frame.pixels, DEEP)


def test_reals_of_a_tiff_stay_reals(tmp_path: Path) -> None:
    written(tmp_path / "a.tif", GREY.astype(np.float32) / 7)
    np.testing.assert_array_equal(frames(tmp_path)[0].pixels, GREY.astype(np.float32) / 7)


def test_other_modes_become_grey_or_colour() -> None:
    image = Image.fromarray(COLOUR)
    np.testing.assert_array_equal(pixels_of(image.convert("P", palette=Image.Palette.ADAPTIVE, colors=54)), COLOUR)
    np.testing.assert_array_equal(pixels_of(Image.fromarray(GREY > 100)), (GREY > 100) * 255)
    clear = Image.fromarray(np.dstack([COLOUR, np.where(GREY > 100, 255, 0).astype(np.uint8)]))
    np.testing.assert_array_equal(pixels_of(clear), COLOUR * (GREY > 100)[..., None])
    assert pixels_of(image.convert("CMYK")).shape == COLOUR.shape


def test_pictures_are_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    written(tmp_path / "a.png", GREY, exif=exif)
    np.testing.assert_array_equal(frames(tmp_path)[0].pixels, GREY[::-1, ::-1])


def test_pages_of_a_tiff_are_images_of_one_group(tmp_path: Path) -> None:
    pages = [Image.fromarray(GREY), Image.fromarray(GREY + np.uint8(1))]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    found = frames(tmp_path)
    assert [frame.id for frame in found] == ["a.tif#0", "a.tif#1"]
    assert {frame.about.group for frame in found} == {"a.tif"}


def test_items_stand_in_order_and_links_out_of_the_folder_do_not_count(tmp_path: Path) -> None:
    inner = tmp_path / "in"
    for name in ("b/2.png", "a.png", "b/10.png", "b.png"):
        written(inner / name)
    written(tmp_path / "out" / "secret.png")
    (inner / "link.png").symlink_to(tmp_path / "out" / "secret.png")
    (inner / "folder").symlink_to(tmp_path / "out")
    (inner / "loop").symlink_to(inner)
    (inner / "notes.txt").touch()
    (inner / ".hidden.png").touch()
    assert [item.id for item in reader(inner).items()] == ["a.png", "b.png", "b/10.png", "b/2.png"]


def test_a_link_that_is_turned_around_after_listing_is_not_followed(tmp_path: Path) -> None:
    inner = tmp_path / "in"
    path = written(inner / "a.png")
    [item] = reader(inner).items()
    path.unlink()
    path.symlink_to(written(tmp_path / "secret.png"))
    with pytest.raises(Unreadable, match="a link out of the folder"):
        list(reader(inner).frames(item))


def test_paths_tell_groups_splits_labels_and_modalities(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        for name in ("ct/sick/p1-1.png", "mr/well/p2-1.png"):
            written(tmp_path / split / name)
    options = {
        "group": r"/(p\d+)-",
        "split": r"^(\w+)/",
        "modality": {"ct": "ct", "mr": "mr"},
        "task": {"name": "ill", "kind": "binary", "classes": ["well", "sick"]},
    }
    items = list(reader(tmp_path, **options).items())
    assert [(i.about.split, i.about.modality, i.about.labels) for i in items] == [
        (split, modality, {"ill": label})
        for split in ("test", "train", "val")
        for modality, label in (("ct", 1), ("mr", 0))
    ]
    assert {frame.about.group for frame in frames(tmp_path, **options)} == {"p1", "p2"}
    assert reader(tmp_path, **options).tasks()["ill"].classes == ("well", "sick")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": r"^(\w+)/"}, "split: finds 'odd' in odd/b.png; known: train, training, val"),
        ({"split": r"^\w+/"}, "has 0 groups in parentheses"),
        ({"group": "("}, "is no regular expression"),
        ({"task": {"name": "t", "kind": "binary"}}, "a binary task has 2 classes, not 3: ill, odd, well"),
        ({"task": {"name": "t", "kind": "ordinal", "classes": ["ill", "well"]}}, "'odd' of odd/b.png is no class"),
        (
            {"task": {"name": "t", "kind": "multi-class", "label": "/(we)"}},
            "finds no class in odd/b.png, odd/ill/c.png",
        ),
    ],
)
def test_what_paths_do_not_tell_is_an_error(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    for name in ("odd/well/a.png", "odd/b.png", "odd/ill/c.png"):
        written(tmp_path / name)
    with pytest.raises(SpecError, match=re.escape(said)):
        list(reader(tmp_path, **options).items())


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(SpecError, match=r"no file below .* ends in \.png"):
        list(reader(tmp_path).items())


NOISE = RNG.integers(0, 256, (64, 64), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.png", lambda whole: whole[:900], "a damaged image: "),
        ("a.jpg", lambda whole: whole[: len(whole) // 2], "a damaged image: "),
        ("a.tif", lambda whole: whole[: len(whole) // 2], "a damaged image: |no image: "),
        ("a.png", lambda whole: whole[:20], "no image: |a damaged image: "),
        ("a.png", lambda _: b"", "an empty file"),
        ("a.jpg", lambda _: b"hello, I am text", "no image: nothing that PNG, JPEG, TIFF"),
        # Pillow would start Ghostscript for this one
        ("a.png", lambda _: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "no image: nothing that PNG, JPEG"),
    ],
)
def test_files_that_are_no_images_say_why(
    tmp_path: Path, name: str, content: Callable[[bytes], bytes], reason: str
) -> None:
    path = written(tmp_path / name, NOISE)
    path.write_bytes(content(path.read_bytes()))
    [item] = reader(tmp_path).items()
    with pytest.raises(Unreadable, match=reason):
        list(reader(tmp_path).frames(item))


def test_images_of_too_many_pixels_are_not_decoded(tmp_path: Path) -> None:
    written(tmp_path / "a.png", NOISE)
    assert len(frames(tmp_path, max_pixels=64 * 64)) == 1
    with pytest.raises(Unreadable, match="64 x 64 pixels are above max_pixels"):
        frames(tmp_path, max_pixels=64 * 64 - 1)
