"""Synthetic medical images without end, and tasks whose truth is known because we drew it. A source of row 4.

Every image follows from its key, and the key from (version, seed, stream, index): any image can be drawn alone, in
any order, on any machine, with the same bytes. Nothing here is a patient; what draws a modality says what it imitates.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.data.phantom_anatomy import F32, Dice
from scaling.data.phantom_designs import EIGHT, MODALITIES, TASKS, Modality, flip
from scaling.data.source import Images, Labels, Pool, Split, Task, TaskInfo
from scaling.data.splitmix import GOLDEN, Keys, mix
from scaling.errors import unknown
from scaling.source_options import DEFAULT_MODALITIES, PhantomsOptions

VERSION = 1
"""Part of every key: raise it when an image or a label changes."""
PIXELS = 2**19
"""Drawn at once: with fewer, what Python does between arrays counts; many more would leave the processor's cache."""
NOT_OF_TASKS = {"pool_size", "modalities", "tasks_from", "expected"}
"""Options that change no image and no label of a task."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""


@cache
def keep_pictures_memory() -> None:
    """Drawing then takes half the time: glibc else hands a picture's memory back to the system and asks for it again.

    It keeps whatever is smaller than the largest block that was ever freed (mallopt(3), M_MMAP_THRESHOLD), up to
    32 MiB; this one is never touched, so it costs nothing. Other libraries take no notice. Milder than
    `process.keep_freed_memory`, for processes that do much else.
    """
    np.empty(31 * 2**20, np.uint8)


def on_all_cores(draw: Callable[..., None], parts: list[tuple[Any, ...]]) -> None:
    """Every part once, in threads: NumPy holds no lock while it computes. As many as OMP_NUM_THREADS allows, if set."""
    keep_pictures_memory()
    n_threads = int(os.environ.get("OMP_NUM_THREADS", 0)) or len(os.sched_getaffinity(0))
    if min(n_threads, len(parts)) < 2:
        for part in parts:
            draw(*part)
        return
    with ThreadPoolExecutor(min(n_threads, len(parts)), thread_name_prefix="phantoms") as threads:
        for done in [threads.submit(draw, *part) for part in parts]:
            done.result()


class Phantoms:
    """The source. Its pool has no size on disk: an image is drawn when it is read."""

    synthetic = True

    def __init__(self, options: PhantomsOptions) -> None:
        self.options = options
        chosen = options.modalities
        self.modalities = {n: m for n, m in MODALITIES.items() if chosen == "all" or n in chosen}
        """In the table's order, whatever the YAML's."""
        self.designs = {name: design for name, design in TASKS.items() if design.modality in self.modalities}

    def pool(self) -> Pool:
        return self._pool

    @cached_property
    def _pool(self) -> Pool:
        # What else decides an image than its size is in its key: another image never has the same.
        names, latents = tuple(self.modalities), self.options.latents
        told = "" if (names, latents) == (DEFAULT_MODALITIES, None) else f"/{','.join(names)}/{latents}"
        keys = self._keys(f"pool{told}", self.options.pool_size)
        share = np.cumsum([modality.share for modality in self.modalities.values()])
        # Bits of their own: an image's modality is no function of the numbers that draw it.
        place = (mix(keys ^ GOLDEN) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        modality = np.searchsorted(share[:-1], place * share[-1], side="right").astype(np.int16)
        return Pool(keys=keys, groups=keys, modality=modality, modalities=names)

    def read(self, indices: NDArray[np.int64]) -> Images:
        pool = self.pool()
        images = np.empty((len(indices), *self._shape), np.uint8)
        parts = [
            (modality, part)
            for code, modality in enumerate(self.modalities.values())
            for part in self._parts(np.flatnonzero(pool.modality[indices] == code))
        ]

        def draw(modality: Modality, part: NDArray[np.intp]) -> None:
            dice = self._dice(pool.keys[indices[part]])
            images[part] = self._picture(modality.draw, dice, modality.findings(dice))

        on_all_cores(draw, parts)
        return images

    def _dice(self, keys: Keys) -> Dice:
        return Dice(keys, latents=self.options.latents)

    def _parts(self, members: NDArray[np.intp]) -> list[NDArray[np.intp]]:
        """As many images each as are drawn at once."""
        step = max(1, PIXELS // self.options.image_size**2)
        return [members[start : start + step] for start in range(0, len(members), step)]

    def labels(self, indices: NDArray[np.int64]) -> Labels:
        """What was drawn into an image, in the words of its modality's task. The images of tasks are others."""
        pool = self.pool()
        task, values = np.full(len(indices), -1), np.zeros((len(indices), len(EIGHT[0])), np.int64)
        for code, design in enumerate(self.designs.values()):
            mine = np.flatnonzero(pool.modality[indices] == pool.modalities.index(design.modality))
            if not len(mine):
                continue
            keys = pool.keys[indices[mine]]
            findings = self.modalities[design.modality].findings(self._dice(keys))
            rows = design.tell(findings).astype(np.int64)
            rows = rows if design.kind == "multi-label" else rows.reshape(-1)
            told = rows.reshape(len(mine), -1)[:, 0] >= 0
            rows = flip(design, rows, keys, self.options.label_noise).reshape(len(mine), -1)
            task[mine[told]] = code
            values[mine[told], : rows.shape[1]] = rows[told]
        return Labels(tasks=self.tasks(), task=task, values=values)

    def tasks(self) -> tuple[TaskInfo, ...]:
        return tuple(self._info(name) for name in self.designs)

    def task(self, name: str) -> Task:
        if name not in self.designs:
            raise KeyError(unknown("task", name, self.designs))
        o = self.options
        sizes = {"train": o.n_train, "val": o.n_val, "test": o.n_test}
        return Task(info=self._info(name), **{split: self._split(name, split, n) for split, n in sizes.items()})

    def _info(self, name: str) -> TaskInfo:
        design = self.designs[name]
        made_of = f"{VERSION} {name} {self.options.model_dump(exclude=NOT_OF_TASKS)}"
        return TaskInfo(
            name=name,
            modality=design.modality,
            kind=design.kind,
            n_classes=design.n_classes,
            identity=hashlib.sha256(made_of.encode()).hexdigest()[:16],
            n_train=self.options.n_train,
            n_other=self.options.n_val + self.options.n_test,
            scale_need=design.scale_need,
        )

    def _split(self, name: str, split: str, n: int) -> Split:
        design = self.designs[name]
        labels = np.array([design.deal[i % len(design.deal)] for i in range(n)], np.int64)
        keys = self._keys(f"{name}/{split}", n)
        images = np.empty((n, *self._shape), np.uint8)

        def draw(part: NDArray[np.intp]) -> None:
            dice = self._dice(keys[part])
            shown = labels[part].astype(np.float32).reshape(dice.n, -1)
            images[part] = self._picture(MODALITIES[design.modality].draw, dice, design.show(dice, shown))

        on_all_cores(draw, [(part,) for part in self._parts(np.arange(n))])
        noisy = split == "train" or self.options.noisy_splits == "all"
        return Split(images=images, labels=flip(design, labels, keys, self.options.label_noise) if noisy else labels)

    def _keys(self, stream: str, n: int) -> Keys:
        """(n,) distinct keys: splitmix64 is a bijection of its counter. Streams start at unrelated counters."""
        start = hashlib.sha256(f"{VERSION}/{self.options.seed}/{stream}".encode()).digest()[:8]
        with np.errstate(over="ignore"):
            return mix(np.frombuffer(start, "<u8").astype(np.uint64) + np.arange(n, dtype=np.uint64) * GOLDEN)

    @property
    def _shape(self) -> tuple[int, int, int]:
        return (self.options.channels, self.options.image_size, self.options.image_size)

    def _picture(self, draw: Callable[[Dice, int, F32], F32], dice: Dice, findings: F32) -> Images:
        """(n, channels, size, size): grey repeated, colour weighted to grey, as the options have it."""
        picture = draw(dice, self.options.image_size, findings)
        if picture.ndim == 3:
            picture = np.repeat(picture[:, None], self.options.channels, axis=1)
        elif self.options.channels == 1:
            red, green, blue = (picture[:, i] * np.float32(weight) for i, weight in enumerate(LUMA))
            picture = (red + green + blue)[:, None]
        picture *= 255
        picture += np.float32(0.5)
        return np.clip(picture, 0, 255, out=picture).astype(np.uint8)
