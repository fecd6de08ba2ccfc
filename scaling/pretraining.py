"""The pretraining images that a sweep's tasks are compared with: which of its sets, and what they look like."""

from __future__ import annotations

import functools
from collections import defaultdict

import numpy as np

from scaling.data.mixture import mixed_hash, select
from scaling.data.source import MIXED, Images, Source
from scaling.errors import RunFailed
from scaling.plan import Plan, PlannedRun, source_of

IMAGES = 1000
"""Looked at, at most."""
CHANGED = "the source's images changed since the plan was made"


def compared_with(plan: Plan) -> PlannedRun | None:
    """A run on the set that tasks are compared with; None in a sweep that pretrains nothing.

    A sweep may pretrain on many sets, a task table has one row per task. It is the set that the benefits of the report
    are of where the grid is full: most model sizes, then most images, then most runs, then first by name of mixture.
    Results have no say.
    """
    runs = defaultdict(list)
    for run in plan.runs:
        if run.spec.data_identity and not run.holdout:
            runs[run.point.mixture, run.point.n_images].append(run)
    ranked = sorted(
        runs, key=lambda cell: (-len({run.point.model for run in runs[cell]}), -cell[1], -len(runs[cell]), cell[0])
    )
    return runs[ranked[0]][0] if ranked else None


class Pretraining:
    """Opens the source when it is first asked for."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.run = plan, compared_with(plan)

    def share(self, modality: str) -> float | None:
        """Of the images that are of a modality; None without any images, and for a task of several modalities."""
        counts = self.run.n_by_modality if self.run else {}
        return counts.get(modality, 0) / sum(counts.values()) if counts and modality != MIXED else None

    @functools.cached_property
    def source(self) -> Source:
        return source_of(self.plan.sweep.data)

    @functools.cached_property
    def images(self) -> Images | None:
        """A random sample, the same on every machine; None without any images.

        Raises SpecError or OSError when the source cannot be opened, RunFailed when it is no longer as planned.
        """
        if self.run is None:
            return None
        pool, point = self.source.pool(), self.run.point
        try:
            chosen = select(pool, self.plan.sweep.mixtures[point.mixture], point.n_images)
        except ValueError:  # a modality is gone, or some of its images
            raise RunFailed(CHANGED) from None
        if chosen.identity != self.run.spec.data_identity:
            raise RunFailed(CHANGED)
        order = np.argsort(mixed_hash(pool.keys[chosen.indices], 1), kind="stable")
        return self.source.read(chosen.indices[order[:IMAGES]])
