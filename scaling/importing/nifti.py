"""Reads NIfTI: volumes cut into slices that look the same however they are stored. Row of data/."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from scaling.errors import Problem, SpecError
from scaling.importing.clinical_files import (
    files_below,
    inside,
    link_fault,
    matched,
    needs,
    pattern_of,
    root_of,
    stamp_of,
)
from scaling.importing.intensity import Window, percentile_window, square_pixels
from scaling.importing.label_table import check_paths, read_labels
from scaling.importing.nifti_volume import View, Volumes, scaled, view_of, volumes_of, voxels_of
from scaling.importing.pseudonym import key_of, pseudonym
from scaling.importing.reader import About, Frame, Item, LabelSetting, Unreadable
from scaling.medical_reader_options import NiftiOptions

ENDINGS = (".nii", ".nii.gz", ".hdr", ".hdr.gz")
BIDS: Mapping[str, str] = MappingProxyType(
    # Folders of data types and suffixes of names, BIDS specification 1.10, "modality specific files".
    {"anat": "mr", "func": "mr", "dwi": "mr", "perf": "mr", "fmap": "mr", "pet": "pet", "ct": "ct"}
    | dict.fromkeys(["T1w", "T2w", "PDw", "FLAIR", "T2starw", "inplaneT1", "inplaneT2", "bold", "asl"], "mr")
)
MASK = re.compile(r"(?i)(?:^|[_-])(?:dseg|probseg|seg|mask|segmentation|labels?)(?:[_-]?\d+)?$")
"""Names of maps of structures: BIDS's suffixes, and how challenges call them."""
SUBJECT = re.compile(r"(?:^|/)(sub-[A-Za-z0-9]+)(?=[/_])")
AIR_HU = -500.0
"""Between air and the least dense tissue."""
FAT_HU, DENSE_HU, DENSE_SHARE = -50.0, 700.0, 90.0
"""Every body has voxels below the first; in none is a tenth above the second, the density of hard bone. A guess at how
far other units are recognised: `window` imports such volumes all the same."""
VISIBLE = 0.05
"""Of the window: what is darker counts as background."""


