"""What phantoms show: modalities, the tasks that are planted in them, and labels that are wrong. Row 4."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.data import phantom_physics as physics
from scaling.data.phantom_anatomy import F32, Dice
from scaling.data.phantom_eye import draw_fundus, draw_oct
from scaling.data.phantom_quality import PLANTED, draw_test_object, show_planted
from scaling.data.phantom_surface import draw_dermoscopy, draw_endoscopy
from scaling.data.phantom_tissue import draw_histology, draw_microscopy
from scaling.data.source import TaskKind
from scaling.data.splitmix import Keys, mix

NOISE = np.uint64(0xD1B54A32D192ED03)
"""Tells the numbers that make labels wrong from those that draw the image."""


@dataclass(frozen=True, kw_only=True)
class Modality:
    share: float
    """Of the pool, in proportion to the others that are drawn."""
    draw: Callable[[Dice, int, F32], F32]
    """(dice, image size, findings) -> (n, size, size) or (n, 3, size, size), 0..1."""
    findings: Callable[[Dice], F32]
    """(n, k) of what the pool's images show, as often as chance has it."""


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
    scale_need: float | None = None
    """Of a planted task: how much of what tells its classes apart needs scale, 0-1."""

    @property
    def n_classes(self) -> int:
        first = self.deal[0]
        return len(first) if isinstance(first, tuple) else len(set(self.deal))


def _columns(*columns: F32) -> F32:
    return np.stack(columns, axis=1)


def _lesion_contrast(dice: Dice) -> F32:
    """HU, darker or brighter than the liver."""
    return dice.sign() * dice.uniform(35, 90)


def _planted(place: int) -> Design:
    """Its findings: what is drawn, then the label and the task, which nothing shows."""
    need = list(PLANTED.values())[place]

    def show(dice: Dice, labels: F32) -> F32:
        return np.column_stack([show_planted(dice, labels, need), labels[:, 0], np.full(dice.n, place, np.float32)])

    def tell(findings: F32) -> F32:
        return np.where(findings[:, 3] == place, findings[:, 2], np.float32(-1))

    return Design(modality="test_object", kind="binary", deal=(0, 1), show=show, tell=tell, scale_need=need)


def _any_planted(dice: Dice) -> F32:
    """An image of one of the planted tasks."""
    place, label = np.floor(dice.uniform(0, len(PLANTED))), dice.happens(0.5)
    need = np.asarray(list(PLANTED.values()), np.float32)[place.astype(np.intp)]
    return np.column_stack([show_planted(dice, label[:, None], need), label, place])


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
        draw=draw_microscopy,
        findings=lambda dice: _columns(np.floor(dice.uniform(0, 5))),
    ),
    "fundus": Modality(
        share=0.15,
        draw=draw_fundus,
        findings=lambda dice: _columns(np.maximum(dice.uniform(-1.5, 4.4), 0)),
    ),
    "oct": Modality(
        share=0.15,
        draw=draw_oct,
        findings=lambda dice: _columns(np.floor(dice.uniform(0, 4)), dice.uniform(0.35, 1)),
    ),
    "dermoscopy": Modality(
        share=0.15,
        draw=draw_dermoscopy,
        findings=lambda dice: _columns(*(dice.happens(0.4) * dice.uniform(0.4, 1) for _ in range(3))),
    ),
    "endoscopy": Modality(
        share=0.15,
        draw=draw_endoscopy,
        findings=lambda dice: _columns(dice.happens(0.4) * dice.uniform(0.35, 1)),
    ),
    "histology": Modality(
        share=0.2,
        draw=draw_histology,
        findings=lambda dice: _columns(np.floor(dice.uniform(0, 5))),
    ),
    "test_object": Modality(share=0.1, draw=draw_test_object, findings=_any_planted),
}


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
    "fundus_retinopathy": Design(
        modality="fundus",
        kind="ordinal",
        deal=(0, 1, 2, 3, 4),
        show=lambda dice, y: _columns(np.maximum(y[:, 0] + dice.uniform(-0.6, 0.6), 0)),
        tell=lambda findings: np.minimum(np.floor(findings[:, 0] + np.float32(0.5)), 4),
    ),
    "oct_disease": Design(
        modality="oct",
        kind="multi-class",
        deal=(0, 1, 2, 3),
        show=lambda dice, y: _columns(y[:, 0], dice.uniform(0.25, 1)),
        tell=lambda findings: findings[:, 0],
    ),
    "dermoscopy_signs": Design(
        modality="dermoscopy",
        kind="multi-label",
        deal=EIGHT,
        show=lambda dice, y: y * _columns(dice.uniform(0.3, 1), dice.uniform(0.4, 1), dice.uniform(0.3, 1)),
        tell=lambda findings: (findings > 0).astype(np.float32),
    ),
    "endoscopy_polyp": Design(
        modality="endoscopy",
        kind="binary",
        deal=(0, 1),
        show=lambda dice, y: y * dice.uniform(0.3, 1)[:, None],
        tell=lambda findings: (findings[:, 0] > 0).astype(np.float32),
    ),
    "histology_tissue": Design(
        modality="histology", kind="multi-class", deal=(0, 1, 2, 3, 4), show=lambda dice, y: y, tell=lambda y: y
    ),
    **{name: _planted(place) for place, name in enumerate(PLANTED)},
}


def flip(design: Design, labels: NDArray[np.int64], keys: Keys, share: float) -> NDArray[np.int64]:
    """Labels of images with such keys, each wrong with probability `share`: any other class, all alike; of several
    labels each by itself. Whether an image's label is wrong follows from its key, so it stays wrong.

    labels: (n,), or (n, n_labels) of 0/1.
    """
    dice = Dice(mix(keys ^ NOISE))
    if labels.ndim == 2:
        wrong = np.stack([dice.happens(share) for _ in range(labels.shape[1])], axis=1)
        return np.where(wrong > 0, 1 - labels, labels)
    wrong, step = dice.happens(share), np.floor(dice.uniform(1, design.n_classes)).astype(np.int64)
    return np.where(wrong > 0, (labels + step) % design.n_classes, labels)


def auc_with_noise(design: Design, auc: float, share: float) -> float:
    """AUC of scores on labels of which `share` are wrong, where it is `auc` on the right ones and classes are even.

    With k classes, a wrong label any other, one-against-rest pairs are mixtures of right and wrong ones, in which AUC
    is bilinear: AUC - 1/2 shrinks by 1 - share k / (k - 1), whatever the scores. So the best is 1 - share for two.
    """
    k = 2 if design.kind == "multi-label" else design.n_classes
    return 0.5 + (auc - 0.5) * (1 - share * k / (k - 1))
