"""The worker's side of an import: items of a part are decoded, converted and written with their rows. Row of data/.

Runs in a process of its own, which a decoder may crash; whatever else goes wrong with an item is a row of quarantine.
"""

from __future__ import annotations

import logging
import os
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from scaling.catalog import Entry
from scaling.data.source import Images
from scaling.errors import unknown
from scaling.importing.conversion import RULES, Target, convert
from scaling.importing.listing import label_problem
from scaling.importing.reader import Frame, Item, LabelSetting, Reader, Unreadable
from scaling.process import die_with_parent
from scaling.store.layout import TaskCard, schema_with
from scaling.store.writing import Finished, Row, draft_part, part_file, rows_table, save_part, sha256_of

BATCH = 256
"""Images whose rows are made together."""
NO_ITEM = -1
OUT_OF_MEMORY = 77
"""Exit code."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """All that a worker must know beside its items."""

    entry: Entry
    """Of the reader's table."""
    options: str
    """JSON."""
    stated: str | None
    """Modality that the user gave all images."""
    tasks: Mapping[str, LabelSetting]
    target: Target
    draft: Path

    def open(self) -> Reader:
        reader: Reader = self.entry.load()(self.entry.options.model_validate_json(self.options))
        return reader

    @property
    def cards(self) -> dict[str, TaskCard]:
        return {name: TaskCard(kind=task.kind, classes=list(task.classes)) for name, task in self.tasks.items()}


@dataclass(frozen=True, kw_only=True)
class Job:
    number: int
    items: list[Item]
    skip: Mapping[int, str] = field(default_factory=dict)
    """Positions of items that ended their process, and how: they are set aside untouched."""


@dataclass(frozen=True, kw_only=True)
class Count:
    """Of a job so far."""

    n_items: int = 0
    n_bytes: int = 0
    n_images: int = 0
    n_set_aside: int = 0
    done: bool = False


@dataclass(frozen=True)
class Failed:
    """What no item is to blame for: the store cannot be written, or our own mistake."""

    text: str


def work(setting: Setting, pipe: Connection, at: Any, parent: int) -> None:
    """Jobs come and counts go through the pipe; `at.value` is the position of the item at work, if we die."""
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and ends us
    with suppress(OSError):  # when memory runs out, the kernel is to end us rather than the parent; Linux only
        Path("/proc/self/oom_score_adj").write_text("1000")
    _quiet()
    try:
        reader = setting.open()
        while (job := pipe.recv()) is not None:
            _answer(setting, reader, job, pipe, at)
    except EOFError:
        return
    except MemoryError:
        os._exit(OUT_OF_MEMORY)  # as if the kernel had done it: the item is tried again alone
    except OSError as error:
        pipe.send(Failed(f"{error.filename or setting.draft}: {error.strerror or error}"))
    except Exception:
        pipe.send(Failed(traceback.format_exc()))


def _answer(setting: Setting, reader: Reader, job: Job, pipe: Connection, at: Any) -> None:
    def tell(position: int, count: Count) -> None:
        at.value = position
        if count.n_items % 16 == 0:
            pipe.send(count)

    count = make_part(setting, reader, job, tell)
    pipe.send(replace(count, done=True))


