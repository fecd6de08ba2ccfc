"""Stands in for a source whose files are not here: what a plan can know from the YAML and from published tables alone.

With it a sweep is priced on a machine that has none of its data. Which runs are done it cannot say: their names follow
from the images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from scaling import medmnist_sets
from scaling.config import DataOptions, Sweep
from scaling.data.mixture import Shares, TooFewImages
from scaling.data.source import MIXED, TaskInfo
from scaling.document import Document
from scaling.errors import Problem, SpecError
from scaling.grid import Point, fingerprint
from scaling.mixtures import settled
from scaling.options import LabelHead, LabelSet
from scaling.sets import Cell, ChosenSet
from scaling.source_options import MedmnistOptions, NpzOptions


class Expected:
    """Of a source's images and tasks, what is known without them."""

    synthetic = False

    def __init__(self, data: DataOptions, missing: Sequence[Problem]) -> None:
        self.missing = tuple(missing)
        """What is not here, and what to do about it."""
        self.counts = data.expected or _counts(data)
        """Images per modality; None where neither the YAML nor a table says it."""
        self.tasks = _tasks(data.tasks_from or data)
        """None where nothing says which there are."""

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(sorted(self.counts or ()))

    def named(self, wanted: Sequence[str] | str) -> tuple[TaskInfo, ...]:
        """Tasks that the YAML names and nothing else is known of."""
        names = [] if isinstance(wanted, str) else wanted
        unknown = {"modality": MIXED, "kind": "multi-class", "n_classes": 1, "identity": ""}
        return tuple(TaskInfo(name=name, **unknown) for name in names)  # type: ignore[arg-type]

    def sets(self, sweep: Sweep, document: Document, points: Sequence[Point]) -> dict[Cell, ChosenSet]:
        """Raises SpecError for mixtures that the expected images would not fill."""
        chosen, problems = dict[Cell, ChosenSet](), list[Problem]()
        for mixture, n_images in sorted({(p.mixture, p.n_images) for p in points if p.n_images}):
            mixed = sweep.mixtures[mixture]
            n_by_modality: dict[str, int] = {}
            unique: dict[str, int] = {}
            if self.counts is not None:
                shares = Shares(self.modalities, [self.counts[name] for name in self.modalities], mixed)
                try:
                    wanted = shares.wanted(n_images)
                except TooFewImages as error:
                    at = ("mixtures", mixture) if "mixtures" in document.raw else ("grid", "n_images")
                    problems.append(document.problem(at, f"n_images {n_images:,}: of the expected images {error}"))
                    continue
                n_by_modality, unique = shares.named(wanted), shares.unique(wanted)
            told = fingerprint({"expected": settled(mixed).model_dump(mode="json"), "n_images": n_images})
            chosen[mixture, n_images] = ChosenSet(
                identity=f"expected-{told}",
                n_by_modality=n_by_modality,
                n_unique_by_modality=unique,
                labels=self._labels(),
            )
        if problems:
            raise SpecError(problems)
        return chosen

    def _labels(self) -> LabelSet | None:
        heads = tuple(LabelHead(task=t.name, kind=t.kind, n_classes=t.n_classes) for t in self.tasks or ())
        return LabelSet(identity="expected", heads=heads) if heads else None


def _counts(data: DataOptions) -> Mapping[str, int] | None:
    """Of the pool, by MedMNIST's table; its exact duplicates are counted."""
    if not isinstance(data, MedmnistOptions):
        return None
    found: Counter[str] = Counter()
    for name, splits in data.pretrained.items():
        about = medmnist_sets.SETS[name]
        n_by_split = dict(zip(medmnist_sets.SPLITS, about.n_images, strict=True))
        found[about.modality] += sum(n_by_split[split] for split in splits) * _slices(data, name)
    return dict(found)


def _tasks(data: DataOptions) -> tuple[TaskInfo, ...] | None:
    if isinstance(data, MedmnistOptions):
        return tuple(_published(data, name) for name in data.names)
    if isinstance(data, NpzOptions):
        return tuple(
            TaskInfo(
                name=pack.task.name or file.removesuffix(".npz"),
                modality=pack.task.modality or (pack.modality if isinstance(pack.modality, str) else MIXED),
                kind=pack.task.kind,
                n_classes=2 if pack.task.kind == "binary" else 1,
                identity="",
            )
            for file, pack in data.files.items()
            if pack.task
        )
    return None


def _published(data: MedmnistOptions, name: str) -> TaskInfo:
    about = medmnist_sets.SETS[name]
    n_train, *others = (n * _slices(data, name) for n in about.n_images)
    return TaskInfo(
        name=name,
        modality=about.modality,
        kind=about.kind,
        n_classes=len(about.classes),
        identity="",
        n_train=n_train,
        n_other=sum(others),
    )


def _slices(data: MedmnistOptions, name: str) -> int:
    """Images of one that was published: of a volume its slices, at most."""
    if not medmnist_sets.SETS[name].volumes:
        return 1
    return len(range(data.stride // 2, data.image_size, data.stride))
