"""Arrays streamed out of an `.npz`, rows by rows: NumPy reads a member whole and never maps one of an archive.

Row of data/; the importer's reader and the `medmnist` source stand on it. Never unpickles, and never reads more of a
member than its own header and the archive's directory both announce.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

CHUNK_BYTES = 32 * 2**20
"""Of the rows that are in memory at a time, unless one row alone is larger."""
SUFFIX = ".npy"


class BadNpz(ValueError):
    """A file that is no readable `.npz`, or a member of one that is no plain array; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """An array of an archive, as its header announces it."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)


def members(path: Path) -> dict[str, Member]:
    """Name -> array; reads headers alone. Raises BadNpz, and OSError where the file cannot be opened."""
    with _opened(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(SUFFIX)]
        found = [_member(archive, name)[0] for name in names]
    return {member.name: member for member in found}


def rows(path: Path, name: str, *, n_rows: int | None = None) -> Iterator[NDArray]:
    """(<= n_rows, ...) each, in order; by default so many that they take `CHUNK_BYTES`. Raises BadNpz when it comes to
    what is damaged."""
    with _opened(path) as archive:
        member, stream = _member(archive, name + SUFFIX)
        length = member.n_bytes // member.shape[0] if member.shape and member.shape[0] else 0
        if not length:  # a scalar, or an array without elements
            yield np.frombuffer(_taken(stream, member.n_bytes, path, name), member.dtype).reshape(member.shape)
            return
        step = n_rows or max(1, CHUNK_BYTES // length)
        for first in range(0, member.shape[0], step):
            n = min(step, member.shape[0] - first)
            yield np.frombuffer(_taken(stream, n * length, path, name), member.dtype).reshape(n, *member.shape[1:])


def whole(path: Path, name: str) -> NDArray:
    """All of a member, for those that are small: labels, names of classes. Raises BadNpz."""
    return np.concatenate(list(rows(path, name))) if members(path)[name].shape else next(rows(path, name))


def _opened(path: Path) -> ZipFile:
    try:
        return ZipFile(path)
    except BadZipFile as error:
        raise BadNpz(f"{path} is no .npz: {error}") from None


def _member(archive: ZipFile, name: str) -> tuple[Member, IO[bytes]]:
    """With the stream behind its header."""
    try:
        info = archive.getinfo(name)
        stream = archive.open(info)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        shape, fortran, dtype = read[npy.read_magic(stream)](stream)
    except (KeyError, ValueError, EOFError, BadZipFile, NotImplementedError, RuntimeError, zlib.error) as error:
        raise BadNpz(f"{archive.filename}: {name} is no array: {error}") from None
    if min(shape, default=0) < 0:
        raise BadNpz(f"{archive.filename}: {name} is no array: its shape is {shape}")
    if dtype.hasobject:
        raise BadNpz(f"{archive.filename}: {name} holds Python objects, which are never loaded; save plain numbers")
    if fortran and len(shape) > 1:
        raise BadNpz(f"{archive.filename}: {name} lies column by column; save np.ascontiguousarray of it")
    member = Member(name=name.removesuffix(SUFFIX), dtype=dtype, shape=shape)
    if stream.tell() + member.n_bytes != info.file_size:
        raise BadNpz(
            f"{archive.filename}: {name} announces {member.n_bytes:,} bytes of {dtype} {shape}; the archive has "
            f"{info.file_size - stream.tell():,} of it"
        )
    return member, stream


def _taken(stream: IO[bytes], n_bytes: int, path: Path, name: str) -> bytes:
    """So many bytes, no fewer."""
    try:
        content = stream.read(n_bytes)
    except (EOFError, BadZipFile, OSError, zlib.error) as error:
        raise BadNpz(f"{path}: {name} is damaged: {error}") from None
    if len(content) < n_bytes:
        raise BadNpz(f"{path}: {name} is cut short")
    return content