def _quiet() -> None:
    """Decoders complain into the progress line; what they cannot read is told by the quarantine."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def make_part(setting: Setting, reader: Reader, job: Job, tell: Callable[[int, Count], None]) -> Count:
    """Writes images and rows of the job's items, which count as done from then on."""
    size, channels = setting.target.image_size, setting.target.channels
    path, cards = draft_part(setting.draft, job.number), setting.cards
    tables, aside, count, n_made_grey = [schema_with(cards).empty_table()], list[tuple[str, str]](), Count(), 0
    images, rows = list[Images](), list[Row]()
    with part_file(path, (channels, size, size)) as file:

        def flush() -> None:
            batch = np.stack(images)
            file.append(batch)
            tables.append(rows_table(batch, rows, cards))
            images.clear()
            rows.clear()

        for position, item in enumerate(job.items):
            tell(position, count)
            if position in job.skip:
                got = Decoded(aside=[(item.id, job.skip[position])])
            else:
                got = decoded(setting, reader, item)
            images += got.images
            rows += got.rows
            aside += got.aside
            n_made_grey += got.n_made_grey
            count = replace(
                count,
                n_items=count.n_items + 1,
                n_bytes=count.n_bytes + item.n_bytes,
                n_images=count.n_images + len(got.images),
                n_set_aside=len(aside),
            )
            if len(images) >= BATCH:
                flush()
        tell(NO_ITEM, count)
        if images:
            flush()
    finished = Finished(
        n_items=count.n_items,
        n_images=count.n_images,
        n_bytes=count.n_bytes,
        sha256=sha256_of(path) if count.n_images else "",
        quarantine=aside,
        n_made_grey=n_made_grey,
    )
    save_part(setting.draft, job.number, pa.concat_tables(tables).unify_dictionaries(), finished)
    return count


@dataclass(frozen=True, kw_only=True)
class Decoded:
    images: list[Images] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    aside: list[tuple[str, str]] = field(default_factory=list)
    n_made_grey: int = 0


def decoded(setting: Setting, reader: Reader, item: Item) -> Decoded:
    """Images and rows of an item, and what is set aside of it; all of it where it ends in an error."""
    got, n_made_grey = Decoded(), 0
    try:
        for frame in _frames(reader, item, got.aside):
            try:
                row, image = _one(setting, item, frame)
            except Unreadable as reason:
                got.aside.append((frame.id, str(reason)))
                continue
            got.images.append(image)
            got.rows.append(row)
            n_made_grey += _made_grey(frame, row.modality, setting.target)
    except MemoryError:
        raise
    except Exception as error:  # of whatever library decodes: the item is bad, not the import
        return Decoded(aside=[(item.id, _reason(error))])
    if not got.images and not got.aside:
        got.aside.append((item.id, "holds no image"))
    return replace(got, n_made_grey=n_made_grey)


def _frames(reader: Reader, item: Item, aside: list[tuple[str, str]]) -> Iterator[Frame]:
    for number, frame in enumerate(reader.frames(item)):
        if isinstance(frame, Unreadable):
            aside.append((frame.image_id or f"{item.id}#{number}", str(frame)))
        else:
            yield frame


def _reason(error: Exception) -> str:
    if isinstance(error, Unreadable):
        return str(error)
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:200]}" if first else type(error).__name__


def _one(setting: Setting, item: Item, frame: Frame) -> tuple[Row, Images]:
    """What is known of a frame: the user's word, then the file's, then the listing's."""
    modality = setting.stated or frame.about.modality or item.about.modality
    if modality is None:
        raise Unreadable("its modality is not known; give `modality:`")
    if modality not in RULES:
        raise Unreadable(unknown("modality", modality, RULES))
    labels = {**item.about.labels, **frame.about.labels}
    for task, value in labels.items():
        if what := label_problem(task, value, setting.tasks):
            raise Unreadable(what)
    row = Row(
        image_id=frame.id,
        modality=modality,
        height=frame.pixels.shape[0],
        width=frame.pixels.shape[1] if frame.pixels.ndim > 1 else 0,
        group=frame.about.group or item.about.group,
        split=frame.about.split or item.about.split,
        labels=labels,
    )
    return row, convert(frame, modality, setting.target)


def _made_grey(frame: Frame, modality: str, target: Target) -> bool:
    """Colours of a modality of colour pictures got lost."""
    pixels = frame.pixels
    if target.channels == 3 or RULES[modality].channels == 1 or pixels.ndim == 2:
        return False
    return bool((pixels[..., 0] != pixels[..., 1]).any() or (pixels[..., 1] != pixels[..., 2]).any())
