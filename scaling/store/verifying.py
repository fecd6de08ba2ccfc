"""Proofs that a store is what its cards and manifests say, and that sweeps may trust it. Row of data/."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from scaling.data.clean import Clean
from scaling.data.mixture import Nested, Selection
from scaling.data.perceptual import perceptual_hash
from scaling.data.store import Store
from scaling.errors import SpecError
from scaling.source_options import StoreOptions
from scaling.store.layout import checksums, group_hashes, group_keys, part_path, sources_of
from scaling.store.opened import NO_SPLIT, SPLITS, DamagedPart, StoredSource, mapped, open_sources
from scaling.store.writing import sha256_of

KNOWN = {"source.json", "manifest.parquet", "quarantine.parquet"}
SIZES = (10, 30, 100)
"""Percent of the pool whose nesting is looked at."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """One thing that was looked at."""

    of: str
    """Source, or `store`."""
    what: str
    """What was proved; or what is wrong, and what to do."""
    state: Literal["proved", "noted", "wrong"] = "proved"
    """noted: nothing is wrong with the store, but whoever uses it should know."""


def verify(store: Path, names: Sequence[str] = (), *, quick: bool = False) -> Iterator[Proof]:
    """Looks at one thing after the other. `quick` reads no pixels. Raises SpecError where there is no store."""
    card, sources = open_sources(store, list(names) or None)
    images = sum(source.card.n_images for source in sources.values())
    what = f"{len(sources)} sources, {images:,} images: cards, sizes of files, columns and row counts agree, no links"
    yield Proof(of="store", what=what)
    other = sorted(
        {each for each in os.listdir(store) if not each.startswith(".")} - {"store.json", *sources_of(store)}
    )
    if other:
        what = f"what is no finished source, so that nothing reads it: {', '.join(other[:5])}"
        yield Proof(of="store", what=what + (f" and {len(other) - 5} more" if len(other) > 5 else ""), state="noted")
    sound = True
    for source in sources.values():
        for proof in _of_source(source, card.image_size, quick=quick):
            sound = sound and proof.state != "wrong"
            yield proof
    if not sound:
        yield Proof(
            of="store", what="nesting and copies were not looked at: what is wrong above comes first", state="wrong"
        )
        return
    options = {"source": "store", "path": str(store), "image_size": card.image_size, "sources": list(sources)}
    try:
        yield from _of_pool(Store(StoreOptions.model_validate({**options, "channels": 1})))
    except SpecError as error:
        yield from (Proof(of="store", what=problem.what, state="wrong") for problem in error.problems)


def _of_source(source: StoredSource, image_size: int, *, quick: bool) -> Iterator[Proof]:
    yield _manifest(source)
    try:
        table = source.table(["image_id", "key", "checksum", "phash", "modality", "group", "group_hash", "split"])
        yield from _rows(source, table, quick=quick)
        yield from _splits(source, table)
        yield from _labels(source)
        if not quick:
            yield from _pixels(source, table, image_size)
    except SpecError as error:
        yield from (Proof(of=source.name, what=problem.what, state="wrong") for problem in error.problems)
    strange = sorted(set(os.listdir(source.folder)) - KNOWN - {part.name for part in _parts(source)})
    if strange:
        what = f"files that no card lists, which nothing reads: {', '.join(strange[:5])}; delete them"
        yield Proof(of=source.name, what=what, state="wrong")


def _parts(source: StoredSource) -> list[Path]:
    return [part_path(source.folder, number) for number in range(len(source.card.parts))]


def _manifest(source: StoredSource) -> Proof:
    if sha256_of(source.manifest) == source.card.manifest_sha256:
        return Proof(of=source.name, what="the manifest is the one that was written")
    what = f"{source.manifest} was changed since it was written: its SHA-256 is not its card's; import it again"
    return Proof(of=source.name, what=what, state="wrong")


def _rows(source: StoredSource, table: pa.Table, *, quick: bool) -> Iterator[Proof]:
    """What the columns say of each other and of the card."""
    faults = []
    twice = len(table) - pc.count_distinct(table["image_id"]).as_py()
    if twice:
        faults.append(f"{twice:,} rows have an image id of another row")
    sums = _bytes(table["checksum"])
    if not np.array_equal(sums[:, :8].copy().view("<u8")[:, 0], table["key"].to_numpy()):
        faults.append("keys are not the beginnings of checksums")
    codes, names = source.modalities(table)
    counts = np.bincount(codes, minlength=len(names)).tolist()
    if {name: n for name, n in zip(names, counts, strict=True) if n} != source.card.n_by_modality:
        faults.append("images by modality are not those of the card")
    if pc.count_distinct(table["group"]).as_py() != source.card.n_groups:
        faults.append("groups are not as many as the card says")
    if not quick and not np.array_equal(group_hashes(table["group"].to_pylist()), table["group_hash"].to_numpy()):
        faults.append("hashes of groups are not those of their names")
    yield from (
        Proof(of=source.name, what=f"{fault}; import it again with --replace", state="wrong") for fault in faults
    )
    if not faults:
        what = f"{len(table):,} rows, no image id twice; keys, modalities and {source.card.n_groups:,} groups agree"
        yield Proof(of=source.name, what=what)


def _splits(source: StoredSource, table: pa.Table) -> Iterator[Proof]:
    """No group stands in two of train, val and test."""
    splits, groups = source.splits(table), table["group_hash"].to_numpy()
    placed = splits != NO_SPLIT
    pairs = np.unique(np.stack([groups[placed], splits[placed].astype(np.uint64)], axis=1), axis=0)
    shared, times = np.unique(pairs[:, 0], return_counts=True)
    both = shared[times > 1]
    if len(both):
        row = int(np.flatnonzero(placed & (groups == both[0]))[0])
        example = table["group"][row].as_py()
        what = f"{len(both):,} groups stand in several splits, such as '{example}'; give each patient one split"
        yield Proof(of=source.name, what=what, state="wrong")
    elif placed.any():
        counts = ", ".join(f"{int((splits == code).sum()):,} {split}" for code, split in enumerate(SPLITS))
        yield Proof(of=source.name, what=f"no group stands in two splits: {counts}, {int((~placed).sum()):,} of none")


def _labels(source: StoredSource) -> Iterator[Proof]:
    for task, about in source.card.tasks.items():
        rows = np.flatnonzero(source.labelled(task))
        source.labels(task, rows)
        yield Proof(
            of=source.name, what=f"task {task}: {len(rows):,} labels, none beyond its {len(about.classes)} classes"
        )


def _pixels(source: StoredSource, table: pa.Table, image_size: int) -> Iterator[Proof]:
    """Every part and every image is as it was written, and looks as its hash says."""
    sums, hashes, start, faults = _bytes(table["checksum"]), table["phash"].to_numpy(), 0, 0
    for path, part in zip(_parts(source), source.card.parts, strict=True):
        try:
            images = mapped(path, (part.n_images, source.card.channels, image_size, image_size))
        except (DamagedPart, OSError) as error:
            yield Proof(of=source.name, what=str(error), state="wrong")
            return
        span = slice(start, start + part.n_images)
        found = np.frombuffer(b"".join(checksums(images)), np.uint8).reshape(-1, 16)
        wrong = np.flatnonzero((found != sums[span]).any(1))
        if len(wrong):
            first = table["image_id"][start + int(wrong[0])].as_py()
            what = f"{path}: {len(wrong):,} images are not as they were written, the first {first}; import it again"
        elif sha256_of(path) != part.sha256:
            what = f"{path} is not as it was written: its SHA-256 is not its card's; import it again"
        elif not np.array_equal(perceptual_hash(images), hashes[span]):
            what = f"{path}: perceptual hashes are not those of its images; import it again"
        else:
            what = ""
        if what:
            faults += 1
            yield Proof(of=source.name, what=what, state="wrong")
        start += part.n_images
    if not faults:
        yield Proof(
            of=source.name, what=f"{len(source.card.parts):,} parts: each file and each image is as it was written"
        )


def _bytes(column: pa.ChunkedArray) -> NDArray[np.uint8]:
    """(n, 16) of a column of as many bytes."""
    parts = [np.empty((0, 16), np.uint8)]
    for chunk in column.chunks:
        whole = np.frombuffer(chunk.buffers()[1], np.uint8)
        parts.append(whole[chunk.offset * 16 : (chunk.offset + len(chunk)) * 16].reshape(-1, 16))
    return np.concatenate(parts)


# --- the pool ----------------------------------------------------------------------------------------------------


def _of_pool(store: Store) -> Iterator[Proof]:
    """What a sweep on the whole store would pretrain on."""
    pool = store.pool()
    yield Proof(of="store", what=f"{len(pool.keys):,} images to pretrain on, none twice" + _and(store.left_out))
    yield _apart(store)
    yield _nested(Nested(pool, "natural"), len(pool.keys))
    clean = Clean(store, tables=store.tables)
    for task, why in store.untasked.items():
        yield Proof(of="store", what=f"task {task} cannot be probed: {why}", state="noted")
    if not store.tasks():
        yield Proof(of="store", what="no task, so that nothing can be contaminated")
        return
    for (task, split), (n_held, n_pool) in clean.contamination.counts().items():
        what = f"{n_pool:,} images are copies, exact or nearly, of {n_held:,} in the {split} split of {task}"
        yield Proof(of="store", what=f"{what}; sweeps leave them out by default", state="noted")
    yield Proof(of="store", what=f"{len(clean.pool().keys):,} images to pretrain on are no copies of what tasks test")


def _and(left_out: dict[str, int]) -> str:
    return "".join(f"; {n:,} are left out: {why}" for why, n in left_out.items())


def _apart(store: Store) -> Proof:
    """By the columns alone, not by how the pool was made."""
    held = list[NDArray[np.uint64]]()
    for source in store.sources:
        table = source.table(["split", "group_hash"])
        mine = source.splits(table) > SPLITS.index("train")
        held.append(group_keys(source.name, table["group_hash"].to_numpy()[mine]))
    shared = np.isin(store.pool().groups, np.concatenate(held)).sum()
    if shared:
        return Proof(of="store", what=f"{shared:,} images to pretrain on are of groups of val or test", state="wrong")
    return Proof(of="store", what="no image to pretrain on is of a group in a validation or test split")


def _nested(nested: Nested, n: int) -> Proof:
    sets = [nested.first(max(1, n * percent // 100)) for percent in SIZES]
    inside = all(
        np.isin(small.indices, large.indices, assume_unique=True).all() for small, large in itertools.pairwise(sets)
    )
    shares = "; ".join(f"{percent} %: {_shares(chosen)}" for percent, chosen in zip(SIZES, sets, strict=True))
    return Proof(
        of="store", what=f"smaller sets are part of larger ones; {shares}", state="proved" if inside else "wrong"
    )


def _shares(chosen: Selection) -> str:
    total = sum(chosen.n_by_modality.values())
    return ", ".join(f"{name} {n / total:.3g}" for name, n in chosen.n_by_modality.items())
