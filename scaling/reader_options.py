"""What an import may say about a reader, as `options.py` has it of algorithms and sources. Row 1."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from scaling.options import BY_TYPE, Options, Other, Text


class ReaderOptions(Options):
    """What every reader takes; each adds its own."""

    path: str
    """Folder or file to read; relative to the import's YAML."""
    modality: Annotated[Annotated[str, Text] | Annotated[dict[str, str] | None, Other], BY_TYPE] = None
    """Of all images, or per label or folder as the reader says; null where the files themselves tell."""
    group: str | None = Field(default=None)
    """Where the patient, study or slide is found: a regular expression with one group on the id, or a column or tag
    as the reader says; null takes what the format has, else each image for itself."""
    channels: Literal[1, 3] | None = None
    """Of the stored images; null: 3 where a modality of the source is one of colour pictures, else 1."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """How an oblong becomes a square: its middle, bars of black beside it, or out of proportion."""
    window: tuple[float, float] | None = None
    """Values that become 0 and 255; null takes the file's, else the modality's rule. Images of 8 bits stay as they
    are."""
    keep: list[Literal["blank", "nan"]] = []
    """Images that are set aside unless they are named here: of one grey all over; with NaN or infinite pixels, which
    then are as the lowest value."""
