"""Arrays made once and read by every run that needs them."""

from __future__ import annotations

import io
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scaling.data.rows import maps_tasks
from scaling.data.source import Images, Source, Split, Task, TaskInfo
from scaling.rundir import beside, write_whole

SPLITS, PARTS = ("train", "val", "test"), ("images", "labels")


def cached(path: Path, make: Callable[[], dict[str, NDArray]]) -> dict[str, NDArray]:
    """The arrays in `path`, made and written first if need be. Two writers at once write the same bytes."""
    if path.exists():
        try:
            return _read(path)
        except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            print(f"{path} is damaged ({error}); it is made again", file=sys.stderr)
    buffer = io.BytesIO()
    np.savez(buffer, **make())  # type: ignore[arg-type]
    write_whole(path, buffer.getvalue())
    return _read(path)


def _read(path: Path) -> dict[str, NDArray]:
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def cached_images(path: Path, shape: tuple[int, ...], make: Callable[[], Iterable[Images]]) -> Images:
    """The images in `path`, a `.npy` of `shape`, made and written chunk by chunk first if need be.

    Memory-mapped, private to this process: however large, they take no memory but what is being read, and processes of
    one machine share it. Raises ValueError where the chunks are not `shape` together.
    """
    if path.exists():
        try:
            return _mapped(path, shape)
        except (ValueError, EOFError) as error:
            print(f"{path} is damaged ({error}); it is made again", file=sys.stderr)
    with beside(path) as draft:
        with open(draft, "wb") as file:  # not by a mapping: of that a full disk would kill us
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for images in make():
                file.write(np.ascontiguousarray(images, np.uint8).data)
        _mapped(draft, shape)
    return _mapped(path, shape)


def _mapped(path: Path, shape: tuple[int, ...]) -> Images:
    images: Images = np.load(path, mmap_mode="c", allow_pickle=False)
    if images.shape != shape or images.dtype != np.uint8:
        raise ValueError(f"it holds {images.dtype} {images.shape}; uint8 {shape} wanted")
    return images


def cached_places(path: Path, n: int, make: Callable[[], NDArray[np.int64]]) -> NDArray[np.int64]:
    """The n places in `path`, a `.npy`, made and written first if need be; memory-mapped, so that runs share it."""

    def mapped(path: Path) -> NDArray[np.int64]:
        places: NDArray[np.int64] = np.load(path, mmap_mode="r", allow_pickle=False)
        if places.shape != (n,) or places.dtype != np.int64:
            raise ValueError(f"it holds {places.dtype} {places.shape}; int64 {(n,)} wanted")
        return places

    if path.exists():
        try:
            return mapped(path)
        except (ValueError, EOFError) as error:
            print(f"{path} is damaged ({error}); it is made again", file=sys.stderr)
    with beside(path) as draft:
        with open(draft, "wb") as file:
            np.save(file, make().astype(np.int64), allow_pickle=False)
        mapped(draft)
    return mapped(path)


def cached_task(folder: Path, info: TaskInfo, open_source: Callable[[], Source]) -> Task:
    """The task from the shared cache, else from the source, which is opened for it. What a source maps is not copied:
    that of PathMNIST at 224 pixels would be 16 GB."""
    path = folder / f"task-{info.name}-{info.identity}.npz"
    if not path.exists() and maps_tasks(source := open_source()):
        return source.task(info.name)

    def read() -> dict[str, NDArray]:
        task = open_source().task(info.name)
        return {f"{split}_{part}": getattr(getattr(task, split), part) for split in SPLITS for part in PARTS}

    arrays = cached(path, read)
    splits = {split: Split(**{part: arrays[f"{split}_{part}"] for part in PARTS}) for split in SPLITS}
    return Task(info=info, **splits)
