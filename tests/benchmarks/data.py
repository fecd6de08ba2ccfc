"""Data at the size of the reference corpus: choosing sets of 21 M images, and batches from mapped files on a cold disk.

`python -m tests.benchmarks data`. Writes up to 4 GB beside the system's temporary files, and takes it away again.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from scaling.data.mixture import select
from scaling.data.order import batches
from scaling.data.rows import Rows
from scaling.data.store import Store
from scaling.options import MaeOptions
from scaling.source_options import StoreOptions
from scaling.store.layout import COLUMNS, Part, SourceCard, StoreCard, part_path
from scaling.store.writing import ROW_GROUP, Row, write_source
from tests.benchmarks.rows import Benchmark, seconds_of
from tests.benchmarks.rows import Row as Measured
from tests.benchmarks.ssl import spec_of, training_of

N_IMAGES, N_SOURCES, GROUP = 21_000_000, 61, 8
"""As BioVFM-21M; and images of a patient on average."""
MODALITIES = ("ct", "mr", "xray", "ultrasound", "fundus", "oct", "dermoscopy", "histology", "microscopy", "endoscopy")
LIMIT_SECONDS, LIMIT_BYTES = 20.0, 4 * 10**9


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="scaling-data-") as folder:
        yield Path(folder)


# --- a store of 21 M rows -----------------------------------------------------------------------------------------


def large_store(store: Path, n_images: int = N_IMAGES) -> None:
    """61 sources of one to three modalities each, sizes over three decades. Images of 8 pixels in files of holes, as
    choosing reads none of them."""
    rng = np.random.default_rng(0)
    (store / "store.json").write_text(StoreCard(image_size=8).model_dump_json())
    shares = np.exp(rng.uniform(0, np.log(1000), N_SOURCES))
    sizes = np.diff(np.round(np.concatenate([[0], np.cumsum(shares) / shares.sum()]) * n_images)).astype(int)
    for i, n in enumerate(sizes.tolist()):
        folder = store / f"source-{i:02d}"
        folder.mkdir()
        own = [MODALITIES[(i + k) % len(MODALITIES)] for k in range(1 + i % 3)]
        _manifest(folder, n, own, rng, split=i % 6 == 0)
        _holes(part_path(folder, 0), (n, 1, 8, 8))
        card = SourceCard(
            name=folder.name,
            reader="synthetic",
            options={},
            listing="",
            channels=1,
            n_images=n,
            n_quarantined=0,
            n_by_modality={},
            n_groups=-(-n // GROUP),
            tasks={},
            parts=[Part(n_images=n, sha256="")],
            manifest_sha256=f"{i:064d}",
            imported="2026-01-01T00:00:00Z",
            synthetic=True,
        )
        (folder / "source.json").write_text(card.model_dump_json())


def _manifest(folder: Path, n: int, modalities: list[str], rng: np.random.Generator, *, split: bool) -> None:
    with pq.ParquetWriter(folder / "manifest.parquet", COLUMNS) as writer:
        for start in range(0, n, 8 * ROW_GROUP):
            m = min(8 * ROW_GROUP, n - start)
            groups = (start + np.arange(m)) // GROUP
            patients = pa.array(np.char.add("patient-", np.unique(groups).astype(str)))
            columns = {
                "image_id": pa.array(np.char.add("image-", (start + np.arange(m)).astype(str))),
                "key": pa.array(rng.integers(0, 2**64, m, np.uint64)),
                "checksum": _bytes(rng, m),
                "phash": pa.array(rng.integers(0, 2**64, m, np.uint64)),
                "modality": pa.DictionaryArray.from_arrays(
                    rng.integers(0, len(modalities), m).astype(np.int16), pa.array(modalities)
                ),
                "group": patients.take(pa.array(groups - groups[0])),
                "group_hash": pa.array(np.repeat(rng.integers(0, 2**64, len(patients), np.uint64), GROUP)[:m]),
                "split": _splits(groups) if split else pa.nulls(m, COLUMNS.field("split").type),
                "height": pa.array(np.full(m, 512, np.int32)),
                "width": pa.array(np.full(m, 512, np.int32)),
            }
            writer.write_table(pa.table(columns, schema=COLUMNS), row_group_size=ROW_GROUP)


def _bytes(rng: np.random.Generator, n: int) -> pa.Array:
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), n, [None, pa.py_buffer(rng.bytes(16 * n))])


def _splits(groups: NDArray[np.int64]) -> pa.Array:
    """Seven patients of ten to train on, one to validate, two to test."""
    codes = np.array([0] * 7 + [1] + [2] * 2, np.int8)[groups % 10]
    return pa.DictionaryArray.from_arrays(codes, pa.array(["train", "val", "test"]))


def _holes(path: Path, shape: tuple[int, ...]) -> None:
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + int(np.prod(shape)))


CHOOSE = """
import json, resource, sys, time
from scaling.catalog import SOURCES
from scaling.data.mixture import Nested
from scaling.mixtures import Mixture
began, spent = time.perf_counter(), time.process_time()
entry = SOURCES["store"]
source = entry.load()(entry.options(source="store", path=sys.argv[1], image_size=8, channels=1))
pool = source.pool()
opened = time.perf_counter() - began
sets = [("natural", 200_000), ("natural", len(pool.keys)), ({"ultrasound": 1}, 200_000),
        (Mixture(temperature=2, caps=1_000_000, repeat=True), 10_000_000)]
