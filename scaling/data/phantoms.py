"""Synthetic medical images without end, and tasks whose truth is known because we drew it. A source of row 4.

Every image follows from its key, and the key from (version, seed, stream, index): any image can be drawn alone, in
any order, on any machine, with the same bytes. Nothing here is a patient; `phantom_physics.py` says what it imitates.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.data import phantom_physics as physics
from scaling.data.phantom_anatomy import F32, Dice
from scaling.data.source import Images, Labels, Pool, Split, Task, TaskInfo, TaskKind
from scaling.data.splitmix import GOLDEN, Keys, mix
from scaling.errors import unknown
from scaling.source_options import PhantomsOptions

VERSION = 1
"""Part of every key: raise it when an image or a label changes."""
PIXELS = 2**18
"""Drawn at once, so that pictures in work stay in a core's cache, and are many enough for Python not to count."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""


@dataclass(frozen=True, kw_only=True)
class Modality:
    share: float
    """Of the pool."""
    draw: Callable[[Dice, int, F32], F32]
    """(dice, image size, findings) -> (n, size, size) or (n, 3, size, size), 0..1."""
    findings: Callable[[Dice], F32]
    """(n, k) of what the pool's images show, as often as chance has it."""


def _columns(*columns: F32) -> F32:
    return np.stack(columns, axis=1)


def _lesion_contrast(dice: Dice) -> F32:
    """HU, darker or brighter than the liver."""
    return dice.sign() * dice.uniform(35, 90)


