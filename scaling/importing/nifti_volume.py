"""Voxels of a NIfTI file, a volume at a time, and how they lie in the patient. Row of data/.

nibabel reads headers; voxels are mapped from plain files, and streamed out of compressed ones no further than the
header announces, so that neither a long 4D file nor a bomb fills the memory.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scaling.importing.intensity import rescaled
from scaling.importing.reader import Unreadable

MAX_VOLUME_BYTES = 4 * 2**30
"""Of one volume out of a compressed file, which is held in memory; a whole-body CT takes an eighth of it."""
MAX_HEADER_BYTES = 64 * 2**20
"""Header with its extensions, before the first voxel."""
LABELS = 1002
"""NIFTI_INTENT_LABEL of nifti1.h: voxels that name structures."""
Plane = Literal["axial", "coronal", "sagittal", "acquisition"]
NORMAL = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Plane -> the axis of right, anterior, superior that its slices are counted along."""


@dataclass(frozen=True, kw_only=True)
class Volumes:
    """What a header says of the voxels of a file."""

    path: Path
    """Of the voxels; a pair's `.img`."""
    offset: int
    dtype: np.dtype
    """As stored; structured for colour."""
    shape: tuple[int, int, int]
    n_volumes: int
    slope: float
    intercept: float
    affine: NDArray[np.float64]
    zooms: tuple[float, float, float]
    slice_axis: int
    """That the scanner went along, as far as the header says; else the last."""

    @property
    def n_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class View:
    """How slices of a plane are cut out of voxels, so that every storage order of one body gives the same pictures."""

    normal: int
    rows: int
    columns: int
    """Axes of the voxels."""
    backwards: tuple[bool, bool, bool]
    """Along normal, rows, columns."""
    spacing: tuple[float, float]
    """Of rows and of columns: a pixel's height and width."""

    def cut(self, voxels: NDArray, index: int) -> NDArray:
        """(rows, columns) of slice `index`, counted towards right, anterior or superior."""
        at = voxels.shape[self.normal] - 1 - index if self.backwards[0] else index
        plane = voxels[(slice(None),) * self.normal + (at,)]  # a view; np.take would copy the whole volume
        if self.rows > self.columns:
            plane = plane.T
        down, across = (-1 if back else 1 for back in self.backwards[1:])
        return plane[::down, ::across]


def volumes_of(path: Path) -> Volumes:
    """By the header alone. Raises Unreadable."""
    import nibabel

    try:
        _bounded(path)
        image = nibabel.load(path)  # NIfTI 1 and 2, single and paired, and Analyze, which the pairs come from
        _refuse_kind(image)
        header, proxy = image.header, image.dataobj
        shape, dtype, offset = tuple(map(int, proxy.shape)), np.dtype(proxy.dtype), int(proxy.offset)
        affine = np.asarray(image.affine, np.float64)
        zooms = tuple(float(abs(zoom)) for zoom in header.get_zooms())
        slope, intercept = float(proxy.slope), float(proxy.inter)
    except Unreadable:
        raise
    except Exception as error:
        raise Unreadable(_reason(error)) from None
    _refuse(header, shape, dtype)
    sliced = header.get_dim_info()[2] if hasattr(header, "get_dim_info") else None
    spatial = (*shape[:3], 1)[:3]
    return Volumes(
        path=Path(image.file_map["image"].filename),
        offset=offset,
        dtype=dtype,
        shape=(spatial[0], spatial[1], spatial[2]),
        n_volumes=math.prod(shape[3:]),
        slope=slope,
        intercept=intercept,
        affine=affine,
        zooms=((*zooms, 1.0, 1.0)[0], (*zooms, 1.0, 1.0)[1], (*zooms, 1.0, 1.0)[2]),
        slice_axis=2 if sliced is None or spatial[2] == 1 else int(sliced),
    )


def view_of(volumes: Volumes, plane: Plane) -> View:
    """Raises Unreadable where the affine does not say how the body lies and the plane needs it."""
    import nibabel

    with np.errstate(all="ignore"):
        known = np.isfinite(volumes.affine).all() and abs(np.linalg.det(volumes.affine[:3, :3])) > 1e-12
        directions = nibabel.io_orientation(volumes.affine) if known else np.full((3, 2), np.nan)
    if np.isnan(directions).any():
        if plane != "acquisition":
            raise Unreadable("no orientation: the affine is singular")
        rows, columns = (axis for axis in (1, 0, 2) if axis != volumes.slice_axis)
        spacing = volumes.zooms[rows], volumes.zooms[columns]
        return View(normal=volumes.slice_axis, rows=rows, columns=columns, backwards=(False,) * 3, spacing=spacing)
    axis_of = {int(patient): axis for axis, (patient, _) in enumerate(directions)}
    forwards = {int(patient): sign > 0 for patient, sign in directions}
    normal = NORMAL[plane] if plane != "acquisition" else int(directions[volumes.slice_axis, 0])
    # superior on top, in axial slices anterior; right on the left, in sagittal slices anterior
    rows, columns = {2: (1, 0), 1: (2, 0), 0: (2, 1)}[normal]
    sizes = np.linalg.norm(volumes.affine[:3, :3], axis=0)
    return View(
        normal=axis_of[normal],
        rows=axis_of[rows],
        columns=axis_of[columns],
        backwards=(not forwards[normal], forwards[rows], forwards[columns]),
        spacing=(float(sizes[axis_of[rows]]), float(sizes[axis_of[columns]])),
    )


