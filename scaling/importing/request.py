"""What an import asks for, as a YAML or as a command line for one source; all mistakes at once. Row of data/."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from scaling.catalog import READERS
from scaling.document import IMPORT, Document, Location
from scaling.errors import Problem, SpecError, unknown
from scaling.importing.conversion import RULES
from scaling.importing.guessing import guess
from scaling.importing.importer import Survey, surveyed
from scaling.options import Options
from scaling.reader_options import ReaderOptions
from scaling.store.layout import NAME

AUTO = "auto"
FLAGS = ("store", "image-size", "name", "reader", "modality", "group")
"""What has a word of its own on the command line; the rest is `--set`."""
Where = Callable[[Location], str]
"""Place of a key in what the user wrote."""


class _Import(Options):
    store: str
    """Folder; relative to the YAML."""
    image_size: int = Field(default=64, ge=8, le=1024)
    sources: dict[str, Any] = Field(min_length=1)
    """Name -> reader and its options; their classes follow from `reader`."""


@dataclass(frozen=True, kw_only=True)
class Request:
    store: Path
    image_size: int
    sources: Mapping[str, ReaderOptions]
    """With paths that are absolute."""
    guessed: Mapping[str, str]
    """Source -> which reader was guessed for it, and why."""
    where: Where = field(compare=False)


def load(path: Path) -> Request:
    """The import in a YAML file. Raises SpecError with every problem found."""
    document = Document.read(path, of=IMPORT)
    return _request(document.raw, document.where, path.absolute().parent, document)


def of_one(store: str, image_size: int, name: str, values: Mapping[str, Any]) -> Request:
    """One source, its options as a command line has them. Raises SpecError with every problem found."""

    def where(location: Location) -> str:
        if location[:1] == ("sources",):
            location = location[2:] or ("name",)
        flag = str(location[0]).replace("_", "-")
        if flag == "path":
            return flag
        return f"--{flag}" if flag in FLAGS else f"--set {'.'.join(map(str, location))}"

    raw = {"store": store, "image_size": image_size, "sources": {name: dict(values)}}
    return _request(raw, where, Path.cwd(), None)


def surveys(request: Request) -> list[Survey]:
    """All sources listed. Raises SpecError with the problems of all of them."""
    done, problems = list[Survey](), list[Problem]()
    for name, options in request.sources.items():
        try:
            done.append(surveyed(name, options, request.image_size))
        except SpecError as error:
            problems += [_placed(name, options, request.where, problem) for problem in error.problems]
    if problems:
        raise SpecError(problems)
    return done


def _placed(name: str, options: ReaderOptions, where: Where, problem: Problem) -> Problem:
    """What a reader says of one of its options, or of what it read, at its place in what the user wrote."""
    keys = tuple(problem.where.split("."))
    if keys[0] in type(options).model_fields:
        return Problem(where=where(("sources", name, *keys)), what=problem.what)
    what = problem.what if problem.where == name else str(problem)
    return Problem(where=where(("sources", name, "path")), what=what)


def _request(raw: Mapping[str, Any], where: Where, base: Path, document: Document | None) -> Request:
    problems = list(document.problems) if document else []
    known = list(_Import.model_fields)
    checked, found = _validated(_Import, raw, (), where, known)
    problems += found
    sources, guessed = dict[str, ReaderOptions](), dict[str, str]()
    stated = raw.get("sources")
    for name, values in stated.items() if isinstance(stated, dict) else ():
        at = ("sources", str(name))
        if not NAME.match(str(name)):
            what = f"'{name}' is no name: small letters, digits, - and _ only, at most 64, as in chest-ct"
            problems.append(Problem(where=where(at), what=what))
        options, why, found = _source(values, at, where, base)
        problems += found
        if options is not None:
            sources[str(name)] = options
        if why:
            guessed[str(name)] = why
    store = (base / Path(checked.store).expanduser()).absolute() if checked else base
    if checked:
        problems += _overlaps(store, sources, where)
    if problems or checked is None:
        raise SpecError(document.in_order(problems) if document else dict.fromkeys(problems))
    return Request(store=store, image_size=checked.image_size, sources=sources, guessed=guessed, where=where)


def _source(
    values: Any, at: Location, where: Where, base: Path
) -> tuple[ReaderOptions | None, str | None, list[Problem]]:
    """Options of a source, why its reader was guessed where it was, and problems."""
    if not isinstance(values, dict):
        return None, None, [Problem(where=where(at), what="is no mapping; give `reader:` and `path:`")]
    values = dict(values)
    if not isinstance(values.get("path"), str):
        return None, None, [Problem(where=where((*at, "path")), what="is missing; add the folder or file to read")]
    path = Path(os.path.abspath(base / Path(values["path"]).expanduser()))
    if not path.exists():
        return None, None, [Problem(where=where((*at, "path")), what=f"{path} is not there")]
    reader, why = values.get("reader", AUTO), None
    if reader == AUTO:
        try:
            reader, why = guess(path)
        except SpecError as error:
            return None, None, [Problem(where=where((*at, "reader")), what=error.problems[0].what)]
    if not isinstance(reader, str) or reader not in READERS:
        return None, None, [Problem(where=where((*at, "reader")), what=unknown("reader", reader, READERS))]
    values |= {"reader": reader, "path": str(path)}
    options, problems = _validated(
        READERS[reader].options, values, at, where, list(READERS[reader].options.model_fields)
    )
    problems += _modalities(values.get("modality"), at, where)
    return (options if isinstance(options, ReaderOptions) else None), why, problems


def _modalities(stated: Any, at: Location, where: Where) -> Iterator[Problem]:
    named = {(): stated} if isinstance(stated, str) else stated if isinstance(stated, dict) else {}
    for key, modality in named.items():
        if isinstance(modality, str) and modality not in RULES:
            place = (*at, "modality", *([str(key)] if key != () else []))
            yield Problem(where=where(place), what=unknown("modality", modality, RULES))


def _overlaps(store: Path, sources: Mapping[str, ReaderOptions], where: Where) -> Iterator[Problem]:
    for name, options in sources.items():
        if store.resolve().is_relative_to(Path(options.path).resolve()):
            what = f"{store} lies inside {options.path}, which source '{name}' reads; put the store beside it"
            yield Problem(where=where(("store",)), what=what)


# --- pydantic's errors in our words ------------------------------------------------------------------------------


def _validated(
    kind: type[Options], values: Mapping[str, Any], at: Location, where: Where, known: list[str]
) -> tuple[Any, list[Problem]]:
    try:
        # As JSON, because pydantic's strict mode takes a JSON array for a tuple but no Python list.
        return kind.model_validate_json(json.dumps(values, default=str)), []
    except ValidationError as error:
        return None, [_problem(details, at, where, known) for details in error.errors()]


def _problem(details: ErrorDetails, at: Location, where: Where, known: list[str]) -> Problem:
    inner = tuple(part for part in details["loc"] if not str(part).startswith("<"))
    if details["type"] == "missing":
        what = "is missing; add it"
    elif details["type"] == "extra_forbidden" and len(inner) == 1:
        what = unknown("key", inner[-1], known)
    else:
        message = details["msg"].removeprefix("Input ").replace("a valid integer", "an integer").replace("valid ", "")
        shown = json.dumps(details.get("input"), default=str)
        what = f"{message[0].lower()}{message[1:]} (got {shown if len(shown) < 60 else shown[:57] + '...'})"
    return Problem(where=where((*at, *inner)), what=what)
