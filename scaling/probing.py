"""The `probe:` section of a sweep: which tasks are read out, of which features and how.

Row 2, beside `tuning.py`. Protocols are names for settings, so that what a sweep leaves unsaid follows a study.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, create_model, model_validator

from scaling.catalog import PROBES
from scaling.document import Location
from scaling.options import BY_TYPE, Options, Other, Text

ON_BY_DEFAULT = ("linear", "knn")
PROTOCOLS: Mapping[str, dict[str, Any]] = {"biovfm": {"max_train": None, "linear": None, "knn": None, "biovfm": {}}}
"""What a protocol says where the YAML does not."""


class ProbeBase(Options):
    """How frozen features are read out; null leaves a probe out."""

    protocol: Literal["biovfm"] | None = None
    """biovfm: as the reference study, its head on all training images and no other probe unless it is named."""
    tasks: Annotated[Annotated[Literal["all"], Text] | Annotated[list[str], Other], BY_TYPE] = "all"
    pool: Literal["cls", "mean", "both"] = "both"
    """Features: class token, mean of the patch tokens, or both side by side."""
    max_train: Annotated[int, Field(ge=2)] | None = 5000
    """Training images of a task used at most, a seeded choice in proportion to its classes; null uses all."""
    bootstrap: int = Field(default=200, ge=0)
    """Resamples of the test images behind each standard error."""
    keep_mb: int = Field(default=1024, ge=0)
    """MB of features a run keeps, so that a further read-out costs no forward pass. Not part of the identity."""

    @model_validator(mode="before")
    @classmethod
    def _by_protocol(cls, values: Any) -> Any:
        return {**PROTOCOLS.get(str(values.get("protocol")), {}), **values} if isinstance(values, dict) else values

    def read_outs(self) -> dict[str, Options]:
        """The probes wanted, by name."""
        chosen = {name: getattr(self, name) for name in PROBES}
        return {name: options for name, options in chosen.items() if options is not None}

    def identity(self) -> dict[str, Any]:
        """All that changes what a task's read-outs give."""
        read_outs = {
            n: {"version": PROBES[n].version, **o.model_dump(mode="json")} for n, o in self.read_outs().items()
        }
        return {"pool": self.pool, "max_train": self.max_train, "bootstrap": self.bootstrap, "read_outs": read_outs}


if TYPE_CHECKING:
    Probe = ProbeBase
else:
    Probe = create_model(
        "Probe",
        __base__=ProbeBase,
        **{n: (e.options | None, e.options() if n in ON_BY_DEFAULT else None) for n, e in PROBES.items()},
    )


def problems(raw: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    """Of the section in a raw document, beyond what its classes refuse."""
    probe = raw.get("probe")
    if not isinstance(probe, dict):
        return
    said = {**dict.fromkeys(ON_BY_DEFAULT, True), **PROTOCOLS.get(str(probe.get("protocol")), {}), **probe}
    if all(said.get(name) is None for name in PROBES):
        yield ("probe",), f"leaves every read-out out; keep one of {', '.join(PROBES)}"
    if probe.get("tasks") == []:
        yield ("probe", "tasks"), "is empty; name tasks or write `all`"
