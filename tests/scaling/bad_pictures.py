"""Kinds of bad pictures, packs, tables, shards and Parquet files, with what an import says of each."""

from __future__ import annotations

import csv
import io
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tifffile
from numpy.typing import NDArray
from PIL import Image

from scaling.errors import unknown
from scaling.importing.conversion import RULES
from tests.scaling.bad_case import BadCase

N = 2
"""Good neighbours of a bad image."""
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (48, 48), dtype=np.uint8)
Make = Callable[[Path], object]


def encoded(pixels: NDArray = NOISE, kind: str = "png", **how: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **how)
    return file.getvalue()


def tiff(pixels: NDArray, **how: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **how)
    return file.getvalue()


def announced(width: int, height: int) -> bytes:
    """A PNG of that size, of whose pixels there is almost nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def good(folder: Path) -> None:
    for i in range(N):
        (folder / f"good{i}.png").write_bytes(encoded(np.roll(NOISE, i)))


# --- pictures in a folder ----------------------------------------------------------------------------------------


def _file(name: str, content: bytes) -> Make:
    def make(folder: Path) -> None:
        good(folder)
        (folder / name).write_bytes(content)

    return make


def _link(target: Callable[[Path], object]) -> Make:
    def make(folder: Path) -> None:
        good(folder)
        (folder / "bad.png").symlink_to(str(target(folder)))

    return make


def _outside(folder: Path) -> Path:
    path = folder.parent / "secret.png"
    path.write_bytes(encoded())
    return path


def _not_utf8(folder: Path) -> None:
    good(folder)
    with open(os.fsencode(folder) + b"/b\xffd.png", "wb") as file:
        file.write(encoded())


def _damaged_page(folder: Path) -> None:
    good(folder)
    content = bytearray(tiff(np.stack([NOISE] * 3), photometric="minisblack", compression="zlib"))
    with tifffile.TiffFile(io.BytesIO(bytes(content))) as file:
        [at, *_] = file.pages[1].dataoffsets
    content[at : at + 9] = b"\xff" * 9
    (folder / "bad.tif").write_bytes(content)


def _classes(*names: str, splits: tuple[str, ...] = ("train", "val", "test")) -> Make:
    def make(folder: Path) -> None:
        for split in splits:
            for i, name in enumerate(names):
                (folder / split / name).mkdir(parents=True)
                (folder / split / name / "a.png").write_bytes(encoded(np.roll(NOISE, i + 10 * len(split))))

    return make


FOLDER: Mapping[str, Any] = {"reader": "folder", "modality": "xray"}
TASK = {"name": "side", "kind": "binary"}


def _picture(name: str, make: Make, aside: str, **options: Any) -> BadCase:
    return BadCase(name=name, options={**FOLDER, **options}, make=make, aside=aside, n_good=N)


def _no_folder(name: str, make: Make, error: str, **options: Any) -> BadCase:
    return BadCase(name=name, options={**FOLDER, **options}, make=make, error=error)


FLOATS = NOISE.astype(np.float32)
PICTURES = [
    _picture("truncated PNG", _file("bad.png", encoded()[:900]), "truncated image"),
    _picture("PNG cut inside its header", _file("bad.png", encoded()[:20]), "damaged image: ..."),
    _picture("truncated JPEG", _file("bad.jpg", encoded(kind="jpeg")[:700]), "truncated image"),
    _picture("truncated TIFF", _file("bad.tif", tiff(NOISE)[:1500]), "truncated image"),
    _picture("TIFF cut inside its header", _file("bad.tif", tiff(NOISE)[:10]), "truncated image"),
    _picture("truncated BMP", _file("bad.bmp", encoded(kind="bmp")[:900]), "truncated image"),
    BadCase(
        name="damaged page of a TIFF", options=FOLDER, make=_damaged_page, aside="damaged image: ...", n_good=N + 2
    ),
    _picture("zero-byte file", _file("bad.png", b""), "empty file"),
    _picture("text named .png", _file("bad.png", b"404 Not Found\n"), "no image"),
    _picture(
        "PostScript named .png", _file("bad.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "no image"
    ),
    _picture("zeros named .jpg", _file("bad.jpg", bytes(5000)), "no image"),
    _picture(
        "PNG that announces 10 Gpx",
        _file("bad.png", announced(100_000, 100_000)),
        "too large: more than 268435456 pixels",
    ),
    _picture(
        "larger than the user allows",
        _file("bad.png", encoded(np.tile(NOISE, (3, 3)))),
        "too large: more than 9999 pixels",
        max_pixels=9999,
    ),
    _picture("blank image", _file("bad.png", encoded(np.full((9, 9), 7, np.uint8))), "blank: every pixel is the same"),
    _picture("1-pixel image", _file("bad.png", encoded(NOISE[:1, :1])), "blank: every pixel is the same"),
    _picture(
        "NaN in a TIFF",
        _file("bad.tif", tiff(np.where(NOISE > 250, np.nan, FLOATS))),
        "... of ... pixels are NaN or infinite",
    ),
    _picture(
        "infinity in a TIFF",
        _file("bad.tif", tiff(np.where(NOISE > 250, np.inf, FLOATS))),
        "... of ... pixels are NaN or infinite",
    ),
    _picture(
        "complex TIFF",
        _file("bad.tif", tiff(NOISE.astype(np.complex64))),
        "pixels of type complex...; integers and real numbers can be stored",
    ),
    _picture("link out of the folder", _link(_outside), "path outside the folder"),
    _picture(
        "link to itself",
        _link(lambda folder: folder / "bad.png"),
        "cannot be opened: Too many levels of symbolic links",
    ),
    _picture("link to nothing", _link(lambda folder: folder / "gone.png"), "missing file"),
    _picture("file name that is not UTF-8", _not_utf8, "name is not UTF-8"),
    _picture(
        "path without the group",
        _file("bad.png", encoded()),
        "the pattern of `group` finds nothing in the path",
        group=r"(good\d)",
    ),
    _picture(
        "no modality for a path",
        _file("bad.png", encoded()),
        "its modality is not known; give `modality:`",
        modality={"good*": "xray"},
    ),
    _no_folder("empty folder", lambda folder: None, "no picture in"),
    _no_folder(
        "folder of hidden files and Thumbs.db", _file(".hidden.png", b""), "none of its 2 items is usable", max_pixels=9
    ),
    _no_folder("one class of two", _classes("left"), "1 classes by the paths (left)", task=TASK, split="folder"),
    _no_folder(
        "class that is not named",
        _classes("left", "odd"),
        "found odd, which are no classes; named are left, right",
        task={**TASK, "classes": ["left", "right"]},
        split="folder",
    ),
    _no_folder(
        "no test split",
        _classes("left", "right", splits=("train", "val")),
        "has no labelled image in test",
        task=TASK,
        split="folder",
    ),
    _no_folder("group that is no regular expression", good, "'(' is no regular expression", group="("),
    _no_folder("group without parentheses", good, "has 0 groups in parentheses", group="a"),
]

# --- packs -------------------------------------------------------------------------------------------------------

PACK: Mapping[str, Any] = {"reader": "npz", "modality": "ct"}
IMAGES = np.stack([np.roll(NOISE, i) for i in range(N)])


def _pack(save: Callable[[Path], object]) -> Make:
    def make(folder: Path) -> None:
        np.savez(folder / "good.npz", train_images=IMAGES)
        save(folder / "bad.npz")

    return make


def _arrays(**arrays: Any) -> Make:
    return _pack(lambda path: np.savez(path, **arrays))


def _damaged(n: int, *, keep: int | None = None) -> Make:
    """A byte in the middle of the first member changed, or the file cut."""

    def save(path: Path) -> None:
        np.savez(path, train_images=np.tile(IMAGES, (9, 1, 1)))
        content = bytearray(path.read_bytes())
        content[n] ^= 0xFF
        path.write_bytes(content[:keep])

    return _pack(save)


def _bomb(path: Path) -> None:
    """Announces 2 GB of images in 9 bytes."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2 << 20, 32, 32)})  # type: ignore[arg-type]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train_images.npy", header.getvalue() + bytes(1000))
    content = path.read_bytes()
    size = struct.pack("<I", len(header.getvalue()) + 1000)
    path.write_bytes(content.replace(size, struct.pack("<I", len(header.getvalue()) + (2 << 30))))


