"""What can be set of a name of the catalog, option by option, in the words of its class. Row 1.

Meanings are the docstrings under the fields, read from the source only when somebody asks: to have pydantic collect
them when the classes are made costs every start of the program some 30 ms.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from scaling.options import Options

WORDS = {str: "text", int: "integer", float: "number", bool: "true | false", NoneType: "null"}
SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


@dataclass(frozen=True, kw_only=True)
class Explained:
    """One option."""

    name: str
    """With dots where it stands inside another: `tasks.NAME.kind`, with whatever name the user gives."""
    takes: str
    """Allowed values, as a YAML has them."""
    default: str
    """`required` where there is none."""
    meaning: str
    """Empty where the class says nothing."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """The options that one class adds, or sets anew, to those of the classes it is made from."""

    about: str
    options: tuple[Explained, ...]


def sections(kind: type[Options]) -> list[Section]:
    """The most general class first; each option stands once, where its default comes from."""
    kind.model_rebuild()  # sources name each other before they are there
    classes = [cls for cls in reversed(kind.__mro__) if issubclass(cls, Options) and cls is not Options]
    owner = {name: cls for cls in classes for name in inspect.get_annotations(cls)}
    return [
        Section(
            about=_about(cls),
            options=tuple(
                option
                for name, field in kind.model_fields.items()
                if owner[name] is cls and not _is_tag(field)
                for option in _explained(kind, name, field, name)
            ),
        )
        for cls in classes
    ]


def _is_tag(field: FieldInfo) -> bool:
    """`reader: nifti` chose the class; with it there is nothing to choose."""
    return field.is_required() and get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1


def _explained(kind: type[Options], name: str, field: FieldInfo, shown: str) -> Iterator[Explained]:
    """The option, then those inside it; a choice between several classes is left to its own entry of the catalog."""
    found = list(_inner(field.annotation, shown))
    inner = found if len(found) == 1 else []
    meaning = _meaning(kind, name) or " ".join(_about(of) for _, of in inner)
    allowed = takes(field.annotation, field.metadata)
    yield Explained(name=shown, takes=allowed, default=_default(field), meaning=meaning)
    for place, of in inner:
        for key, value in of.model_fields.items():
            yield from _explained(of, key, value, f"{place}.{key}")


def _inner(kind: Any, place: str) -> Iterator[tuple[str, type[Options]]]:
    """The classes of options in an annotation, and where their keys stand."""
    origin, parts = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and issubclass(kind, Options):
        yield place, kind
    elif origin is dict:
        yield from _inner(parts[1], f"{place}.NAME")
    elif origin in (list, tuple):
        yield from _inner(parts[0], f"{place}[]")
    elif origin is Annotated:
        yield from _inner(parts[0], place)
    elif origin in (Union, UnionType):
        for part in parts:
            yield from _inner(part, place)


def takes(kind: Any, limits: Sequence[Any] = ()) -> str:
    """Values as a YAML has them: `crop | pad`, `integer > 0 | null`, `[number, number]`, `{NAME: text}`."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        more = [limit for part in parts[1:] for limit in (part.metadata if isinstance(part, FieldInfo) else [part])]
        return takes(parts[0], [*limits, *more])
    if origin in (Union, UnionType):
        return " | ".join(dict.fromkeys(takes(part, limits) for part in parts))
    if origin is Literal:
        return " | ".join(map(_written, parts))
    if origin is tuple and parts[-1] is not Ellipsis:
        return f"[{', '.join(map(takes, parts))}]"
    if origin in (list, tuple):
        return f"[{takes(parts[0])}, ...]"
    if origin is dict:
        return f"{{NAME: {takes(parts[1])}}}"
    if issubclass(kind, Options):
        return "{...}"
    return _number(WORDS[kind], limits) if kind in (int, float) else WORDS[kind]


def _number(word: str, limits: Sequence[Any]) -> str:
    """`integer > 0`, `number 0 to 1`, `number >= 0 and < 0.5`, and `0` where nothing else is allowed."""
    bounds = {key: getattr(limit, key) for key in SIGNS for limit in limits if hasattr(limit, key)}
    if bounds.keys() == {"ge", "le"}:
        return f"{word} {bounds['ge']} to {bounds['le']}" if bounds["ge"] < bounds["le"] else str(bounds["ge"])
    return " ".join([word, " and ".join(f"{SIGNS[key]} {bound}" for key, bound in bounds.items())]).rstrip()


def _default(field: FieldInfo) -> str:
    return "required" if field.is_required() else _written(field.get_default())


def _written(value: Any) -> str:
    """A value as a YAML has it, in one line."""
    if isinstance(value, Options):
        value = {key: getattr(value, key) for key in type(value).model_fields if key in value.model_fields_set}
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_written(one)}' for key, one in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_written, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _about(kind: type[Options]) -> str:
    """Its own docstring: pydantic's is not ours."""
    return " ".join((vars(kind).get("__doc__") or "").split())


def _meaning(kind: type[Options], name: str) -> str:
    """A class that only changes a default leaves it to the nearest that says what it means."""
    said = (_meanings(cls).get(name) for cls in kind.__mro__ if issubclass(cls, Options))
    return next(filter(None, said), "")


@functools.cache
def _meanings(kind: type[Options]) -> dict[str, str]:
    """Field -> the docstring under it."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    return {
        field.target.id: " ".join(text.split())
        for field, under in pairwise(tree.body if isinstance(tree, ast.ClassDef) else ())
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(under, ast.Expr) and isinstance(under.value, ast.Constant)
        if isinstance(text := under.value.value, str)
    }
