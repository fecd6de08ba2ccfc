"""A source without what contaminates it: pool images that are copies of images that one of its tasks is judged by."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from scaling.data.contamination import BITS, SIDE, UNEXPLAINED, Looked, Seen, copies, hashes_of, seen, together
from scaling.data.rows import DirectSource, is_direct, maps_tasks
from scaling.data.source import Images, Labels, Pool, Source, Task, TaskInfo
from scaling.rundir import beside

COLUMNS = pa.schema(
    [
        pa.field("task", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("n", pa.int64(), nullable=False),  # which image of the split
        pa.field("key", pa.uint64(), nullable=False),  # of the image of the pool
        pa.field("bits", pa.uint8(), nullable=False),  # of the perceptual hashes that differ
        pa.field("unexplained", pa.float32(), nullable=False),  # share of variance; 0 for the same pixels
    ]
)
"""Of the table of copies."""


@dataclass(frozen=True, kw_only=True)
class Contamination:
    """The copies of what tasks are judged by that a pool has."""

    table: pa.Table
    """A row for each pair; `COLUMNS`."""
    kept: NDArray[np.int64]
    """Positions in the pool of the images that are no copies."""
    n_pool: int

    @property
    def n_images(self) -> int:
        return self.n_pool - len(self.kept)

    def counts(self) -> dict[tuple[str, str], tuple[int, int]]:
        """(task, split) -> images of the split that have a copy, images of the pool that are one."""
        frame = self.table.to_pandas()
        return {
            (str(task), str(split)): (rows["n"].nunique(), rows["key"].nunique())
            for (task, split), rows in frame.groupby(["task", "split"], sort=False)
        }


def contamination(source: Source, *, tables: Path | None = None) -> Contamination:
    """Of a source's pool by its own tasks. `tables`: a folder where what was found is kept and found again."""
    pool, infos = source.pool(), source.tasks()
    if tables is not None and tables.is_symlink():
        tables = None  # which could be anywhere
    name = f"copies-{_identity(pool, infos)[:24]}.parquet"
    if tables is not None and (tables / name).exists():
        try:
            return _of(pool, pq.read_table(tables / name, schema=COLUMNS))
        except (pa.ArrowException, OSError) as error:
            print(f"{tables / name} is damaged ({error}); it is made again", file=sys.stderr)
    table = _search(source, pool, infos)
    if tables is not None:
        try:
            with beside(tables / name) as path:
                pq.write_table(table, path)
        except OSError:
            pass  # a store may be read-only: it is looked for again
    return _of(pool, table)


def _search(source: Source, pool: Pool, infos: tuple[TaskInfo, ...]) -> pa.Table:
    """Tasks are opened one at a time; the many images of the pool are gone through once."""
    if not infos:
        return COLUMNS.empty_table()
    names, held = list[tuple[str, str]](), list[Seen]()
    for info in infos:
        task = source.task(info.name)
        for split, images in (("val", task.val.images), ("test", task.test.images)):
            names.append((info.name, split))
            held.append(seen(images))
    hashes: Callable[[], NDArray[np.uint64]] | None = getattr(source, "hashes", None)
    known = hashes() if hashes else hashes_of(len(pool.keys), source.read)
    pairs = copies(Looked(hashes=known, read=source.read), together(held))
    starts = np.cumsum([0, *(len(each.hashes) for each in held)])
    of = np.searchsorted(starts, pairs.held, side="right") - 1
    order = np.lexsort((pairs.pool, of))
    columns = [
        [names[i][0] for i in of[order]],
        [names[i][1] for i in of[order]],
        (pairs.held - starts[of])[order],
        pool.keys[pairs.pool][order],
        pairs.bits[order],
        pairs.unexplained[order],
    ]
    return pa.table(columns, schema=COLUMNS)


def _of(pool: Pool, table: pa.Table) -> Contamination:
    keys = np.unique(table["key"].to_numpy())
    at = np.searchsorted(keys, pool.keys)  # `np.isin` would sort the many
    copied = keys[np.minimum(at, len(keys) - 1)] == pool.keys if len(keys) else np.zeros(len(pool.keys), bool)
    return Contamination(table=table, kept=np.flatnonzero(~copied), n_pool=len(pool.keys))


def _identity(pool: Pool, infos: tuple[TaskInfo, ...]) -> str:
    """Of what is compared, and how."""
    digest = hashlib.sha256(f"{BITS} {UNEXPLAINED} {SIDE} {[(info.name, info.identity) for info in infos]}".encode())
    digest.update(np.ascontiguousarray(pool.keys, "<u8").data)
    return digest.hexdigest()


def cleaned(source: Source) -> Source:
    """The source as it is read by sweeps that do without contaminated images; nothing is looked for before it is asked
    for its pool."""
    return Clean(source, tables=getattr(source, "tables", None))


class Clean:
    """The source, its pool without copies of images that any of its tasks is validated or tested on."""

    def __init__(self, source: Source, *, tables: Path | None = None) -> None:
        self._source, self._tables = source, tables
        self.synthetic = source.synthetic
        self.direct, self.maps_tasks = is_direct(source), maps_tasks(source)

    @functools.cached_property
    def contamination(self) -> Contamination:
        return contamination(self._source, tables=self._tables)

    @functools.cached_property
    def _pool(self) -> Pool:
        whole, kept = self._source.pool(), self.contamination.kept
        if len(kept) == len(whole.keys):
            return whole
        there, codes = np.unique(whole.modality[kept], return_inverse=True)
        return Pool(
            keys=whole.keys[kept],
            groups=whole.groups[kept],
            modality=codes.astype(np.int16),
            modalities=tuple(whole.modalities[i] for i in there),
        )

    @property
    def left_out(self) -> dict[str, int]:
        """Why -> images that are not in the pool."""
        before = dict(getattr(self._source, "left_out", {}))
        tasks = ", ".join(dict.fromkeys(task for task, _ in self.contamination.counts()))
        n = self.contamination.n_images
        return {**before, f"copies of what {tasks} is judged by": n} if n else before

    @property
    def untasked(self) -> dict[str, str]:
        """Task that cannot be probed -> why."""
        return dict(getattr(self._source, "untasked", {}))

    @property
    def doubts(self) -> dict[str, str]:
        """Task -> what is to be doubted of it."""
        return dict(getattr(self._source, "doubts", {}))

    def pool(self) -> Pool:
        return self._pool

    def read(self, indices: NDArray[np.int64]) -> Images:
        return self._source.read(self.contamination.kept[indices])

    def places(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """As `rows.DirectSource` has it, as `take` and `version`."""
        return cast(DirectSource, self._source).places(self.contamination.kept[indices])

    def take(self, places: NDArray[np.int64]) -> Images:
        return cast(DirectSource, self._source).take(places)

    @property
    def version(self) -> str:
        return cast(DirectSource, self._source).version

    def labels(self, indices: NDArray[np.int64]) -> Labels:
        return self._source.labels(self.contamination.kept[indices])

    def tasks(self) -> tuple[TaskInfo, ...]:
        return self._source.tasks()

    def task(self, name: str) -> Task:
        return self._source.task(name)