made = [Nested(pool, mixed).composition(n) for mixed, n in sets]
chosen = time.perf_counter() - began - opened
first = Nested(pool, "natural").first(200_000)
print(json.dumps({
    "n": len(pool.keys), "opened": opened, "chosen": chosen,
    "seconds": time.perf_counter() - began, "cpu": time.process_time() - spent,
    "bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
}))
"""


def choosing() -> Iterator[Measured]:
    """In an interpreter of its own, whose peak of memory is its own, too."""
    with scratch() as store:
        large_store(store)
        done = subprocess.run([sys.executable, "-c", CHOOSE, str(store)], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    note = f"{told['cpu']:.1f} s of CPU; opening {told['opened']:.1f} s, four sets {told['chosen']:.1f} s"
    yield Measured(
        what=f"opening a store of {N_IMAGES:,} rows and {N_SOURCES} sources, choosing sets of it",
        ours=f"{told['seconds']:.1f} s",
        peer=f"limit {LIMIT_SECONDS:.0f} s",
        ratio=LIMIT_SECONDS / told["seconds"],
        note=note,
    )
    yield Measured(
        what="peak memory of that process",
        ours=f"{told['bytes'] / 1e9:.2f} GB",
        peer=f"limit {LIMIT_BYTES / 1e9:.0f} GB",
        ratio=LIMIT_BYTES / told["bytes"],
    )


# --- a batch and the step that consumes it --------------------------------------------------------------------------

N_STORED, SIZE, PART_SIZE, BATCH = 200_000, 64, 10_000, 1024
"""Images of 64 pixels in three channels: 2.5 GB in twenty parts, of which a batch is half a percent."""
N_SOURCES_STORED, N_BATCHES, N_STEPS = 4, 8, 3


def random_store(store: Path) -> None:
    """What a gather costs does not depend on the pixels."""
    rng = np.random.default_rng(0)
    for number in range(N_SOURCES_STORED):
        pixels = rng.integers(0, 256, (N_STORED // N_SOURCES_STORED, 3, SIZE, SIZE), np.uint8)
        rows = [Row(image_id=f"{i:06d}", modality="ct", height=512, width=512) for i in range(len(pixels))]
        write_source(store, f"random-{number}", pixels, rows, part_size=PART_SIZE)
    os.sync()  # only what is on the disk can be dropped from memory


def opened(store: Path) -> Rows:
    """All its images in the order of keys, as a run has them. Nothing is mapped before a batch is read."""
    source = Store(StoreOptions(source="store", path=str(store), image_size=SIZE, channels=3))
    return Rows(source, source.places(select(source.pool(), "natural", N_STORED).indices), (3, SIZE, SIZE))


def parts(store: Path) -> list[Path]:
    return sorted(store.glob("*/images-*.npy"))


def forget(paths: list[Path]) -> float:
    """Drops the files' pages from memory, which works only while nobody maps them; the share that is still there."""
    for path in paths:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return resident(paths)


def resident(paths: list[Path]) -> float:
    """Share of the files' pages that are in memory, as mincore(2) says."""
    libc, there, n = ctypes.CDLL(None, use_errno=True), 0, 0
    for path in paths:
        mapped = np.memmap(path, np.uint8, "r")
        pages = np.zeros(-(-len(mapped) // os.sysconf("SC_PAGE_SIZE")), np.uint8)
        if libc.mincore(
            ctypes.c_void_p(mapped.ctypes.data), ctypes.c_size_t(len(mapped)), ctypes.c_void_p(pages.ctypes.data)
        ):
            raise OSError(ctypes.get_errno(), "mincore")
        there, n = there + int((pages & 1).sum()), n + len(pages)
    return there / n


def feeding() -> Iterator[Measured]:
    """A batch gathered from mapped parts, when none of them is in memory and when all are, and MAE's step on it."""
    orders = [
        torch.randperm(N_STORED, generator=torch.Generator().manual_seed(i))[:BATCH].numpy() for i in range(N_BATCHES)
    ]
    with scratch() as store:
        random_store(store)
        cold, left, read = [], [], []
        for order in orders:
            images = None  # unmaps the parts
            gc.collect()
            images = opened(store)
            left.append(forget(parts(store)))
            cold.append(seconds_of(functools.partial(images.__getitem__, order)))
            read.append(resident(parts(store)))
        for path in parts(store):
            path.read_bytes()
        warm = [seconds_of(functools.partial(images.__getitem__, order)) for order in orders * 3]
        step, waited = training(images)
    for name, seconds, note in (
        (
            "a cold",
            statistics.median(cold),
            f"at most {max(left):.1%} of the pages in memory before, {statistics.median(read):.0%} after",
        ),
        (
            "a warm",
            statistics.median(warm[N_BATCHES:]),
            f"a whole step takes {waited / step:.3f} of the step on images at hand",
        ),
    ):
        yield Measured(
            what=f"batch of {BATCH:,} images of {SIZE} px, mapped store, {name} page cache",
            ours=f"{BATCH / seconds:,.0f} img/s",
            peer=f"consumed by MAE vit_ti {SIZE}/8: {BATCH / step:,.0f}",
            ratio=step / seconds,
            note=note,
        )


def training(images: Rows) -> tuple[float, float]:
    """Median seconds of MAE's step on images that are at hand, and of a step with its turn of the feed."""
    spec = spec_of("mae", MaeOptions(), "vit_ti", SIZE, 8, BATCH)
    at_hand, fed = training_of(spec), training_of(spec, images)
    order = fed.feed.ahead(batches(len(images), BATCH, 0, 0))
    first, seconds = torch.arange(BATCH), {"at hand": list[float](), "fed": list[float]()}
    for turn in range(N_STEPS + 1):
        for name, do in (("at hand", lambda: at_hand.step(first)), ("fed", lambda: fed.step(next(order)))):
            took = seconds_of(do)
            if turn:
                seconds[name].append(took)
    return statistics.median(seconds["at hand"]), statistics.median(seconds["fed"])


BENCHMARKS: tuple[Benchmark, ...] = (choosing, feeding)
