"""Arrays streamed out of an `.npz`: the same bytes as NumPy's own, a bounded part of them at a time."""

from __future__ import annotations

import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from scaling.data.npz_members import BadNpz, members, rows, whole

RNG = np.random.default_rng(0)
ARRAYS: dict[str, NDArray] = {
    "train_images": RNG.integers(0, 256, (50, 6, 6, 3), dtype=np.uint8),
    "train_labels": RNG.integers(0, 5, (50, 1)),
    "classes": np.array(["a", "bb"]),
    "scalar": np.array(3.5),
    "none": np.zeros((0, 6, 6), np.uint8),
}


@pytest.fixture(params=["stored", "deflated"])
def pack(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    save = {"stored": np.savez, "deflated": np.savez_compressed}[request.param]
    save(tmp_path / "pack.npz", **ARRAYS)
    return tmp_path / "pack.npz"


def test_headers_say_what_an_archive_holds(pack: Path) -> None:
    found = members(pack)
    assert {name: (each.dtype, each.shape) for name, each in found.items()} == {
        name: (array.dtype, array.shape) for name, array in ARRAYS.items()
    }


@pytest.mark.parametrize("n_rows", [None, 1, 7, 50, 99])
def test_rows_come_in_order_and_complete(pack: Path, n_rows: int | None) -> None:
    parts = list(rows(pack, "train_images", n_rows=n_rows))
    np.testing.assert_array_equal(np.concatenate(parts), ARRAYS["train_images"])
    assert all(len(part) <= (n_rows or 50) for part in parts)


@pytest.mark.parametrize("name", sorted(ARRAYS))
def test_a_whole_member_is_what_was_saved(pack: Path, name: str) -> None:
    np.testing.assert_array_equal(whole(pack, name), ARRAYS[name])


def test_rows_take_a_bounded_part_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaling.data.npz_members.CHUNK_BYTES", 2**18)
    np.savez_compressed(tmp_path / "large.npz", x=np.zeros((256, 64, 1024), np.uint8))  # 16 MiB
    tracemalloc.start()
    try:
        assert sum(len(part) for part in rows(tmp_path / "large.npz", "x")) == 256
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20  # a few chunks and zlib's windows, not the array
    finally:
        tracemalloc.stop()


def edited(pack: Path, name: str, content: bytes) -> Path:
    """The archive with one member's bytes replaced."""
    with zipfile.ZipFile(pack) as archive:
        held = {each: archive.read(each) for each in archive.namelist()}
    with zipfile.ZipFile(pack, "w") as archive:
        for each, old in held.items():
            archive.writestr(each, content if each == name else old)
    return pack


def test_python_objects_are_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(BadNpz, match=r"x.npy holds Python objects, which are never loaded"):
        members(tmp_path / "x.npz")


def test_a_header_that_announces_more_than_there_is_is_refused(pack: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "bomb.npy", np.zeros((2, 3), np.uint8))
    content = (tmp_path / "bomb.npy").read_bytes().replace(b"(2, 3)", b"(9000000000, 3)".ljust(6))
    head = content.index(b"\n")  # the header keeps its length
    content = content.replace(b" " * 9 + b"\n", b"\n", 1) if content[head - 9 : head].isspace() else content
    with pytest.raises(BadNpz, match=r"train_images.npy announces 27,000,000,000 bytes .* the archive has 6 of it"):
        members(edited(pack, "train_images.npy", content))


def test_what_lies_column_by_column_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.asfortranarray(np.ones((3, 4))))
    with pytest.raises(BadNpz, match=r"x.npy lies column by column"):
        members(tmp_path / "x.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"\x93NUMPY\x01\x00"], ids=["empty", "torn", "bare"])
def test_a_file_that_is_no_archive_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(BadNpz, match=r"x.npz is no .npz"):
        members(tmp_path / "x.npz")


def test_a_member_that_is_no_array_is_named(pack: Path) -> None:
    with pytest.raises(BadNpz, match=r"train_labels.npy is no array"):
        members(edited(pack, "train_labels.npy", b"junk"))


def test_a_damaged_member_is_found_when_it_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.arange(10_000))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[40_000] ^= 1
    (tmp_path / "x.npz").write_bytes(bytes(content))
    assert members(tmp_path / "x.npz")["x"].shape == (10_000,)
    with pytest.raises(BadNpz, match="x is damaged: Bad CRC-32"):
        list(rows(tmp_path / "x.npz", "x"))