def voxels_of(volumes: Volumes, numbers: range) -> Iterator[NDArray]:
    """(x, y, z) as stored, of each volume asked for, in order. Raises Unreadable at the one that is damaged."""
    if not volumes.path.exists():
        raise Unreadable("no .img beside the .hdr")
    if volumes.path.suffix != ".gz":
        needed = volumes.offset + volumes.n_bytes * volumes.n_volumes
        if volumes.path.stat().st_size < needed:
            raise Unreadable("truncated file")
        whole = (*volumes.shape, volumes.n_volumes)
        mapped = np.memmap(volumes.path, volumes.dtype, "r", volumes.offset, whole, order="F")
        yield from (mapped[..., number] for number in numbers)
        return
    if volumes.n_bytes > MAX_VOLUME_BYTES:
        raise Unreadable(f"a compressed volume of more than {MAX_VOLUME_BYTES // 2**30} GiB")
    with gzip.open(volumes.path, "rb") as stream:
        for number in numbers:
            yield _streamed(stream, volumes, volumes.offset + volumes.n_bytes * number)


def scaled(plane: NDArray, volumes: Volumes) -> NDArray:
    """(h, w) in the file's unit, or (h, w, 3) of colour."""
    if plane.dtype.names is not None:
        return np.stack([plane[name] for name in plane.dtype.names[:3]], axis=2)
    return rescaled(np.ascontiguousarray(plane), volumes.slope, volumes.intercept)


def _streamed(stream: gzip.GzipFile, volumes: Volumes, start: int) -> NDArray:
    buffer = bytearray(volumes.n_bytes)
    view, filled = memoryview(buffer), 0
    try:
        stream.seek(start)  # forwards: read and passed over
        while filled < len(view):
            n_bytes = stream.readinto(view[filled : filled + 2**24])
            if not n_bytes:
                raise Unreadable("truncated file")
            filled += n_bytes
        stream.read(1)  # at the end of the file this checks the sum over all of it
    except (OSError, EOFError, zlib.error) as error:
        raise Unreadable(_reason(error)) from None
    return np.frombuffer(buffer, volumes.dtype).reshape(volumes.shape, order="F")


def _refuse_kind(image: Any) -> None:
    kind = type(image).__name__.removesuffix("Image").removesuffix("Pair")
    if kind not in ("Nifti1", "Nifti2", "Spm2Analyze", "Spm99Analyze", "Analyze"):
        raise Unreadable(f"no image: {'CIFTI' if kind == 'Cifti2' else kind}")


def _refuse(header: Any, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Raises Unreadable for what is no picture of a body."""
    if len(shape) < 2 or min(shape) < 1:
        raise Unreadable("no image: lengths of its dimensions")
    if len(shape) > 4 and math.prod(shape[4:]) > 1:
        raise Unreadable("no image: vectors in place of voxels")
    if "intent_code" in list(header) and int(header["intent_code"]) == LABELS:
        raise Unreadable("no image: a map of labels")
    if dtype.kind == "c":
        raise Unreadable("complex voxels")


def _bounded(path: Path) -> None:
    """Raises Unreadable for a header whose extensions claim to be larger than any; nibabel would read them all."""
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as file:
        start = file.read(540)
        if len(start) < 348:
            raise Unreadable("truncated file")
        if path.name.removesuffix(".gz").endswith(".hdr") and len(file.read(MAX_HEADER_BYTES)) == MAX_HEADER_BYTES:
            raise Unreadable("damaged header")
    for order in "<>":
        size = struct.unpack(order + "i", start[:4])[0]
        offset = 0.0
        if size == 348:
            offset = struct.unpack(order + "f", start[108:112])[0]
        elif size == 540 and len(start) == 540:
            offset = struct.unpack(order + "q", start[168:176])[0]
        if not 0 <= offset <= MAX_HEADER_BYTES:
            raise Unreadable("damaged header")


def _reason(error: Exception) -> str:
    """Short and the same for the same fault."""
    if isinstance(error, EOFError) or "end-of-stream" in str(error):
        return "truncated file"
    if isinstance(error, gzip.BadGzipFile | zlib.error):
        return "damaged gzip"
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be opened: {error.strerror}"
    return "damaged header"