def _labels(kind: str, labels: NDArray, **more: Any) -> tuple[Make, Mapping[str, Any]]:
    arrays = {f"{s}_images": IMAGES for s in ("train", "val", "test")} | {
        f"{s}_labels": labels for s in ("train", "val", "test")
    }
    return (lambda folder: np.savez(folder / "a.npz", **arrays)), {"a.npz": {"name": "t", "kind": kind, **more}}


def _no_labels(name: str, error: str, kind: str, labels: NDArray, **more: Any) -> BadCase:
    make, tasks = _labels(kind, labels, **more)
    return BadCase(name=name, options={**PACK, "tasks": tasks}, make=make, error=error)


def _bad_pack(name: str, make: Make, aside: str, **options: Any) -> BadCase:
    return BadCase(name=name, options={**PACK, **options}, make=make, aside=aside, n_good=N)


PACKS = [
    _bad_pack(
        "pickled objects",
        _arrays(train_images=np.array([{"a": 1}, None], object)),
        "no pack: bad.npz: train_images.npy holds Python objects, which are never loaded; save plain numbers",
    ),
    _bad_pack(
        "images of text", _arrays(train_images=np.array([["a"], ["b"]])), "no pack: train_images is <U... (... ...)"
    ),
    _bad_pack(
        "images without rows", _arrays(train_images=IMAGES[:0]), "no pack: train_images is uint... (... ... ...)"
    ),
    _bad_pack(
        "other names",
        _arrays(x=IMAGES, y=np.zeros(2)),
        "no pack: none of train_images, val_images, test_images among x, y",
    ),
    _bad_pack(
        "lengths that disagree",
        _arrays(train_images=IMAGES, train_labels=np.zeros((3, 1), int)),
        "no pack: train_labels is (... ...), train_images (... ... ...): rows must be as many",
    ),
    _bad_pack(
        "bomb",
        _pack(_bomb),
        "decompression bomb: announces ... bytes unpacked from ... which cannot be; it may be a decompression bomb",
    ),
    _bad_pack("truncated pack", _damaged(0, keep=9000), "no pack: File is not a zip file"),
    _bad_pack("changed byte", _damaged(9000), "damaged pack"),
    _bad_pack("text named .npz", _pack(lambda path: path.write_text("no")), "no pack: File is not a zip file"),
    _bad_pack(
        "NaN voxels of a pack",
        _arrays(train_images=np.where(IMAGES[:1] > 250, np.nan, IMAGES[:1])),
        "... of ... pixels are NaN or infinite",
    ),
    _no_labels(
        "labels above the classes",
        "labels from 1 to 7; 0 to 1 are allowed",
        "binary",
        np.array([[1], [7]]),
        classes=["a", "b"],
    ),
    _no_labels("negative labels", "labels from -1 to 0; 0 to 1 are allowed", "binary", np.array([[-1], [0]])),
    _no_labels("labels that are reals", "train_labels holds no whole numbers", "binary", np.array([[0.5], [1.0]])),
    _no_labels(
        "too many columns of labels", "labels of [2] columns; 1 is allowed", "multi-class", np.zeros((2, 2), int)
    ),
    BadCase(
        name="group that is not in the pack",
        options={**PACK, "group": "patients"},
        make=_arrays(train_images=IMAGES),
        error="no member train_patients; there are train_images",
    ),
    BadCase(
        name="task of a file that is not there",
        options={**PACK, "tasks": {"no.npz": {"name": "t", "kind": "binary"}}},
        make=_arrays(train_images=IMAGES),
        error="no such file; there are bad.npz, good.npz",
    ),
]

