"""What a store is on disk: memory-mapped images and a manifest per source, made once and read for ever. Row of data/.

STORE/store.json                    version, image_size
STORE/NAME/source.json              `SourceCard`
STORE/NAME/manifest.parquet         a row per image, in the order of the parts' images
STORE/NAME/quarantine.parquet       what could not be used: item, reason
STORE/NAME/images-00000.npy, ...    uint8 (n, channels, size, size), the parts
STORE/.NAME.importing/              an import under way: finished parts with their rows; becomes NAME at its end
STORE/.copies/                      tables of images of a pool that are copies of what tasks are judged by
STORE/.NAME.lock                    held by the one import of that name that runs
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from scaling.data.source import Images, TaskKind
from scaling.data.splitmix import mix
from scaling.options import Options

VERSION = 1
NAME = re.compile(r"^[a-z0-9][a-z0-9_-]{0,63}$")
"""Of a source: a folder of the store, and nothing else."""
TABLES = ".copies"
LABEL = "label."
"""Prefix of the manifest's label columns: `label.TASK`, int16 class or list<uint8> of 0/1, null without a label."""

COLUMNS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),  # as the reader named it
        pa.field("key", pa.uint64(), nullable=False),  # first 8 bytes of the checksum, little endian
        pa.field("checksum", pa.binary(16), nullable=False),  # BLAKE2b of the stored image
        pa.field("phash", pa.uint64(), nullable=False),  # perceptual hash
        pa.field("modality", pa.dictionary(pa.int16(), pa.string()), nullable=False),
        pa.field("group", pa.string(), nullable=False),  # patient, study or slide; the image id without one
        pa.field("group_hash", pa.uint64(), nullable=False),  # of its text, so that opening a store touches no text
        pa.field("split", pa.dictionary(pa.int8(), pa.string())),  # train, val, test; null: only to pretrain on
        pa.field("height", pa.int32(), nullable=False),  # before resizing
        pa.field("width", pa.int32(), nullable=False),
    ]
)
QUARANTINE = pa.schema([pa.field("item", pa.string(), nullable=False), pa.field("reason", pa.string(), nullable=False)])


class StoreCard(Options):
    """store.json."""

    version: Literal[1] = 1
    image_size: int = Field(gt=0)
    """Of every image of every source."""


class TaskCard(Options):
    kind: TaskKind
    classes: list[str]


class Part(Options):
    n_images: int = Field(gt=0)
    sha256: str
    """Of the part's file."""


class SourceCard(Options):
    """source.json: what a source is, without reading its manifest."""

    name: str = Field(pattern=NAME.pattern)
    reader: str
    """How it was read, with `options`: giving both again is the same import."""
    options: dict[str, object]
    listing: str
    """SHA-256 of ids and stamps of all items: equal when nothing changed on disk."""
    channels: Literal[1, 3]
    n_images: int
    n_quarantined: int
    n_by_modality: dict[str, int]
    n_groups: int
    tasks: dict[str, TaskCard]
    parts: list[Part]
    manifest_sha256: str
    conversion: int = 0
    """Version of the rules that made 8 bits and squares of images; 0 where none was needed."""
    imported: str
    """UTC time, ISO 8601."""
    synthetic: bool = False


def schema_with(tasks: dict[str, TaskCard]) -> pa.Schema:
    """Columns of the manifest of a source with these tasks."""
    schema = COLUMNS
    for name, task in tasks.items():
        kind = pa.list_(pa.uint8()) if task.kind == "multi-label" else pa.int16()
        schema = schema.append(pa.field(LABEL + name, kind))
    return schema


def sources_of(store: Path) -> list[str]:
    """Names of the finished sources, in order. What an import has under way begins with a dot and is none."""
    return sorted(p.parent.name for p in store.glob("*/source.json") if NAME.match(p.parent.name))


def part_path(folder: Path, number: int) -> Path:
    return folder / f"images-{number:05d}.npy"


def checksums(images: Images) -> list[bytes]:
    """16 bytes of BLAKE2b of each image's pixels, with its shape: grey and colour are never one."""
    salt = f"{images.shape[1]}x{images.shape[2]}".encode()[:16]
    return [hashlib.blake2b(image.tobytes(), digest_size=16, salt=salt).digest() for image in images]


def keys_of(sums: list[bytes]) -> NDArray[np.uint64]:
    """(n,) of checksums."""
    return np.frombuffer(b"".join(each[:8] for each in sums), "<u8").astype(np.uint64)


def group_hashes(groups: Sequence[str]) -> NDArray[np.uint64]:
    """(n,) first 8 bytes of BLAKE2b of each group's name."""
    of = {group: hashlib.blake2b(group.encode(), digest_size=8).digest() for group in set(groups)}
    return np.frombuffer(b"".join(of[group] for group in groups), "<u8").astype(np.uint64)


def group_keys(source: str, hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """(n,) identity of each group, of `group_hashes`: patients of two sources are never one by their numbers alone."""
    return mix(hashes ^ group_hashes([source]))
