"""The pretraining sets of a sweep: each mixture at each size chosen once from the source's pool, with its labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scaling.catalog import ALGORITHMS
from scaling.config import Sweep
from scaling.data.labels import label_set
from scaling.data.mixture import Composition, Nested, TooFewImages
from scaling.data.source import Source
from scaling.document import Document
from scaling.errors import Problem, SpecError
from scaling.grid import Point
from scaling.mixtures import unknown_modalities
from scaling.options import LabelSet

Cell = tuple[str, int]
"""Mixture and n_images."""


@dataclass(frozen=True, kw_only=True)
class ChosenSet(Composition):
    """What a plan keeps of a set: not its images, of which there may be many millions."""

    labels: LabelSet | None = None
    """Of its images, where an algorithm that learns from labels is run on it."""

    @property
    def n_unique(self) -> int:
        return sum(self.n_unique_by_modality.values())


NO_SET = ChosenSet(identity="", n_by_modality={}, n_unique_by_modality={})
"""Of a run that pretrains on nothing."""


def learns_from_labels(point: Point) -> bool:
    return "labels" in ALGORITHMS[point.algorithm].options.model_fields


def misnamed(sweep: Sweep, document: Document, modalities: Sequence[str]) -> Iterator[Problem]:
    """Modalities of mixtures that the source does not have."""
    for name, mixed in sweep.mixtures.items():
        for at, what in unknown_modalities(mixed, modalities):
            yield document.problem(("mixtures", name, *at), what)


def chosen_sets(sweep: Sweep, document: Document, source: Source, points: Sequence[Point]) -> dict[Cell, ChosenSet]:
    """Raises SpecError for mixtures that the source cannot fill, else for sets without the labels that are needed."""
    pool, chosen = source.pool(), dict[Cell, ChosenSet]()
    too_few, unlabelled = list[Problem](), list[Problem]()
    taught = {(p.mixture, p.n_images): p for p in reversed(points) if learns_from_labels(p)}
    for mixture in dict.fromkeys(p.mixture for p in points if p.n_images):
        nested = Nested(pool, sweep.mixtures[mixture])
        for n_images in sorted({p.n_images for p in points if p.mixture == mixture}):
            try:
                composition = nested.composition(n_images)
            except TooFewImages as error:
                at = ("mixtures", mixture) if "mixtures" in document.raw else ("grid", "n_images")
                too_few.append(document.problem(at, f"n_images {n_images:,}: {error}"))
                continue
            point = taught.get((mixture, n_images))
            labels = label_set(source.labels(nested.first(n_images).indices)) if point else None
            if point and labels is None:
                unlabelled.append(document.problem(("grid", "algorithm"), _without_labels(point)))
            chosen[mixture, n_images] = ChosenSet(**vars(composition), labels=labels)
    if problems := too_few or unlabelled:
        raise SpecError(problems)
    return chosen


def _without_labels(point: Point) -> str:
    what = f"{point}: '{point.algorithm}' needs labels and none of these images has one; pretrain on the train"
    return f"{what} split of a pack that has a `task:`, or leave the algorithm out by `exclude:`"


def withheld(source: object) -> Iterator[str]:
    """What a source does not offer, or offers with doubts, where it says so, and why; a line each."""
    for why, n in getattr(source, "left_out", {}).items():
        yield f"{n:,} images are not pretrained on: {why}"
    for task, why in getattr(source, "untasked", {}).items():
        yield f"task '{task}' cannot be probed: {why}"
    for task, doubt in getattr(source, "doubts", {}).items():
        yield f"task '{task}': {doubt}"