# --- tables ------------------------------------------------------------------------------------------------------

TABLE: Mapping[str, Any] = {"reader": "table", "modality": "xray"}


def _csv(*rows: Mapping[str, Any], encoding: str = "utf-8") -> Make:
    def make(folder: Path) -> None:
        good(folder)
        _outside(folder)
        names = list(dict.fromkeys(name for row in rows for name in row))
        with open(folder / "table.csv", "w", newline="", encoding=encoding) as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)

    return make


GOOD = tuple({"path": f"good{i}.png"} for i in range(N))


def _row(name: str, aside: str, *rows: Mapping[str, Any], **options: Any) -> BadCase:
    return BadCase(name=name, options={**TABLE, **options}, make=_csv(*GOOD, *rows), aside=aside, n_good=N)


def _no_table(name: str, error: str, make: Make, **options: Any) -> BadCase:
    return BadCase(name=name, options={**TABLE, **options}, make=make, error=error)


def _with(**columns: Any) -> Make:
    """A row per good image with these cells."""
    return _csv(*({**row, **{name: cells[i] for name, cells in columns.items()}} for i, row in enumerate(GOOD)))


Y = {"tasks": {"y": {"kind": "binary", "columns": ["y"], "classes": ["no", "yes"]}}}
TABLES = [
    _row("row of a missing file", "missing file", {"path": "gone.png"}),
    _row("row without a path", "no path", {"path": ""}),
    _row("path with ..", "path outside the folder", {"path": "../secret.png"}),
    _row("absolute path", "path outside the folder", {"path": "/etc/passwd"}),
    _row("address instead of a path", "path outside the folder", {"path": "https://example.org/a.png"}),
    _row("path of a folder", "no regular file", {"path": "."}),
    _row("path twice", "its path stands in another row", {"path": "./good0.png"}),
    _row("file that is no image", "no image", {"path": "table.csv"}),
    BadCase(
        name="row without its group",
        options={**TABLE, "group": "patient"},
        make=_csv(*({**row, "patient": "p"} for row in GOOD), {"path": "table.csv", "patient": ""}),
        aside="no group in its column",
        n_good=N,
    ),
    BadCase(
        name="unknown modality in a column",
        options={"reader": "table", "modality_column": "m"},
        make=lambda folder: (
            _file("bad.png", encoded(NOISE.T))(folder),
            _csv(*({**row, "m": "ct"} for row in GOOD), {"path": "bad.png", "m": "odd"})(folder),
        ),
        aside=unknown("modality", "odd", RULES),
        n_good=N,
    ),
    _no_table(
        "path twice with other labels",
        "another row has the path and says otherwise of it",
        _csv({"path": "good0.png", "g": "a"}, {"path": "good0.png", "g": "b"}),
        group="g",
    ),
    _no_table("no column of paths", "no column 'path'; its columns: file", _csv({"file": "good0.png"})),
    _no_table("no column of the group", "no column 'patient'; its columns: path", _csv(*GOOD), group="patient"),
    _no_table(
        "label that is no class", "label 'maybe' is no class of task 'y': no, yes", _with(y=["no", "maybe"]), **Y
    ),
    _no_table("label out of range", "label '2' is no class of task 'y': no, yes", _with(y=[1, 2]), **Y),
    _no_table(
        "multi-label that is not 0 or 1",
        "label '3' of task 'y'; 0, 1 and empty are allowed",
        _with(a=[0, 3], b=[1, 1]),
        tasks={"y": {"kind": "multi-label", "columns": ["a", "b"]}},
    ),
    _no_table("unknown split", "split 'holdout' in column 's'; known: train", _with(s=["train", "holdout"]), split="s"),
    _no_table(
        "labels of one split",
        "has no labelled image in val and test",
        _with(y=["no", "yes"], s=["train", "train"]),
        split="s",
        **Y,
    ),
    _no_table(
        "labels that are all null",
        "0 classes; a binary task has 2",
        _with(y=["", ""]),
        tasks={"y": {"kind": "binary", "columns": ["y"]}},
    ),
    _no_table("Latin-1", "is not UTF-8: byte 0xe9", _csv({"path": "\xe9.png"}, encoding="latin-1")),
    _no_table("UTF-16", "is not UTF-8: byte 0xff", _csv({"path": "a.png"}, encoding="utf-16")),
    _no_table("table without rows", "has no rows", lambda folder: (folder / "t.csv").write_text("path\n")),
    _no_table("empty table", "no column 'path'; its columns: none", lambda folder: (folder / "t.csv").write_text("")),
    _no_table(
        "two tables",
        "has 2 tables (a.csv, b.csv); name the one to read",
        lambda folder: [(folder / name).write_text("path\n") for name in ("a.csv", "b.csv")],
    ),
    _no_table(
        "text named .parquet",
        "t.parquet: is no Parquet file",
        lambda folder: (folder / "t.parquet").write_text("path\n"),
    ),
]

