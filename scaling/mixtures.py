"""What a YAML may say about a mixture: `natural`, weights of modalities, or sizes at a temperature; and repeats.

Row 2, pydantic and the standard library only. `data/mixture.py` makes sets of images of it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from scaling.document import Location
from scaling.errors import unknown
from scaling.options import Options, Positive, Text

WeightMap = Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)]
Count = Annotated[int, Field(gt=0)]
Caps = Annotated[
    Annotated[Count, Tag("<number>")] | Annotated[dict[str, Count], Field(min_length=1), Tag("<mapping>")],
    Discriminator(lambda value: "<mapping>" if isinstance(value, dict) else "<number>"),
]


def _repeats(value: Any) -> Any:
    if isinstance(value, bool) or (isinstance(value, int) and value >= 2):
        return value
    text = f"{value!r} is no way to repeat; allowed: false, true (as often as needed), or the most times, 2 or more"
    raise PydanticCustomError("ours", "{text}", {"text": text})


class Mixture(Options):
    """Share of modality i: p_i ~ w_i min(n_i, K_i)^(1/T), with n_i images in the pool.

    Examples-proportional mixing with its artificial limit K and temperature T (Raffel et al. 2020, arXiv 1910.10683,
    section 3.5.2); the weights w_i are ours. T = 1 without caps is `natural`, T towards infinity equal shares.
    """

    weights: WeightMap | None = None
    """w_i, only modalities named are in the set; null: 1 for each of the pool's. Without a temperature they are the
    shares themselves, whatever the sizes."""
    temperature: Positive | None = None
    """T; null = 1, beside weights infinity."""
    caps: Caps | None = None
    """K_i: images that a modality counts for at most, one number for all or by name; bounds its share, not the set."""
    repeat: Annotated[bool | int, BeforeValidator(_repeats)] = False
    """Whether a modality with too few images is repeated: as often as needed, or each image at most so many times."""

    @property
    def by_size(self) -> bool:
        """Whether shares look at the sizes of modalities."""
        return self.weights is None or self.temperature is not None

    def cap(self, modality: str) -> int | None:
        return self.caps.get(modality) if isinstance(self.caps, dict) else self.caps


SETTINGS = tuple(Mixture.model_fields)


def _form(value: Any) -> str:
    if isinstance(value, str):
        return "<text>"
    settings = isinstance(value, Mixture) or (isinstance(value, dict) and not value.keys().isdisjoint(SETTINGS))
    return "<settings>" if settings else "<weights>"


Mixed = Annotated[
    Annotated[Literal["natural"], Text]
    | Annotated[WeightMap, Tag("<weights>")]
    | Annotated[Mixture, Tag("<settings>")],
    Discriminator(_form),
]
"""A mixture as a YAML has it: `natural`, weight per modality, or `Mixture`."""


def settled(mixed: Literal["natural"] | Mapping[str, float] | Mixture) -> Mixture:
    """The long form of any spelling."""
    if isinstance(mixed, Mixture):
        return mixed
    return Mixture() if isinstance(mixed, str) else Mixture(weights=dict(mixed))


def written(mixed: Literal["natural"] | Mapping[str, float] | Mixture) -> Any:
    """As plain data that a fingerprint takes; the old spellings as they are."""
    return mixed.model_dump(mode="json", exclude_defaults=True) if isinstance(mixed, Mixture) else mixed


def problems(raw: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    """Settings of a mixture that say nothing together."""
    section = raw.get("mixtures")
    for name, given in section.items() if isinstance(section, dict) else ():
        if _form(given) == "<settings>":
            for at, what in _idle(given):
                yield ("mixtures", str(name), *at), what


def _idle(given: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    weights, caps = given.get("weights"), given.get("caps")
    if all(given.get(key) is None or given[key] is False for key in SETTINGS):
        yield (), "sets nothing; write `natural`"
    if caps is not None and weights is not None and given.get("temperature") is None:
        what = "bound sizes, which weights alone do not look at"
        yield ("caps",), f"{what}; add `temperature: 1` to weigh modalities by size too, or remove the caps"
    if isinstance(weights, dict) and isinstance(caps, dict):
        for modality in caps.keys() - weights.keys():
            yield ("caps", str(modality)), unknown("modality", modality, map(str, weights))


def unknown_modalities(
    mixed: Literal["natural"] | Mapping[str, float] | Mixture, known: Iterable[str]
) -> Iterator[tuple[Location, str]]:
    """Modalities of a mixture that the source does not have; a key that is nearly a setting is answered as such."""
    names = tuple(known)
    if isinstance(mixed, Mixture):
        named = [(("weights", m), m) for m in mixed.weights or ()]
        named += (
            [(("caps", m), m) for m in mixed.caps if m not in (mixed.weights or ())]
            if isinstance(mixed.caps, dict)
            else []
        )
        yield from ((at, unknown("modality", m, names)) for at, m in named if m not in names)
    elif not isinstance(mixed, str):
        for modality in mixed:
            if modality not in names:
                meant = difflib.get_close_matches(modality, SETTINGS, n=1)
                hint = f"; or did you mean the setting '{meant[0]}'?" if meant else ""
                yield (modality,), unknown("modality", modality, names) + hint
