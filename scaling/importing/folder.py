"""Reads a folder of pictures; what an image is of, its class and split may stand in its path. Row of data/."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

from scaling.errors import Problem, SpecError
from scaling.importing.clinical_files import LINKED, files_below, needs, pattern_of, root_of, stamp_of
from scaling.importing.image_file import ENDINGS, frames_of
from scaling.importing.reader import About, Frame, Item, LabelSetting, SplitName, Unreadable
from scaling.importing.safety import read_file
from scaling.reader_options import FolderOptions

SPLIT_OF: Mapping[str, SplitName] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Usual words for the splits, in small letters."""
NO_GROUP = "the pattern of `group` finds nothing in the path"


class Folder:
    """Every picture below a folder, or one file; an item each."""

    def __init__(self, options: FolderOptions) -> None:
        """Raises SpecError."""
        self.options = options
        self.root = root_of(options.path)
        named = options.group in (None, "file", "folder")
        self._group_in = None if named or options.group is None else pattern_of(options.group)
        self._split_in = None if options.split in (None, "folder") else pattern_of(str(options.split), "split")
        label = options.task and options.task.label
        self._label_in = pattern_of(label, "task.label") if label else None

    def items(self) -> Iterator[Item]:
        if not self._found:
            what = f"no picture in '{self.options.path}': none ends in {', '.join(ENDINGS)}"
            raise SpecError([Problem(where="path", what=what)])
        if any(name.lower().endswith((".tif", ".tiff")) for name, _, _ in self._found):
            needs("tifffile")
        tasks = self.tasks()
        for name, path, (n_bytes, stamp) in self._found:
            yield self._item(name, path, n_bytes, stamp, tasks)

    def tasks(self) -> Mapping[str, LabelSetting]:
        """Raises SpecError where sub-folders are not the classes that were named."""
        task = self.options.task
        if task is None:
            return {}
        there = sorted({each for name, _, _ in self._found if (each := self._class(name)) is not None})
        classes = task.classes or there
        problems = []
        if strange := [each for each in there if each not in classes]:
            what = f"found {', '.join(strange[:5])}, which are no classes; named are {', '.join(classes)}"
            problems.append(Problem(where="task.classes", what=what))
        if len(classes) < 2 or (task.kind == "binary" and len(classes) != 2):
            what = f"{len(classes)} classes by the paths ({', '.join(classes[:5]) or 'none'}); "
            what += "a binary task has 2, any other at least 2"
            problems.append(Problem(where="task.kind", what=what))
        if problems:
            raise SpecError(problems)
        return {task.name: LabelSetting(kind=task.kind, classes=tuple(classes))}

    def frames(self, item: Item) -> Iterator[Frame | Unreadable]:
        if item.fault:
            raise Unreadable(item.fault)
        yield from frames_of(read_file(item.path, self.root), item.id, self.options, item.about)

    @cached_property
    def _found(self) -> list[tuple[str, Path, tuple[int, str]]]:
        """Path below the root with `/`, file, bytes and stamp; in order."""
        if self.root.is_file():
            return [(self.root.name, self.root, stamp_of(self.root))]
        found = files_below(self.root, all_links=True)
        files = [
            (name, Path(each.path), _stamp(each))
            for name, each in found
            if name.lower().endswith(ENDINGS) or _is_linked(each)
        ]
        return sorted(files, key=lambda file: os.fsencode(file[0]))

    def _item(self, name: str, path: Path, n_bytes: int, stamp: str, tasks: Mapping[str, LabelSetting]) -> Item:
        readable = os.fsencode(name).decode(errors="backslashreplace")
        fault = None if readable == name else "name is not UTF-8"
        group, found = self._group(name)
        labels = {}
        for task, setting in tasks.items():
            if (label := self._class(name)) is not None:
                labels[task] = setting.classes.index(label)
        about = About(modality=self._modality(name), group=group, split=self._split(name), labels=labels)
        fault = fault or (LINKED if stamp == LINKED else None if found else NO_GROUP)
        stamp = f"{stamp} {about.split} {labels}" if labels or about.split else stamp
        return Item(id=readable, path=path, n_bytes=n_bytes, stamp=stamp, about=about, fault=fault)

    def _group(self, name: str) -> tuple[str | None, bool]:
        """And whether what was asked for is there: a guess would let a patient stand twice."""
        if self._group_in is not None:
            match = self._group_in.search(name)
            return (match.group(1), bool(match.group(1))) if match else (None, False)
        return (name.rpartition("/")[0] or ".", True) if self.options.group == "folder" else (None, True)

    def _folders(self, name: str) -> list[str]:
        return name.split("/")[:-1]

    def _split(self, name: str) -> SplitName | None:
        if self.options.split is None:
            return None
        if self._split_in is not None:
            return SPLIT_OF.get((_found_by(self._split_in, name) or "").lower())
        return next((SPLIT_OF[each.lower()] for each in self._folders(name) if each.lower() in SPLIT_OF), None)

    def _class(self, name: str) -> str | None:
        if self._label_in is not None:
            return _found_by(self._label_in, name)
        folders = self._folders(name)
        if self.options.split is not None:
            folders = [each for each in folders if each.lower() not in SPLIT_OF]
        return folders[0] if folders else None

    def _modality(self, name: str) -> str | None:
        return modality_by_path(self.options.modality, name)


def _is_linked(entry: os.DirEntry[str]) -> bool:
    """Whether it is a link to a folder; asks the disk about links alone."""
    return entry.is_symlink() and os.path.isdir(entry.path)


def _stamp(entry: os.DirEntry[str]) -> tuple[int, str]:
    if _is_linked(entry):  # what changes behind it is nothing to us
        return 0, LINKED
    try:
        return stamp_of(entry)
    except OSError:  # a link to nothing, which reading it will tell
        return 0, "nothing"


def _found_by(pattern: re.Pattern[str], name: str) -> str | None:
    match = pattern.search(name)
    return match.group(1) if match else None


def modality_by_path(stated: str | Mapping[str, str] | None, name: str) -> str | None:
    """Of all, or of the first shell pattern that fits a path; None where nothing says it."""
    if isinstance(stated, str) or stated is None:
        return stated
    return next((modality for pattern, modality in stated.items() if fnmatch.fnmatchcase(name, pattern)), None)
