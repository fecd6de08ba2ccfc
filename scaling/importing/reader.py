"""The contract of a reader: one format of image files, listed cheaply and decoded one item at a time. Row of data/.

Readers know formats, nothing of the store: the importer maps pixels to 8 bits, resizes, writes, resumes and counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from numpy.typing import NDArray

from scaling.data.source import TaskKind

SplitName = Literal["train", "val", "test"]
LabelValue = int | tuple[int, ...]
"""A class, or 0/1 per label."""


class Unreadable(Exception):
    """This item, or one image of it, cannot be used; the message is the reason in the quarantine table."""

    def __init__(self, reason: str, *, image_id: str | None = None) -> None:
        """`image_id` of a bad frame, as its `Frame` would have had; without one it is counted from the item's first."""
        super().__init__(reason)
        self.image_id = image_id


@dataclass(frozen=True, kw_only=True)
class LabelSetting:
    """What the labels of one task mean."""

    kind: TaskKind
    classes: tuple[str, ...]
    """Names in the order of their codes; of labels for multi-label."""


@dataclass(frozen=True, kw_only=True)
class About:
    """What is known of an image beside its pixels; None where nothing is known yet."""

    modality: str | None = None
    group: str | None = None
    """Patient, study or slide; without one, an image is its own group."""
    split: SplitName | None = None
    labels: Mapping[str, LabelValue] = field(default_factory=dict)
    """Task name -> label."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """What is decoded alone: a file, a member, a span of rows. Unit of work, of resumption and of quarantine."""

    id: str
    """Unique and stable, with `/`: the path below the import's folder, then the member: `shard-0.tar/0001.png`."""
    path: Path
    """File to open, inside the import's folder."""
    n_bytes: int
    """To read, for progress and ETA."""
    stamp: str
    """Changes when the content may have: size and mtime of the file, or better."""
    span: tuple[int, int] | None = None
    """Rows or bytes of the file, where it holds several items."""
    about: About = About()
    fault: str | None = None
    """Why it cannot be used, where listing showed it: `frames` raises Unreadable with it."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One image as decoded."""

    id: str
    """The item's, with `#3` for its fourth frame or slice where it has several."""
    pixels: NDArray
    """(h, w) or (h, w, 3); uint8 is kept, any other real dtype is mapped to 8 bits by the rule of its modality."""
    about: About = About()
    """What the file itself says; it wins over the item's and loses to nothing but what the user stated."""
    window: tuple[float, float] | None = None
    """Values that become 0 and 255, where the file or its volume says so; None lets the modality's rule look."""


class Reader(Protocol):
    """Deterministic: the same files and options list the same items in the same order on every machine."""

    def items(self) -> Iterator[Item]:
        """In order of id. Raises SpecError, with all its problems, when there is nothing that could be imported."""
        ...

    def tasks(self) -> Mapping[str, LabelSetting]:
        """Of the labels that items or frames carry; known before anything is decoded."""
        ...

    def frames(self, item: Item) -> Iterator[Frame | Unreadable]:
        """Images of one item, decoded lazily; runs in a worker process. Raises Unreadable when the item is none, and
        yields one in place of a single bad frame. Never follows a link out of the import's folder."""
        ...
