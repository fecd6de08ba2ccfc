"""YAML -> frozen `Sweep`. Every mistake is reported at once, each with its line, before anything starts.

Row 2. Types and ranges are pydantic's work; this module adds places, did-you-mean texts and the rules between sections.
"""

from __future__ import annotations

import functools
import itertools
import json
import operator
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    ValidationError,
    create_model,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from scaling.catalog import ALGORITHMS, MODELS, SOURCES
from scaling.document import Document, Location
from scaling.errors import Problem, SpecError, unknown
from scaling.execution import Budget, Resources, Retry, Schedule
from scaling.mixtures import Mixed
from scaling.mixtures import problems as mixture_problems
from scaling.options import Options
from scaling.probing import Probe
from scaling.probing import problems as probing_problems
from scaling.recipes import names as recipe_names
from scaling.records import BASELINES
from scaling.source_options import SourceOptions
from scaling.training import Pretrain
from scaling.training import problems as training_problems
from scaling.tuning import Tune
from scaling.tuning import problems as tuning_problems

TRAINED = tuple(name for name in ALGORITHMS if name not in BASELINES)
OURS = "ours"
"""Type of the errors whose text is complete."""


def _one_of(kind: str, names: tuple[str, ...]) -> AfterValidator:
    def check(name: str) -> str:
        if name not in names:
            raise PydanticCustomError(OURS, "{text}", {"text": unknown(kind, name, names)})
        return name

    return AfterValidator(check)


def _unique(values: list[Any]) -> list[Any]:
    twice = sorted({str(v) for v in values if values.count(v) > 1})
    if twice:
        raise PydanticCustomError(OURS, "{text}", {"text": f"lists {', '.join(twice)} twice; give each value once"})
    return values


def _listed(values: list[Any]) -> list[Any]:
    if not values:
        raise PydanticCustomError(OURS, "is empty; give one or more values")
    return _unique(values)


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


T = TypeVar("T")
Axis = Annotated[list[T], BeforeValidator(_as_list), AfterValidator(_listed)]
"""One value or several, none twice."""
ModelName = Annotated[str, _one_of("model", tuple(MODELS))]
AlgorithmName = Annotated[str, _one_of("algorithm", TRAINED)]
BaselineName = Annotated[str, _one_of("baseline", BASELINES)]
NImages = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Grid(Options):
    """Values per axis; the sweep is their product, minus `exclude`, plus `include`."""

    model: Axis[ModelName]
    algorithm: Axis[AlgorithmName]
    n_images: Axis[NImages]
    """Unique pretraining images; a smaller set is contained in a larger one of the same mixture."""
    mixture: Axis[str] = ["all"]
    seed: Axis[Seed] = [0]


AXES = tuple(Grid.model_fields)


class Match(Options):
    """The points that match every key given; a list matches any of its values."""

    model: Axis[ModelName] | None = None
    algorithm: Axis[AlgorithmName] | None = None
    n_images: Axis[NImages] | None = None
    mixture: Axis[str] | None = None
    seed: Axis[Seed] | None = None


class Include(Grid):
    """Extra points beyond the product: itself a small grid."""


class Encoder(Options):
    """What all models of a sweep share beside their size."""

    patch_size: int | None = Field(default=None, ge=1)
    """Pixels; null = 16 from 128-pixel images on, 8 from 64, else 4."""


class Tracking(Options):
    uri: str | None = None
    """MLflow tracking URI; null = SQLite under `root`."""
    experiment: str = "scaling"


def _union(table: Mapping[str, Any]) -> Any:
    return functools.reduce(operator.or_, (entry.options for entry in table.values()))


if TYPE_CHECKING:
    DataOptions = SourceOptions
    Algorithms = Options
else:
    DataOptions = Annotated[_union(SOURCES), Discriminator("source")]
    Algorithms = create_model(
        "Algorithms", __base__=Options, **{n: (ALGORITHMS[n].options, ALGORITHMS[n].options()) for n in TRAINED}
    )


def default_patch(image_size: int) -> int:
    """16 pixels for large images as in the papers; small images keep at least 7 x 7 patches."""
    return 16 if image_size >= 128 else 8 if image_size >= 64 else 4


