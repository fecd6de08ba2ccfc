"""From the `data:` of a sweep to its source, with the mistakes of files at their place in the YAML."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from scaling.catalog import SOURCES
from scaling.config import DataOptions, Sweep
from scaling.data.joined import Joined
from scaling.data.source import Source
from scaling.document import Document
from scaling.errors import DataMissing, Problem, SpecError
from scaling.source_options import ROOT_VARIABLE, MedmnistOptions

TASKS = "tasks_from"


Part = tuple[str, DataOptions]
"""Place in the YAML and what stands there: of the images, or of the tasks where those come from elsewhere."""


def open_source(sweep: Sweep, document: Document, *, data_root: str | None = None) -> tuple[Sweep, Source]:
    """The sweep with its data root settled, and its source. Raises SpecError with places in the YAML, DataMissing where
    nothing is wrong but that files are not here."""
    parts = [(place, _rooted(data, data_root)) for place, data in _parts(sweep.data)]
    rootless = [
        Problem(where=f"{place}.root", what=_no_root(place, data)) for place, data in parts if _lacks_root(data)
    ]
    try:
        opened = _opened([part for part in parts if not _lacks_root(part[1])], rootless)
    except SpecError as error:
        raise type(error)(_placed(document, problem) for problem in error.problems) from None
    tasks = {TASKS: parts[1][1]} if len(parts) > 1 else {}
    return sweep.model_copy(update={"data": parts[0][1].model_copy(update=tasks)}), opened


def source_of(data: DataOptions) -> Source:
    """Of options whose root is settled. Raises SpecError when the source cannot be opened."""
    return _opened(list(_parts(data)), [])


def _parts(data: DataOptions) -> Iterator[Part]:
    yield "data", data
    if data.tasks_from is not None:
        yield f"data.{TASKS}", data.tasks_from


def _opened(parts: Sequence[Part], problems: list[Problem]) -> Source:
    """All parts as one. Raises SpecError with `problems`, which are of missing data, and those of all parts."""
    opened, missing = list[Source](), True
    for place, data in parts:
        try:
            opened.append(SOURCES[data.source].load()(data))  # type: ignore[attr-defined]
        except SpecError as error:
            problems += [Problem(where=p.where.replace("data", place, 1), what=p.what) for p in error.problems]
            missing = missing and isinstance(error, DataMissing)
    if problems:
        raise (DataMissing if missing else SpecError)(problems)
    source = Joined(*opened) if len(opened) > 1 else opened[0]
    if getattr(parts[0][1], "contaminated", "keep") == "keep":
        return source
    from scaling.data.clean import cleaned  # with pyarrow, which other sources start without

    return cleaned(source)


def _rooted(data: DataOptions, data_root: str | None) -> DataOptions:
    """With the folder of its files as an absolute path, where it has one and anything says it."""
    if "path" in type(data).model_fields:
        return data.model_copy(update={"path": str(Path(data.path).expanduser().resolve())})  # type: ignore[attr-defined]
    if "root" not in type(data).model_fields:
        return data
    root = data_root or data.root or os.environ.get(ROOT_VARIABLE)  # type: ignore[attr-defined]
    return data.model_copy(update={"root": str(Path(root).expanduser().resolve())}) if root else data


def _lacks_root(data: DataOptions) -> bool:
    return "root" in type(data).model_fields and data.root is None  # type: ignore[attr-defined]


def _no_root(place: str, data: DataOptions) -> str:
    what = f"is not set; give --data-root DIR, or set ${ROOT_VARIABLE}, or write {place}.root in the YAML"
    if isinstance(data, MedmnistOptions):
        what += f"; `scaling data download medmnist --size {data.image_size} --to DIR` fetches its files"
    return what


def _placed(document: Document, problem: Problem) -> Problem:
    """Turns `data.files.x.npz: ...` of a source into a line of the YAML."""
    where = problem.where
    found = [location for location in document.lines if ".".join(map(str, location)) == where]
    if found or where.endswith(".root"):  # a key that nobody wrote stands where its section does
        return document.problem(found[0] if found else tuple(where.split(".")), problem.what)
    return Problem(where=document.path, what=str(problem))
