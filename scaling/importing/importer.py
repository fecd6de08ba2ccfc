"""Makes a source of a store from what a reader lists: resumable, repeatable, whatever the files are like. Row of data/.

State is on disk alone: `.NAME.importing/import.json` says what is being imported, finished parts lie beside it. So the
same command goes on after any end, does nothing when nothing is left to do, and refuses where the files have changed.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from scaling.catalog import READERS
from scaling.errors import Problem, RunFailed, SpecError
from scaling.importing import conversion
from scaling.importing.conversion import Target, channels_of
from scaling.importing.crew import TOO_LONG, Crew
from scaling.importing.decoding import Count, Job, Setting
from scaling.importing.listing import SPLITS, Digest, Listing, parts, survey
from scaling.importing.progress import Progress
from scaling.importing.reader import Item, Reader
from scaling.reader_options import ReaderOptions
from scaling.rundir import read_json, write_json
from scaling.store.layout import LABEL, SourceCard
from scaling.store.writing import (
    Finished,
    Origin,
    checked_name,
    draft_of,
    finish,
    finished_parts,
    open_store,
    put_in_place,
    sha256_of,
    store_card,
)

REASONS = 6
"""Most frequent ones that are told."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """One source as it would be imported."""

    name: str
    reader: str
    options: ReaderOptions
    """With a path that is absolute."""
    image_size: int
    listing: Listing

    @property
    def stated(self) -> str | None:
        return self.options.modality if isinstance(self.options.modality, str) else None

    @property
    def channels(self) -> Literal[1, 3]:
        known = set(self.listing.modalities)
        if self.options.channels is None and isinstance(self.options.modality, dict):
            known |= set(self.options.modality.values())
        return self.options.channels or channels_of(known)

    @property
    def asked(self) -> dict[str, Any]:
        """What makes two imports the same; where the files lie is not part of it."""
        values: dict[str, Any] = json.loads(self.options.model_dump_json(exclude={"path"}))
        return values

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "reader": self.reader,
            "options": self.asked,
            "image_size": self.image_size,
            "channels": self.channels,
            "conversion": conversion.VERSION,
            "listing": self.listing.digest,
        }


def surveyed(name: str, options: ReaderOptions, image_size: int) -> Survey:
    """Lists a source. Raises SpecError where nothing can be imported."""
    reader = str(getattr(options, "reader"))  # noqa: B009  each reader's options have it, their base has not
    stated = options.modality if isinstance(options.modality, str) else None
    listing = survey(name, opened(reader, options), stated, _beside(options))
    return Survey(name=name, reader=reader, options=options, image_size=image_size, listing=listing)


def _beside(options: ReaderOptions) -> str:
    """Content of the files that options name beside the images: labels, and the key of pseudonyms."""
    root = Path(options.path) if os.path.isdir(options.path) else Path(options.path).parent
    names = [getattr(options, "key_file", None), getattr(getattr(options, "labels", None), "file", None)]
    return " ".join(sha256_of(root / name) for name in names if name and (root / name).is_file())


def opened(reader: str, options: ReaderOptions) -> Reader:
    made: Reader = READERS[reader].load()(options)
    return made


@dataclass(frozen=True, kw_only=True)
class Imported:
    card: SourceCard
    seconds: float | None
    """None: it was all there already."""
    n_before: int = 0
    """Images that an import which did not come to its end had left."""
    reasons: Mapping[str, int] = field(default_factory=dict)
    """Why things were set aside, the most frequent first."""
    n_made_grey: int = 0
    """Coloured pictures whose colour the source has no room for."""
    lost_tasks: Mapping[str, str] = field(default_factory=dict)
    """Tasks that are no more, and why."""


def import_source(
    store: Path, asked: Survey, *, workers: int, replace: bool = False, too_long: float = TOO_LONG
) -> Imported:
    """The finished source, whatever was there of it before; returns at once when it is what was asked for.

    Raises SpecError when the files or options are others than those of what is there, when none of the items can be
    used, or when the store cannot be written; RunFailed when the disk is full.
    """
    checked_name(asked.name)
    try:
        with _locked(store, asked.name):
            return _imported(store, asked, workers=workers, replace=replace, too_long=too_long)
    except OSError as error:
        where, what = error.filename or store, error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise RunFailed(f"{where}: {what}; with more room the same command goes on") from None
        raise SpecError([Problem(where=str(where), what=f"cannot be written: {what}")]) from None


def _imported(store: Path, asked: Survey, *, workers: int, replace: bool, too_long: float) -> Imported:
    draft, started = draft_of(store, asked.name), time.monotonic()
    if (draft / "source.json").exists():  # all that was missing is its name
        put_in_place(store, asked.name, replace=True)
    card = source_card(store / asked.name)
    if card and not replace:
        if difference := _difference(asked, _identity_of(card, store_card(store).image_size)):
            what = f"is there already, and {difference}; --replace makes it anew, another name keeps both"
            raise SpecError([Problem(where=asked.name, what=what)])
        return Imported(card=card, seconds=None)
    fresh = not (store / "store.json").exists()
    open_store(store, asked.image_size)
    _begin(draft, asked, replace=replace)
    n_before = sum(part.n_images for part in finished_parts(draft).values())
    _decode(asked, draft, workers=workers, too_long=too_long)
    done = finished_parts(draft)
    if not any(part.n_images for part in done.values()):
        shutil.rmtree(draft)
        if fresh:
            (store / "store.json").unlink()
        reasons = "; ".join(f"{n:,} {reason}" for reason, n in _reasons(done).items())
        raise SpecError(
            [Problem(where=asked.name, what=f"none of its {asked.listing.n_items:,} items is usable: {reasons}")]
        )
    cards = _setting(asked, draft).cards
    lost = _lost_tasks(draft, done, list(cards))
    card = finish(
        store,
        asked.name,
        channels=asked.channels,
        tasks={task: each for task, each in cards.items() if task not in lost},
        origin=Origin(
            reader=asked.reader,
            options=asked.asked,
            listing=asked.listing.digest,
            conversion=conversion.VERSION,
        ),
        replace=replace,
    )
    return Imported(
        card=card,
        seconds=time.monotonic() - started,
        n_before=n_before,
        reasons=_reasons(done),
        n_made_grey=sum(part.n_made_grey for part in done.values()),
        lost_tasks=lost,
    )


@contextmanager
def _locked(store: Path, name: str) -> Iterator[None]:
    """One import of a source at a time; a store that ends up with nothing in it is not left behind."""
    path, new = store / f".{name}.lock", not store.exists()
    store.mkdir(parents=True, exist_ok=True)
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise SpecError([Problem(where=name, what="another import of it is at work; wait for it")]) from None
        if path.exists() and os.fstat(file).st_ino == path.stat().st_ino:
            break
        os.close(file)  # its holder ended and deleted it between our two steps
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)
        if new:
            with suppress(OSError):  # not empty: there is something to keep
                store.rmdir()


# --- what is there already ---------------------------------------------------------------------------------------


def source_card(folder: Path) -> SourceCard | None:
    path = folder / "source.json"
    return SourceCard.model_validate_json(path.read_text()) if path.exists() else None


def _identity_of(card: SourceCard, image_size: int) -> dict[str, Any]:
    return {
        "reader": card.reader,
        "options": card.options,
        "image_size": image_size,
        "channels": card.channels,
        "conversion": card.conversion,
        "listing": card.listing,
    }


def _difference(asked: Survey, there: Mapping[str, Any]) -> str:
    """In words; empty where there is none."""
    new = asked.identity
    differing = [key for key in new if key not in ("options", "listing") and new[key] != there.get(key)]
    mine, theirs = new["options"], there.get("options", {})
    differing += sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
    said = []
    if new["listing"] != there.get("listing"):
        said.append("its files have changed since")
    if differing:
        said.append(f"it was made with another {', '.join(dict.fromkeys(differing))}")
    return " and ".join(said)


def _begin(draft: Path, asked: Survey, *, replace: bool) -> None:
    there = read_json(draft / "import.json") if draft.exists() else None
    if there is not None and (difference := _difference(asked, there)):
        if not replace:
            what = f"an import of it is unfinished, and {difference}; --replace begins anew"
            raise SpecError([Problem(where=asked.name, what=what)])
        there = None
    if there is None:
        shutil.rmtree(draft, ignore_errors=True)
        write_json(draft / "import.json", asked.identity)
    for path in draft.glob(".*"):
        path.unlink()  # what was being written when the last attempt ended


# --- the work ----------------------------------------------------------------------------------------------------


def _setting(asked: Survey, draft: Path) -> Setting:
    return Setting(
        entry=READERS[asked.reader],
        options=asked.options.model_dump_json(),
        stated=asked.stated,
        tasks=asked.listing.tasks,
        target=Target.of(asked.options, asked.image_size, asked.channels),
        draft=draft,
    )


def _decode(asked: Survey, draft: Path, *, workers: int, too_long: float) -> None:
    done = finished_parts(draft)
    before = Count(
        n_items=sum(part.n_items for part in done.values()),
        n_bytes=sum(part.n_bytes for part in done.values()),
        n_images=sum(part.n_images for part in done.values()),
        n_set_aside=sum(len(part.quarantine) for part in done.values()),
    )
    progress = Progress(asked.name, asked.listing.n_items, asked.listing.n_bytes, before)
    with progress.shown():
        try:
            Crew(_setting(asked, draft), workers, progress, too_long=too_long).run(_jobs(asked, set(done)))
        except _Changed:
            shutil.rmtree(draft)
            what = "its files changed while they were read; give the same command again when they rest"
            raise SpecError([Problem(where=asked.name, what=what)]) from None


class _Changed(Exception):
    pass


def _jobs(asked: Survey, done: set[int]) -> Iterator[Job]:
    digest = Digest(asked.listing.beside)

    def noted() -> Iterator[Item]:
        for item in opened(asked.reader, asked.options).items():
            digest.add(item)
            yield item

    for number, items in enumerate(parts(noted(), asked.listing)):
        if number not in done:
            yield Job(number=number, items=items)
    if str(digest) != asked.listing.digest:
        raise _Changed


def _reasons(done: Mapping[int, Finished]) -> dict[str, int]:
    """Reason -> how often, the most frequent few; reasons that differ in numbers alone are one, with dots for them."""
    counted, one = Counter[str](), dict[str, str]()
    for _, reason in (row for part in done.values() for row in part.quarantine):
        alike = re.sub(r"\d[\d.,]*", "...", reason)
        counted[alike] += 1
        one[alike] = reason if one.get(alike, reason) == reason else alike
    told = {one[alike]: n for alike, n in counted.most_common(REASONS)}
    if rest := counted.total() - sum(told.values()):
        told["for other reasons"] = rest
    return told


def _lost_tasks(draft: Path, done: Mapping[int, Finished], tasks: list[str]) -> dict[str, str]:
    """Tasks that lack a split, as nothing usable is left of it."""
    seen: dict[str, set[str]] = {task: set() for task in tasks}
    for number in done if tasks else ():
        table = pq.read_table(draft / f"part-{number:05d}.parquet", columns=["split", *(LABEL + t for t in tasks)])
        splits = table["split"].cast(pa.string())
        for task in tasks:
            seen[task] |= set(splits.filter(table[LABEL + task].is_valid()).drop_null().unique().to_pylist())
    missing = {task: [split for split in SPLITS if split not in there] for task, there in seen.items()}
    return {task: f"no labelled image in {' and '.join(splits)}" for task, splits in missing.items() if splits}