class Sweep(Options):
    """One question asked of many runs."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Names the report's folder and the MLflow parent run."""
    question: str = ""
    """What the sweep asks, in a sentence; heads the report."""
    grid: Grid
    exclude: list[Match] = []
    """Points of the product that are not run."""
    include: list[Include] = []
    holdout: list[Match] = []
    """Points that are run like any other and left out of every fit, so that predictions can be held against them."""
    mixtures: dict[str, Mixed] = {"all": "natural"}
    """Name -> weight per modality; or `natural`: the shares the source has; or temperature, caps, weights, repeats."""
    data: DataOptions
    encoder: Encoder = Encoder()
    pretrain: Pretrain
    algorithms: Algorithms = Algorithms()
    """Per algorithm, what differs from its defaults."""
    probe: Probe = Probe()
    baselines: Annotated[list[BaselineName], AfterValidator(_unique)] = list(BASELINES)
    """Untrained references probed beside the runs."""
    tune: Tune | None = None
    """Learning rates are chosen by trials at a few sizes before the grid runs; null takes those given."""
    resources: Resources = Resources()
    schedule: Schedule = Schedule()
    budget: Budget = Budget()
    retry: Retry = Retry()
    tracking: Tracking = Tracking()
    root: str = "results/.state"
    """Folder of run directories, caches and the default MLflow database; shared storage on a cluster."""

    @property
    def patch_size(self) -> int:
        return self.encoder.patch_size or default_patch(self.data.image_size)


def load(path: Path) -> tuple[Sweep, Document]:
    """The sweep in a YAML file, and the document for later errors. Raises SpecError with every problem found."""
    document = Document.read(path)
    return parse(document), document


def parse(document: Document) -> Sweep:
    """Raises SpecError with every problem found."""
    problems = list(document.problems)
    sweep = None
    try:
        # As JSON, because pydantic's strict mode takes a JSON array for a tuple but no Python list.
        sweep = Sweep.model_validate_json(json.dumps(document.raw, default=str))
    except ValidationError as error:
        problems += (_explain(document, details) for details in error.errors())
    problems += (document.problem(at, what) for at, what in _between_sections(document.raw))
    if problems or sweep is None:
        raise SpecError(document.in_order(problems))
    return sweep


# --- pydantic's errors in our words -----------------------------------------------------------------------------


def _explain(document: Document, details: ErrorDetails) -> Problem:
    location = _in_document(details["loc"])
    kind, context = details["type"], details.get("ctx", {})
    if kind == "missing":
        what = "is missing; add it"
    elif kind == "extra_forbidden":
        known = _known_keys(document.raw, location[:-1])
        what = unknown("key", location[-1], known)
    elif kind == "union_tag_invalid":
        location, what = (*location, "source"), unknown("source", context["tag"], SOURCES)
    elif kind == "union_tag_not_found":
        location, what = (*location, "source"), f"is missing; one of {', '.join(SOURCES)}"
    elif kind in {OURS, "leak", "unused", "order"}:
        what = details["msg"]
    else:
        message = details["msg"].removeprefix("Input ").replace("a valid integer", "an integer").replace("valid ", "")
        shown = json.dumps(details.get("input"), default=str)
        what = f"{message[0].lower()}{message[1:]} (got {shown if len(shown) < 60 else shown[:57] + '...'})"
    return document.problem(location, what)


def _in_document(loc: Location) -> Location:
    """Without the parts of pydantic's location that name a branch of a union."""
    if loc[:1] == ("data",):
        loc = ("data", *loc[2:])
    if loc[:2] == ("data", "tasks_from"):
        loc = (*loc[:2], *loc[3:])
    return tuple(part for part in loc if not str(part).startswith("<"))


def _known_keys(raw: dict[str, Any], location: Location) -> list[str]:
    """The keys allowed at a place of the YAML, by walking the classes along it."""
    classes: list[type[Options]] = [Sweep]
    for part in location:
        fields = [cls.model_fields[str(part)].annotation for cls in classes if str(part) in cls.model_fields]
        if fields:  # else a list position or a name of the user's own, and the classes stay
            classes = [cls for annotation in fields for cls in _options_in(annotation)]
        if part == "data":
            classes = [SOURCES[raw["data"]["source"]].options]
        if part == "tasks_from":
            classes = [SOURCES[raw["data"]["tasks_from"]["source"]].options]
    return sorted({key for cls in classes for key in cls.model_fields})


def _options_in(annotation: Any) -> list[type[Options]]:
    if isinstance(annotation, type) and issubclass(annotation, Options):
        return [annotation]
    return [cls for argument in get_args(annotation) for cls in _options_in(argument)]


# --- rules between sections, on the raw document so that they are reported together with pydantic's -------------