MODALITIES = {
    "ct": Modality(
        share=0.3,
        draw=physics.draw_ct,
        findings=lambda dice: _columns(dice.uniform(), dice.happens(0.4) * _lesion_contrast(dice)),
    ),
    "xray": Modality(
        share=0.25,
        draw=physics.draw_xray,
        findings=lambda dice: _columns(dice.happens(0.3), dice.happens(0.3), dice.happens(0.3)),
    ),
    "mr": Modality(
        share=0.2,
        draw=physics.draw_mr,
        findings=lambda dice: _columns(dice.uniform(), dice.happens(0.5) * dice.uniform()),
    ),
    "ultrasound": Modality(
        share=0.15,
        draw=physics.draw_ultrasound,
        findings=lambda dice: _columns(dice.happens(0.8), dice.happens(0.4), dice.happens(0.5)),
    ),
    "microscopy": Modality(
        share=0.1,
        draw=physics.draw_microscopy,
        findings=lambda dice: _columns(np.floor(dice.uniform(0, 5))),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Design:
    """How a task is made: labels are dealt in turn, so that every split has every class, then drawn."""

    modality: str
    kind: TaskKind
    deal: tuple[int, ...] | tuple[tuple[int, ...], ...]
    """Labels of the first images, over and over; at most 8 of them, the smallest split."""
    show: Callable[[Dice, F32], F32]
    """(dice, (n, k) labels) -> findings, with chance where classes overlap."""
    tell: Callable[[F32], F32]
    """(n, k) findings of the pool -> labels, negative where the task's question has no answer."""

    @property
    def n_classes(self) -> int:
        first = self.deal[0]
        return len(first) if isinstance(first, tuple) else len(set(self.deal))


EIGHT = tuple((a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1))
"""Every combination of three findings."""


def _show_lesion(dice: Dice, labels: F32) -> F32:
    """Slices through the liver, a dark lesion in half; a healthy one has a faint spot in a fifth of the cases."""
    spot = dice.happens(0.2) * 0.35
    return _columns(dice.uniform(0.36, 0.54), np.maximum(labels[:, 0], spot) * -dice.uniform(70, 170))


def _show_ventricles(dice: Dice, labels: F32) -> F32:
    """Grades overlap with their neighbours by half a grade."""
    return _columns((labels[:, 0] + dice.uniform(-0.35, 1.35)) / 4.7 + 0.075, dice.happens(0.5) * dice.uniform())


def _show_findings(dice: Dice, labels: F32) -> F32:
    """Each of three signs, clear in some films and barely there in others."""
    strength = _columns(dice.uniform(0.5, 1.5), dice.uniform(0.8, 2.2), dice.uniform(0.4, 1.0))
    return labels * strength


def _show_margin(dice: Dice, labels: F32) -> F32:
    """A solid mass, its margin more or less spiculated."""
    return _columns(np.ones(dice.n, np.float32), np.zeros(dice.n, np.float32), labels[:, 0] * dice.uniform(0.7, 1.3))


def _tell_lesion(findings: F32) -> F32:
    """Only of slices as the task has them: elsewhere there may be no liver."""
    level, contrast = findings.T
    return np.where((level > 0.36) & (level < 0.54), (contrast != 0).astype(np.float32), np.float32(-1))


def _tell_ventricles(findings: F32) -> F32:
    """The grade whose range is nearest."""
    return np.clip(np.floor((findings[:, 0] - 0.075) * 4.7), 0, 3)


def _tell_margin(findings: F32) -> F32:
    """Of solid masses."""
    there, cyst, spiculated = findings.T
    return np.where((there > 0) & (cyst == 0), spiculated, np.float32(-1))


TASKS = {
    "ct_lesion": Design(modality="ct", kind="binary", deal=(0, 1), show=_show_lesion, tell=_tell_lesion),
    "mr_ventricles": Design(
        modality="mr", kind="ordinal", deal=(0, 1, 2, 3), show=_show_ventricles, tell=_tell_ventricles
    ),
    "xray_findings": Design(
        modality="xray", kind="multi-label", deal=EIGHT, show=_show_findings, tell=lambda findings: findings
    ),
    "ultrasound_mass": Design(modality="ultrasound", kind="binary", deal=(0, 1), show=_show_margin, tell=_tell_margin),
    "smear_cells": Design(
        modality="microscopy", kind="multi-class", deal=(0, 1, 2, 3, 4), show=lambda dice, y: y, tell=lambda y: y
    ),
}


def on_all_cores(draw: Callable[..., None], parts: list[tuple[Any, ...]]) -> None:
    """Every part once, in threads: NumPy holds no lock while it computes. As many as OMP_NUM_THREADS allows, if set."""
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

    def pool(self) -> Pool:
        return self._pool

    @cached_property
    def _pool(self) -> Pool:
        keys = self._keys("pool", self.options.pool_size)
        share = np.cumsum([modality.share for modality in MODALITIES.values()])
        # Bits of their own: an image's modality is no function of the numbers that draw it.
        place = (mix(keys ^ GOLDEN) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        modality = np.searchsorted(share[:-1], place, side="right").astype(np.int16)
        return Pool(keys=keys, groups=keys, modality=modality, modalities=tuple(MODALITIES))

    def read(self, indices: NDArray[np.int64]) -> Images:
        pool = self.pool()
        images = np.empty((len(indices), *self._shape), np.uint8)
        parts = [
            (modality, part)
            for code, modality in enumerate(MODALITIES.values())
            for part in self._parts(np.flatnonzero(pool.modality[indices] == code))
        ]

        def draw(modality: Modality, part: NDArray[np.intp]) -> None:
            dice = Dice(pool.keys[indices[part]])
            images[part] = self._picture(modality.draw, dice, modality.findings(dice))

        on_all_cores(draw, parts)
        return images

    def _parts(self, members: NDArray[np.intp]) -> list[NDArray[np.intp]]:
        """As many images each as are drawn at once."""
        step = max(1, PIXELS // self.options.image_size**2)
        return [members[start : start + step] for start in range(0, len(members), step)]

    def labels(self, indices: NDArray[np.int64]) -> Labels:
        """What was drawn into an image, in the words of its modality's task. The images of tasks are others."""
        pool = self.pool()
        task, values = np.full(len(indices), -1), np.zeros((len(indices), len(EIGHT[0])), np.int64)
        for code, design in enumerate(TASKS.values()):
            mine = np.flatnonzero(pool.modality[indices] == pool.modalities.index(design.modality))
            findings = MODALITIES[design.modality].findings(Dice(pool.keys[indices[mine]]))
            rows = design.tell(findings).astype(np.int64)
            rows = rows if rows.ndim == 2 else rows[:, None]
            told = rows[:, 0] >= 0
            task[mine[told]] = code
            values[mine[told], : rows.shape[1]] = rows[told]
        return Labels(tasks=self.tasks(), task=task, values=values)

    def tasks(self) -> tuple[TaskInfo, ...]:
        return tuple(self._info(name) for name in TASKS)

    def task(self, name: str) -> Task:
        if name not in TASKS:
            raise KeyError(unknown("task", name, TASKS))
        o = self.options
        sizes = {"train": o.n_train, "val": o.n_val, "test": o.n_test}
        return Task(info=self._info(name), **{split: self._split(name, split, n) for split, n in sizes.items()})

    def _info(self, name: str) -> TaskInfo:
        design = TASKS[name]
        made_of = f"{VERSION} {name} {self.options.model_dump(exclude={'pool_size'})}"
        return TaskInfo(
            name=name,
            modality=design.modality,
            kind=design.kind,
            n_classes=design.n_classes,
            identity=hashlib.sha256(made_of.encode()).hexdigest()[:16],
            n_train=self.options.n_train,
            n_other=self.options.n_val + self.options.n_test,
        )

    def _split(self, name: str, split: str, n: int) -> Split:
        design = TASKS[name]
        labels = np.array([design.deal[i % len(design.deal)] for i in range(n)], np.int64)
        keys = self._keys(f"{name}/{split}", n)
        images = np.empty((n, *self._shape), np.uint8)

        def draw(part: NDArray[np.intp]) -> None:
            dice = Dice(keys[part])
            shown = labels[part].astype(np.float32).reshape(dice.n, -1)
            images[part] = self._picture(MODALITIES[design.modality].draw, dice, design.show(dice, shown))

        on_all_cores(draw, [(part,) for part in self._parts(np.arange(n))])
        return Split(images=images, labels=labels)

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
