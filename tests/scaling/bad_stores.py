"""Kinds of damage to a finished store, with what `scaling data verify` says; of imports that cannot be meant."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scaling.store.writing import sha256_of


@dataclass(frozen=True, kw_only=True)
class BadStore:
    name: str
    damage: Callable[[Path], object]
    """Of the folder of a source."""
    said: str
    """By verify, as a proof of state `wrong` or as an error."""


@dataclass(frozen=True, kw_only=True)
class BadYaml:
    name: str
    yaml: str
    """Beside a folder `in` with good pictures."""
    said: str


def _flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def _pixel(source: Path) -> None:
    _flip(source / "images-00000.npy", 5000)


def _card(source: Path, **changed: Any) -> None:
    card = json.loads((source / "source.json").read_text())
    (source / "source.json").write_text(json.dumps(card | changed))


def _manifest(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], object]:
    """Changed by somebody who puts its new SHA-256 into the card."""

    def damage(source: Path) -> None:
        path = source / "manifest.parquet"
        table = change(pq.read_table(path))
        path.unlink()
        pq.write_table(table, path)
        _card(source, manifest_sha256=sha256_of(path))

    return damage


def _set(table: pa.Table, column: str, values: list[Any]) -> pa.Table:
    at = table.schema.get_field_index(column)
    kind = table.schema.field(at).type
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return table.set_column(at, table.schema.field(at), pa.array(values, plain).cast(kind))


def _first_twice(column: str) -> Callable[[Path], object]:
    def change(table: pa.Table) -> pa.Table:
        values = table[column].to_pylist()
        return _set(table, column, [values[1], *values[1:]])

    return _manifest(change)


def _all(column: str, value: Any) -> Callable[[Path], object]:
    return _manifest(lambda table: _set(table, column, [value] * len(table)))


def _linked(source: Path) -> None:
    path = source / "images-00000.npy"
    path.rename(source.parent.parent / "elsewhere.npy")
    path.symlink_to(source.parent.parent / "elsewhere.npy")


def _pickled(source: Path) -> None:
    path = source / "images-00000.npy"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"'|u1'", b"'|O' "))


def _more_patients(source: Path) -> None:
    """One patient in all splits."""
    from scaling.store.layout import group_hashes

    def change(table: pa.Table) -> pa.Table:
        table = _set(table, "group", ["one"] * len(table))
        return table.set_column(
            table.schema.get_field_index("group_hash"),
            table.schema.field("group_hash"),
            pa.array(group_hashes(["one"] * len(table))),
        )

    _manifest(change)(source)
    _card(source, n_groups=1)


STORES = [
    BadStore(
        name="a pixel changed", damage=_pixel, said="1 images are not as they were written, the first slices/0006.png"
    ),
    BadStore(
        name="part cut short",
        damage=lambda source: os.truncate(source / "images-00000.npy", 9000),
        said="is cut short: 9,000 bytes, not 25,216",
    ),
    BadStore(name="part missing", damage=lambda source: (source / "images-00000.npy").unlink(), said="is missing"),
    BadStore(name="part is a link", damage=_linked, said="is a link; a store holds plain files of its own alone"),
    BadStore(
        name="part that would unpickle",
        damage=_pickled,
        said="is no readable part: Array can't be memory-mapped: Python objects",
    ),
    BadStore(
        name="file that no card lists",
        damage=lambda source: (source / "x.npy").touch(),
        said="files that no card lists, which nothing reads: x.npy",
    ),
    BadStore(
        name="byte of the manifest changed",
        damage=lambda source: _flip(source / "manifest.parquet", 200),
        said="was changed since it was written: its SHA-256 is not its card's",
    ),
    BadStore(
        name="manifest cut short",
        damage=lambda source: os.truncate(source / "manifest.parquet", 999),
        said="is no readable Parquet file",
    ),
    BadStore(
        name="manifest of fewer rows",
        damage=_manifest(lambda table: table.slice(1)),
        said="has 119 rows for 120 images",
    ),
    BadStore(
        name="manifest without a column",
        damage=_manifest(lambda table: table.drop_columns(["phash"])),
        said="lacks phash",
    ),
    BadStore(name="image id twice", damage=_first_twice("image_id"), said="1 rows have an image id of another row"),
    BadStore(
        name="checksum of another image",
        damage=_first_twice("checksum"),
        said="keys are not the beginnings of checksums",
    ),
    BadStore(name="key of another image", damage=_first_twice("key"), said="keys are not the beginnings of checksums"),
    BadStore(
        name="perceptual hash of another image",
        damage=_first_twice("phash"),
        said="perceptual hashes are not those of its images",
    ),
    BadStore(
        name="modality of another name",
        damage=_all("modality", "odd"),
        said="images by modality are not those of the card",
    ),
    BadStore(
        name="split nobody knows",
        damage=_all("split", "holdout"),
        said="has split 'holdout'; allowed: train, val, test",
    ),
    BadStore(
        name="one patient in all splits", damage=_more_patients, said="1 groups stand in several splits, such as 'one'"
    ),
    BadStore(
        name="label above its task's classes",
        damage=_all("label.side", 7),
        said="has labels of task 'side' from 7 to 7; 0 to 1 allowed",
    ),
    BadStore(
        name="card that counts another number of images",
        damage=lambda source: _card(source, n_images=7),
        said="says 7 images and lists 120 in its parts",
    ),
    BadStore(
        name="card with a path as its name",
        damage=lambda source: _card(source, name="../../etc"),
        said="is no card of a source: name: String should match pattern",
    ),
    BadStore(
        name="card with a key nobody knows",
        damage=lambda source: _card(source, run="rm"),
        said="is no card of a source: run: Extra inputs are not permitted",
    ),
    BadStore(
        name="card that is no JSON",
        damage=lambda source: (source / "source.json").write_text("{"),
        said="is no card of a source: it: Invalid JSON",
    ),
    BadStore(
        name="store of another version",
        damage=lambda source: (source.parent / "store.json").write_text('{"version": 9, "image_size": 28}'),
        said="is no card of a store that this version reads",
    ),
]


def _yaml(name: str, said: str, sources: str, *, store: str = "store", more: str = "") -> BadYaml:
    return BadYaml(name=name, said=said, yaml=f"store: {store}\nimage_size: 16\n{more}sources:\n{sources}")


PLAIN = "reader: folder, path: in, modality: xray"
YAMLS = [
    _yaml(
        "source with a path as its name",
        "'../etc' is no name: small letters, digits, - and _ only",
        f"  ../etc: {{{PLAIN}}}\n",
    ),
    _yaml(
        "two sources of one name",
        "sources.a: stands twice, first in line 4; keep one",
        f"  a: {{{PLAIN}}}\n  a: {{{PLAIN}}}\n",
    ),
    _yaml(
        "modality that is misspelt",
        "unknown modality 'xrayy'; did you mean 'xray'?",
        "  a: {reader: folder, path: in, modality: xrayy}\n",
    ),
    _yaml("unknown reader", "unknown reader 'foldr'; did you mean 'folder'?", "  a: {reader: foldr, path: in}\n"),
    _yaml("unknown key", "unknown key 'grop'; did you mean 'group'?", f"  a: {{{PLAIN}, grop: x}}\n"),
    _yaml("path that is not there", "gone is not there", "  a: {reader: folder, path: gone}\n"),
    _yaml("no path", "sources.a.path: is missing; add the folder or file to read", "  a: {reader: folder}\n"),
    _yaml("no sources", "sources: dictionary should have at least 1 item", "  {}\n"),
    _yaml(
        "store inside what is read",
        "which source 'a' reads; put the store beside it",
        f"  a: {{{PLAIN}}}\n",
        store="in/store",
    ),
    _yaml(
        "code for a source",
        "no valid YAML: could not determine a constructor for the tag",
        "  a: !!python/object/apply:os.system [ls]\n",
    ),
    _yaml("wrong type", 'max_pixels: should be an integer (got "many")', f"  a: {{{PLAIN}, max_pixels: many}}\n"),
    _yaml(
        "binary task of columns",
        "a binary task has one column, not 2",
        "  a: {reader: table, path: in, tasks: {y: {kind: binary, columns: [a, b]}}}\n",
    ),
]