# --- shards ------------------------------------------------------------------------------------------------------

SHARDS: Mapping[str, Any] = {"reader": "webdataset", "modality": "xray"}


def _tar(*members: tuple[str, bytes] | tarfile.TarInfo, cut: int | None = None) -> Make:
    def make(folder: Path) -> None:
        _outside(folder)
        with tarfile.open(folder / "a.tar", "w") as archive:
            for member in (*((f"good{i}.png", encoded(np.roll(NOISE, i))) for i in range(N)), *members):
                info = tarfile.TarInfo(member[0]) if isinstance(member, tuple) else member
                content = member[1] if isinstance(member, tuple) else b""
                if isinstance(member, tuple):
                    info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        if cut is not None:
            with open(folder / "a.tar", "r+b") as file:
                file.truncate(cut)

    return make


def _special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def _huge(folder: Path) -> None:
    """The last member's header announces 5 GB of a file that is none."""
    _tar()(folder)
    info = tarfile.TarInfo("bad.png")
    info.size = 5 << 30
    with open(folder / "a.tar", "r+b") as file:
        with tarfile.open(folder / "a.tar") as archive:
            end = max(each.offset_data + -(-each.size // 512) * 512 for each in archive)
        file.seek(end)
        file.write(info.tobuf())
        file.truncate()


def _shard(name: str, aside: str, *members: Any, make: Make | None = None, **options: Any) -> BadCase:
    return BadCase(name=name, options={**SHARDS, **options}, make=make or _tar(*members), aside=aside, n_good=N)


WHOLE = len(encoded(np.roll(NOISE, 0)))
LEFT = -(-WHOLE // 512) * 512 + 512
"""Where the second of two images of a shard has its header."""


def _gz(folder: Path) -> None:
    _tar()(folder)
    with tarfile.open(folder / "b.tar.gz", "w:gz") as archive:
        archive.add(folder / "a.tar", "x.png")


def _json(*values: bytes) -> tuple[Any, ...]:
    return tuple((f"good{i}.json", value) for i, value in enumerate(values))


def _described(folder: Path) -> None:
    with tarfile.open(folder / "a.tar", "w") as archive:
        for name, about in (("a", b'{"p": "x"}'), ("b", b'{"p": "y"}'), ("c", b'{"p": ')):
            for ending, content in (("png", encoded(np.roll(NOISE, ord(name)))), ("json", about)):
                info = tarfile.TarInfo(f"{name}.{ending}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


TARS = [
    _shard("tar member with ..", "path outside the folder", ("../../bad.png", encoded())),
    _shard("absolute tar member", "path outside the folder", ("/etc/bad.png", encoded())),
    _shard("Windows path in a tar", "path outside the folder", ("C:\\bad.png", encoded())),
    _shard("tar symlink", "a link", _special("bad.png", tarfile.SYMTYPE, "../secret.png")),
    _shard("tar hard link", "a link", _special("bad.png", tarfile.LNKTYPE, "/etc/passwd")),
    _shard("device in a tar", "no regular file", _special("bad.png", tarfile.CHRTYPE)),
    _shard("FIFO in a tar", "no regular file", _special("bad.png", tarfile.FIFOTYPE)),
    _shard("tar member that announces 5 GB", "too large: more than 2147483648 bytes", make=_huge),
    _shard("tar in a tar", "no image in the sample", ("bad.tar", bytes(2000))),
    _shard("member twice", "its name stands twice in the shard", ("good0.png", encoded(NOISE.T))),
    _shard("damaged image in a tar", "truncated image", ("bad.png", encoded()[:900])),
    _shard("compressed shard", "compressed shard; unpack it to .tar", make=_gz),
    _shard("damaged metadata", "damaged metadata", make=_described, group="p"),
    BadCase(
        name="tar cut inside a member", options=SHARDS, make=_tar(cut=LEFT + 900), aside="truncated file", n_good=1
    ),
    BadCase(
        name="tar cut inside a header", options=SHARDS, make=_tar(cut=LEFT + 100), aside="truncated archive", n_good=1
    ),
    BadCase(
        name="text named .tar",
        options=SHARDS,
        make=lambda folder: (folder / "a.tar").write_text("no"),
        error="none of its 1 items is usable: 1 truncated archive",
    ),
]

# --- Parquet of the Hub ------------------------------------------------------------------------------------------

HUB: Mapping[str, Any] = {"reader": "huggingface", "modality": "xray"}


def _parquet(*cells: Any, cut: int | None = None, **columns: Any) -> Make:
    def make(folder: Path) -> None:
        rows = [{"bytes": encoded(np.roll(NOISE, i)), "path": None} for i in range(N)]
        pq.write_table(pa.table({"image": [*rows, *cells], **columns}), folder / "a.parquet")
        if cut is not None:
            pq.write_table(pa.table({"image": rows}), folder / "b.parquet")
            (folder / "a.parquet").write_bytes((folder / "a.parquet").read_bytes()[:-cut])

    return make


def _hub(name: str, aside: str, make: Make, **options: Any) -> BadCase:
    return BadCase(name=name, options={**HUB, **options}, make=make, aside=aside, n_good=N)


def _no_hub(name: str, error: str, make: Make, **options: Any) -> BadCase:
    return BadCase(name=name, options={**HUB, **options}, make=make, error=error)


HUBS = [
    _hub(
        "path instead of bytes",
        "a path without bytes; nothing is fetched",
        _parquet({"bytes": None, "path": "https://example.org/a.png"}),
    ),
    _hub("null image", "no image", _parquet(None)),
    _hub("empty bytes", "empty file", _parquet({"bytes": b"", "path": None})),
    _hub("bytes that are text", "no image", _parquet({"bytes": b"hello", "path": None})),
    _hub("truncated Parquet", "damaged Parquet file", _parquet(cut=20)),
    _hub(
        "null group",
        "no group in its column",
        _parquet({"bytes": encoded(NOISE.T), "path": None}, p=["a", "b", None]),
        group="p",
    ),
    _no_hub(
        "column that holds no images",
        "column 'p' holds no images; its columns: image",
        _parquet(p=["a", "b"]),
        image="p",
    ),
    _no_hub("two columns of images", "2 columns hold images; name one by `image:`", _parquet(other=[b"", b""])),
    _no_hub("no column of the labels", "no column 'y'; its columns: image", _parquet(), **Y),
    _no_hub("code that is no class", "label '2' is no class of task 'y': no, yes", _parquet(y=[0, 2]), **Y),
]

CASES = [*PICTURES, *PACKS, *TABLES, *TARS, *HUBS]
