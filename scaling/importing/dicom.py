"""Reads DICOM: finds its files by content, decodes each frame to what a radiologist sees. Row of data/.

Listing opens only files whose name does not end in .dcm, and reads 132 bytes of those; tags are read when a file is
decoded. What turns out to be a report, a plan or a table of contents is set aside with the reason.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from scaling.errors import Problem, SpecError
from scaling.importing.clinical_files import files_below, link_fault, matched, needs, pattern_of, root_of, stamp_of
from scaling.importing.dicom_frames import DAMAGED, guarded, header_of, n_frames, stored_frames
from scaling.importing.dicom_objects import ID_OF, LEVELS, Header, group_of, modality_of, refuse_non_images, text
from scaling.importing.dicom_pixels import shown
from scaling.importing.label_table import check_paths, read_labels
from scaling.importing.pseudonym import key_of, pseudonym
from scaling.importing.reader import About, Frame, Item, LabelSetting, Unreadable
from scaling.medical_reader_options import DicomOptions

ENDINGS = (".dcm", ".dicom", ".dic", ".ima")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy", ".npz", ".parquet", ".nii", ".gz", ".zip", ".tar")
TEXTS = (
    ".txt",
    ".md",
    ".csv",
    ".tsv",
    ".json",
    ".xml",
    ".html",
    ".pdf",
    ".yaml",
    ".yml",
    ".log",
    ".py",
    ".exe",
    ".inf",
)
OTHERS = frozenset(PICTURES + TEXTS)
"""Endings of files that are none, so that listing a mixed folder opens fewer."""


class Dicom:
    """Every DICOM file below a folder, or one file; an item each, an image per frame."""

    def __init__(self, options: DicomOptions) -> None:
        """Raises SpecError."""
        needs("pydicom")
        self.options = options
        self.root = root_of(options.path)
        level = options.group or "patient"
        self._level = level if level in LEVELS else "file"
        self._pattern = None if level in LEVELS else pattern_of(level)
        self._key = key_of(options.key_file, self.root)
        self._labelled = read_labels(options.labels, self.root)

    def items(self) -> Iterator[Item]:
        found = sorted(self._listed(), key=lambda item: item.id)
        if not found:
            what = f"no DICOM file in '{self.options.path}': none ends in {', '.join(ENDINGS)} or begins as one"
            raise SpecError([Problem(where="path", what=what)])
        check_paths(self._labelled, (item.id for item in found))
        yield from found

    def tasks(self) -> Mapping[str, LabelSetting]:
        return self._labelled.settings

    def frames(self, item: Item) -> Iterator[Frame | Unreadable]:
        if item.fault:
            raise Unreadable(item.fault)
        options = self.options
        header = header_of(item.path)
        with guarded(DAMAGED):
            refuse_non_images(header, options.include)
            about = self._about(header, item.id)
        n = n_frames(header)
        for index, stored in stored_frames(item.path, header, range(0, n, options.stride)):
            image_id = item.id if n == 1 else f"{item.id}#{index}"
            if isinstance(stored, Unreadable):
                yield Unreadable(str(stored), image_id=image_id)
                continue
            try:
                with guarded(DAMAGED):
                    seen = shown(stored, header, index, str(about.modality), options.voi, options.window)
            except Unreadable as reason:
                yield Unreadable(str(reason), image_id=image_id)
                continue
            yield Frame(id=image_id, pixels=seen.pixels, window=seen.window, about=about)

    def _about(self, header: Header, image_id: str) -> About:
        about = About(modality=modality_of(header, self.options.modality), group=self._group(header, image_id))
        of = self._labelled.of
        return self._labelled.of_image(about, text(header, ID_OF[of]) if of in ID_OF else image_id)

    def _group(self, header: Header, image_id: str) -> str:
        if self._pattern is not None:
            return pseudonym("pattern", matched(self._pattern, image_id), self._key)
        return group_of(header, self._level, image_id, self._key)

    def _listed(self) -> Iterator[Item]:
        if self.root.is_file():
            n_bytes, stamp = stamp_of(self.root)
            yield Item(id=self.root.name, path=self.root, n_bytes=n_bytes, stamp=stamp)
            return
        for name, entry in files_below(self.root, all_links=True):
            if fault := link_fault(entry, self.root):
                if os.path.splitext(name)[1].lower() not in OTHERS:
                    yield Item(id=name, path=Path(entry.path), n_bytes=0, stamp=fault, fault=fault)
            elif _is_dicom(entry):
                n_bytes, stamp = stamp_of(entry)
                yield Item(id=name, path=Path(entry.path), n_bytes=n_bytes, stamp=stamp)


def _is_dicom(entry: os.DirEntry[str]) -> bool:
    """By name, else by the first bytes: the preamble, or a plausible first tag of a file without one."""
    if entry.name == "DICOMDIR":
        return False
    ending = os.path.splitext(entry.name)[1].lower()
    if ending in ENDINGS:
        return True
    if ending in OTHERS:
        return False
    try:
        with open(entry.path, "rb", buffering=0) as file:
            start = file.read(132)
    except OSError:
        return True  # set aside with its reason, rather than passed over
    return start[128:] == b"DICM" or plausible(start)


FIRST = re.compile(
    # group 0002 or 0008, a low element, then a value representation of two letters or (implicit) a short length
    rb"(?s)\A(?:[\x02\x08]\x00.\x00(?:[A-Z]{2}|..\x00\x00)|\x00[\x02\x08]\x00.[A-Z]{2})"
)


def plausible(start: bytes) -> bool:
    """Whether bytes look like a data set without preamble, as old archives and network captures hold."""
    return len(start) >= 8 and FIRST.match(start) is not None