class Nifti:
    """Every NIfTI file below a folder, or one file; an item each, an image per slice."""

    def __init__(self, options: NiftiOptions) -> None:
        """Raises SpecError."""
        needs("nibabel")
        self.options = options
        self.root = root_of(options.path)
        self._pattern = None if options.group in (None, "file", "folder") else pattern_of(str(options.group))
        self._key = key_of(options.key_file, self.root)
        if options.labels is not None and options.labels.of not in ("path", "patient"):
            what = f"'{options.labels.of}' is of DICOM alone; allowed: path, patient (sub-XX, or what `group` finds)"
            raise SpecError([Problem(where="labels.of", what=what)])
        self._labelled = read_labels(options.labels, self.root)

    def items(self) -> Iterator[Item]:
        found = sorted(self._listed(), key=lambda item: item.id)
        if not found:
            what = f"no NIfTI file in '{self.options.path}': none ends in {', '.join(ENDINGS)}"
            raise SpecError([Problem(where="path", what=what)])
        if self.options.modality is None and not any(_bids_modality(item.id) for item in found):
            what = "NIfTI files do not say their modality, and no name is of BIDS: state it, such as `modality: mr`"
            raise SpecError([Problem(where="modality", what=what)])
        check_paths(self._labelled, (item.id for item in found))
        yield from found

    def tasks(self) -> Mapping[str, LabelSetting]:
        return self._labelled.settings

    def frames(self, item: Item) -> Iterator[Frame | Unreadable]:
        if item.fault:
            raise Unreadable(item.fault)
        if MASK.search(_stem(item.id)):
            raise Unreadable("no image: a mask by its name")
        level, name = self._group(item.id)
        about = About(modality=self._modality(item.id), group=pseudonym(level, name, self._key))
        about = self._labelled.of_image(about, item.id if self._labelled.of == "path" else name)
        volumes = volumes_of(item.path)
        if not inside(volumes.path, self.root):
            raise Unreadable("a link out of the folder")
        view = view_of(volumes, self.options.plane)
        step = volumes.n_volumes if self.options.volumes == "first" else self.options.volumes
        numbers = range(0, volumes.n_volumes, step)
        for number, voxels in zip(numbers, voxels_of(volumes, numbers), strict=True):
            prefix = f"{item.id}#" if len(numbers) == 1 else f"{item.id}#{number}."
            try:
                window = self._window(voxels, volumes, about)
            except Unreadable as why:
                if len(numbers) == 1:
                    raise
                yield Unreadable(str(why), image_id=prefix + "0")
                continue
            yield from self._slices(prefix, voxels, volumes, view, about, window)

    def _slices(
        self, prefix: str, voxels: NDArray, volumes: Volumes, view: View, about: About, window: Window | None
    ) -> Iterator[Frame | Unreadable]:
        floor = AIR_HU if about.modality == "ct" else _floor(window)
        for index in self._indices(voxels.shape[view.normal]):
            pixels = scaled(view.cut(voxels, index), volumes)
            if pixels.ndim == 2 and np.mean(pixels > floor) < self.options.min_tissue:
                yield Unreadable("almost empty slice", image_id=f"{prefix}{index}")
                continue
            pixels = square_pixels(pixels, *view.spacing)
            yield Frame(id=f"{prefix}{index}", pixels=pixels, window=window, about=about)

    def _indices(self, n_slices: int) -> range:
        margin = round(self.options.margin * n_slices)
        return range(margin, n_slices - margin, self.options.stride)

    def _window(self, voxels: NDArray, volumes: Volumes, about: About) -> Window | None:
        """Of the whole volume, so that neighbouring slices stay comparable; None where the modality's rule is absolute.

        Raises Unreadable for a volume of one value.
        """
        if voxels.dtype.names is not None or self.options.window is not None:
            return self.options.window
        if about.modality == "ct":
            _refuse_other_units(voxels, volumes)
            return None
        found = percentile_window(voxels, self.options.percentiles)
        if found is None:
            raise Unreadable("blank volume")
        ends = sorted(value * volumes.slope + volumes.intercept for value in found)
        return ends[0], ends[1]

    def _modality(self, image_id: str) -> str:
        stated = self.options.modality
        if isinstance(stated, str):
            return stated
        for pattern, modality in (stated or {}).items():
            if fnmatch.fnmatchcase(image_id, pattern):
                return modality
        found = _bids_modality(image_id)
        if found is None:
            raise Unreadable("modality missing: state it with `modality`")
        return found

    def _group(self, image_id: str) -> tuple[str, str]:
        """What a group is by, and its name in the clear. Raises Unreadable."""
        how = self.options.group
        if self._pattern is not None:
            return "pattern", matched(self._pattern, image_id)
        subject = SUBJECT.search(image_id) if how is None else None
        if subject is not None:
            return "patient", subject.group(1)
        return ("folder", image_id.rpartition("/")[0]) if how == "folder" else ("file", image_id)

    def _listed(self) -> Iterator[Item]:
        if self.root.is_file():
            yield _item(self.root.name, self.root, [stamp_of(self.root)])
            return
        known: dict[str, Path] = {}
        for name, entry in files_below(self.root, all_links=True):
            if not (fault := link_fault(entry, self.root)):
                known[name] = Path(entry.path)
            elif name.endswith(ENDINGS) or os.path.isdir(entry.path):
                yield Item(id=name, path=Path(entry.path), n_bytes=0, stamp=fault, fault=fault)
        for name, path in known.items():
            if name.endswith(ENDINGS) and fnmatch.fnmatchcase(name, self.options.files):
                pair = known.get(re.sub(r"\.hdr(\.gz)?$", r".img\1", name)) if ".hdr" in name else None
                yield _item(name, path, [stamp_of(each) for each in (path, pair) if each is not None])


def _item(name: str, path: Path, stamps: list[tuple[int, str]]) -> Item:
    return Item(id=name, path=path, n_bytes=sum(n for n, _ in stamps), stamp="+".join(text for _, text in stamps))


def _stem(image_id: str) -> str:
    return image_id.rpartition("/")[2].partition(".")[0]


def _bids_modality(image_id: str) -> str | None:
    suffix = _stem(image_id).rpartition("_")[2]
    folders = image_id.split("/")[:-1]
    return next((BIDS[word] for word in (suffix, *reversed(folders)) if word in BIDS), None)


def _refuse_other_units(voxels: NDArray, volumes: Volumes) -> None:
    """Raises Unreadable for CT that cannot be in Hounsfield units: no air or fat, and a tenth of it harder than bone.

    So look the scanner's values before a slope and intercept that got lost on the way to NIfTI.
    """
    found = percentile_window(voxels, (0.0, DENSE_SHARE))
    if found is not None:
        low, high = (value * volumes.slope + volumes.intercept for value in found)
        if low > FAT_HU and high > DENSE_HU:
            raise Unreadable("no rescale: the values of this CT are no Hounsfield units")


def _floor(window: Window | None) -> float:
    return -np.inf if window is None else window[0] + VISIBLE * (window[1] - window[0])