def _between_sections(raw: dict[str, Any]) -> Iterator[tuple[Location, str]]:
    yield from _mixture_names(raw)
    yield from mixture_problems(raw)
    yield from training_problems(raw)
    yield from _unseen_images(raw)
    yield from _patches(raw)
    yield from probing_problems(raw)
    yield from _idle_options(raw)
    yield from _recipes(raw)
    yield from tuning_problems(raw, _mixtures(raw))


def _section(raw: dict[str, Any], *path: str) -> dict[str, Any]:
    here: Any = raw
    for part in path:
        here = here.get(part) if isinstance(here, dict) else None
    return here if isinstance(here, dict) else {}


def _point_sets(raw: dict[str, Any], *, adding: bool) -> Iterator[tuple[Location, dict[str, Any]]]:
    """The grid and every include (those that add points), or every exclude and holdout."""
    if adding:
        yield ("grid",), _section(raw, "grid")
    for key in ("include",) if adding else ("exclude", "holdout"):
        entries = raw.get(key)
        for i, entry in enumerate(entries if isinstance(entries, list) else []):
            if isinstance(entry, dict):
                yield (key, i), entry


def _mixtures(raw: dict[str, Any]) -> list[str]:
    return [str(name) for name in _section(raw, "mixtures")] if "mixtures" in raw else ["all"]


def _mixture_names(raw: dict[str, Any]) -> Iterator[tuple[Location, str]]:
    defined = _mixtures(raw)
    used: set[str] = set()
    for adding in (True, False):
        for at, entry in _point_sets(raw, adding=adding):
            names = entry.get("mixture", "all" if adding else [])
            for i, name in enumerate(_as_list(names)):
                used |= {str(name)} if adding else set()
                if str(name) not in defined:
                    place = (*at, "mixture", i) if isinstance(names, list) else (*at, "mixture")
                    yield place, unknown("mixture", name, defined)
    for name in defined if "mixtures" in raw else []:
        if name not in used:
            yield ("mixtures", name), "is defined but no point uses it; add it to grid.mixture or remove it"


def _unseen_images(raw: dict[str, Any]) -> Iterator[tuple[Location, str]]:
    """A run that never sees all its images would stand at the wrong place of the data axis."""
    seen = _section(raw, "pretrain").get("images_seen")
    for at, entry in _point_sets(raw, adding=True):
        sizes = entry.get("n_images")
        for i, n_images in enumerate(_as_list(sizes)):
            if isinstance(n_images, int) and isinstance(seen, int) and n_images > seen > 0:
                place = (*at, "n_images", i) if isinstance(sizes, list) else (*at, "n_images")
                yield place, f"{n_images} is more than pretrain.images_seen {seen}, so some would never be seen"


def _patches(raw: dict[str, Any]) -> Iterator[tuple[Location, str]]:
    size, patch = _section(raw, "data").get("image_size"), _section(raw, "encoder").get("patch_size")
    if patch is None and isinstance(size, int):
        patch = default_patch(size)
    if not isinstance(patch, int) or patch < 1:
        return
    if isinstance(size, int) and size % patch:
        fits = ", ".join(str(p) for p in range(2, size + 1) if size % p == 0)
        yield ("encoder", "patch_size"), f"{patch} does not divide data.image_size {size}; these do: {fits}"
    for name, key in itertools.product(TRAINED, ("global_size", "local_size")):
        crop = _section(raw, "algorithms", name).get(key)
        if isinstance(crop, int) and crop % patch:
            nearest = max(1, round(crop / patch)) * patch
            at = ("algorithms", name, key)
            yield at, f"{crop} is no multiple of encoder.patch_size {patch}; the nearest is {nearest}"


def _idle_options(raw: dict[str, Any]) -> Iterator[tuple[Location, str]]:
    used = {str(a) for _, entry in _point_sets(raw, adding=True) for a in _as_list(entry.get("algorithm", []))}
    for name in _section(raw, "algorithms"):
        if "labels" in _section(raw, "algorithms", name):
            yield ("algorithms", name, "labels"), "follows from the tasks of the images; remove it"
        if name in TRAINED and name not in used:
            yield ("algorithms", name), "sets an algorithm that no point uses; add it to grid.algorithm or remove it"


def _recipes(raw: dict[str, Any]) -> Iterator[tuple[Location, str]]:
    for algorithm in TRAINED:
        name = _section(raw, "algorithms", algorithm).get("recipe")
        if isinstance(name, str) and name not in (known := recipe_names(algorithm)):
            yield ("algorithms", algorithm, "recipe"), unknown("recipe", name, known)
