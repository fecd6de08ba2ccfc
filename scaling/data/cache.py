"""Arrays made once and read by every run that needs them."""

from __future__ import annotations

import io
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scaling.data.source import Source, Split, Task, TaskInfo
from scaling.rundir import write_whole

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


def cached_task(folder: Path, info: TaskInfo, open_source: Callable[[], Source]) -> Task:
    """The task from the shared cache, else from the source, which is opened for it."""

    def read() -> dict[str, NDArray]:
        task = open_source().task(info.name)
        return {f"{split}_{part}": getattr(getattr(task, split), part) for split in SPLITS for part in PARTS}

    arrays = cached(folder / f"task-{info.name}-{info.identity}.npz", read)
    splits = {split: Split(**{part: arrays[f"{split}_{part}"] for part in PARTS}) for split in SPLITS}
    return Task(info=info, **splits)
