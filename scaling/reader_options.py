"""What an import may say about a reader, as `options.py` has it of algorithms and sources. Row 1."""

from __future__ import annotations

from pydantic import Field

from scaling.options import Options


class ReaderOptions(Options):
    """What every reader takes; each adds its own."""

    path: str
    """Folder or file to read; relative to the import's YAML."""
    modality: str | dict[str, str] | None = None
    """Of all images, or per label or folder as the reader says; null where the files themselves tell."""
    group: str | None = Field(default=None)
    """Where the patient, study or slide is found: a regular expression with one group on the id, or a column or tag
    as the reader says; null takes what the format has, else each image for itself."""
