"""From the `data:` of a sweep to its source, with the mistakes of files at their place in the YAML."""

from __future__ import annotations

import os
from pathlib import Path

from scaling.catalog import SOURCES
from scaling.config import DataOptions, Sweep
from scaling.data.joined import Joined
from scaling.data.source import Source
from scaling.document import Document
from scaling.errors import DataMissing, Problem, SpecError
from scaling.source_options import ROOT_VARIABLE, MedmnistOptions

TASKS = "tasks_from"


def open_source(sweep: Sweep, document: Document, *, data_root: str | None = None) -> tuple[Sweep, Source]:
    """The sweep with its data root settled, and its source. Raises SpecError with places in the YAML, DataMissing where
    nothing is wrong but that files are not here."""
    sweep = sweep.model_copy(update={"data": _rooted(sweep.data, document, data_root, ("data",))})
    try:
        return sweep, source_of(sweep.data)
    except SpecError as error:
        raise type(error)(_placed(document, problem) for problem in error.problems) from None


def source_of(data: DataOptions) -> Source:
    """Raises SpecError when the source cannot be opened."""
    if data.tasks_from is None:
        return _one(data)
    opened, problems, missing = [], list[Problem](), True
    for part, place in ((data, "data"), (data.tasks_from, f"data.{TASKS}")):
        try:
            opened.append(_one(part))
        except SpecError as error:
            problems += [Problem(where=p.where.replace("data", place, 1), what=p.what) for p in error.problems]
            missing = missing and isinstance(error, DataMissing)
    if problems:
        raise (DataMissing if missing else SpecError)(problems)
    return Joined(*opened)


def _one(data: DataOptions) -> Source:
    source: Source = SOURCES[data.source].load()(data)  # type: ignore[attr-defined]
    return source


def _rooted(data: DataOptions, document: Document, data_root: str | None, at: tuple[str, ...]) -> DataOptions:
    """With the folder of its files, and of those its tasks come from, as an absolute path."""
    update: dict[str, object] = {}
    if "root" in type(data).model_fields:
        root = data_root or data.root or os.environ.get(ROOT_VARIABLE)  # type: ignore[attr-defined]
        if not root:
            what = (
                f"is not set; give --data-root DIR, or set ${ROOT_VARIABLE}, or write {'.'.join(at)}.root in the YAML"
            )
            if isinstance(data, MedmnistOptions):
                what += f"; `scaling data download medmnist --size {data.image_size} --to DIR` fetches its files"
            raise DataMissing([document.problem((*at, "root"), what)])
        update["root"] = str(Path(root).expanduser().resolve())
    if "path" in type(data).model_fields:
        update["path"] = str(Path(data.path).expanduser().resolve())  # type: ignore[attr-defined]
    if data.tasks_from is not None:
        update[TASKS] = _rooted(data.tasks_from, document, data_root, (*at, TASKS))
    return data.model_copy(update=update)


def _placed(document: Document, problem: Problem) -> Problem:
    """Turns `data.files.x.npz: ...` of a source into a line of the YAML."""
    where = problem.where
    found = [location for location in document.lines if ".".join(map(str, location)) == where]
    return document.problem(found[0], problem.what) if found else Problem(where=document.path, what=str(problem))
