"""What an import would read: all its items, seen once without decoding, and the parts they are worked on in.

Row of data/. Parts follow from the listing alone, so that one worker and a hundred write the same files.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from scaling.errors import Problem, SpecError
from scaling.importing.reader import Item, LabelSetting, LabelValue, Reader

SPLITS = ("train", "val", "test")
SHOWN = 5
"""Of many alike problems, how many are written out."""
PARTS = 256
"""About so many parts, so that all cores have work and a crash costs little; of a large import more, of these sizes."""
ITEMS = (256, 16_384)
BYTES = (16 << 20, 1 << 30)


@dataclass(frozen=True, kw_only=True)
class Listing:
    digest: str
    """Of `Digest`."""
    beside: str
    """What it began with."""
    n_items: int
    n_bytes: int
    modalities: Mapping[str, int]
    """Items of each, where the listing knows."""
    n_unknown: int
    """Items whose modality only their files may tell."""
    tasks: Mapping[str, LabelSetting]
    n_labelled: Mapping[str, Mapping[str, int]]
    """Task -> split -> items, as far as the listing knows; a split may be `none`."""
    faults: Mapping[str, int] = field(default_factory=dict)
    """Why items will be set aside, as far as the listing knows -> how many, the most frequent first."""

    @property
    def part_items(self) -> int:
        """Largest number of items of a part."""
        return max(ITEMS[0], min(ITEMS[1], -(-self.n_items // PARTS)))

    @property
    def part_bytes(self) -> int:
        """A part ends with the item that reaches it."""
        return max(BYTES[0], min(BYTES[1], -(-self.n_bytes // PARTS)))


class Digest:
    """SHA-256 of ids, stamps and what is known of items, one by one."""

    def __init__(self, beside: str) -> None:
        """`beside` is of the content of files that are no items, such as a table of labels."""
        self._sha = hashlib.sha256(beside.encode())

    def add(self, item: Item) -> None:
        about = item.about
        said = (about.modality, about.group, about.split, sorted(about.labels.items()))
        line = f"{item.id}\0{item.stamp}\0{item.span}\0{said}\n"
        self._sha.update(line.encode(errors="surrogateescape"))

    def __str__(self) -> str:
        return self._sha.hexdigest()


def survey(name: str, reader: Reader, stated: str | None, beside: str = "") -> Listing:
    """One pass over the items of source `name`; `stated` is the modality that the user gave all of them, `beside` the
    content of files that are no items.

    Raises SpecError with all problems of items, labels and splits.
    """
    digest, ids = Digest(beside), array("Q")
    n_bytes, modalities, faults = 0, Counter[str | None](), Counter[str]()
    tasks = dict(reader.tasks())
    labelled: dict[str, Counter[str]] = {task: Counter() for task in tasks}
    wrong: list[str] = []
    n_wrong = 0
    for item in reader.items():
        digest.add(item)
        ids.append(int.from_bytes(hashlib.blake2b(item.id.encode(errors="surrogateescape"), digest_size=8).digest()))
        n_bytes += item.n_bytes
        faults.update([item.fault] if item.fault else [])
        modalities[stated or item.about.modality] += 1
        for task, value in item.about.labels.items():
            if what := label_problem(task, value, tasks):
                n_wrong += 1
                wrong += [f"{item.id}: {what}"] * (len(wrong) < SHOWN)
            else:
                labelled[task][item.about.split or "none"] += 1
    problems = [Problem(where=name, what=what) for what in wrong]
    if n_wrong > len(wrong):
        problems.append(Problem(where=name, what=f"{n_wrong - len(wrong)} more items have such labels"))
    problems += _problems(name, ids, labelled)
    if problems:
        raise SpecError(problems)
    return Listing(
        digest=str(digest),
        beside=beside,
        n_items=len(ids),
        n_bytes=n_bytes,
        modalities={m: n for m, n in sorted(modalities.items(), key=str) if m is not None},
        n_unknown=modalities[None],
        tasks=tasks,
        n_labelled={task: dict(splits) for task, splits in labelled.items()},
        faults=dict(faults.most_common()),
    )


def _problems(name: str, ids: array[int], labelled: Mapping[str, Counter[str]]) -> Iterator[Problem]:
    if not ids:
        yield Problem(where=name, what="nothing to import is there")
    if len(ids) != len(np.unique(np.frombuffer(ids, np.uint64))):
        yield Problem(where=name, what="two items have one id; give them paths of their own")
    for task, splits in labelled.items():
        missing = [split for split in SPLITS if not splits[split]]
        if missing and splits.total():
            there = ", ".join(f"{n} in {split}" for split, n in splits.items())
            yield Problem(
                where=name,
                what=f"task '{task}' has no labelled image in {' and '.join(missing)} ({there}); a task needs train, "
                "val and test: say where the splits are found, or import without the labels",
            )


def label_problem(task: str, value: LabelValue, tasks: Mapping[str, LabelSetting]) -> str | None:
    """What is wrong with a label; None where it is one of its task."""
    if task not in tasks:
        return f"a label of '{task}', which is no task of the source"
    n = len(tasks[task].classes)
    if tasks[task].kind == "multi-label":
        if isinstance(value, int) or len(value) != n or set(value) - {0, 1}:
            return f"label {value!r} of task '{task}'; {n} values of 0 or 1 are allowed"
    elif not isinstance(value, int | np.integer) or not 0 <= value < n:
        return f"label {value!r} of task '{task}'; 0 to {n - 1} are allowed"
    return None


def parts(items: Iterator[Item], listing: Listing) -> Iterator[list[Item]]:
    """Consecutive items, as many as fit a part."""
    part: list[Item] = []
    n_bytes = 0
    for item in items:
        part.append(item)
        n_bytes += item.n_bytes
        if len(part) >= listing.part_items or n_bytes >= listing.part_bytes:
            yield part
            part, n_bytes = [], 0
    if part:
        yield part
