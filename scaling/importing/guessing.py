"""Which reader a folder or file is for, by what lies there. Row of data/."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from scaling.errors import Problem, SpecError
from scaling.importing.image_file import ENDINGS

READER_OF = {
    ".npz": "npz",
    ".csv": "table",
    ".tsv": "table",
    ".parquet": "table",
    ".tar": "webdataset",
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".dcm": "dicom",
    ".dicom": "dicom",
    ".ima": "dicom",
    **dict.fromkeys(ENDINGS, "folder"),
}
LOOKED_AT = 2000
"""Files of a folder, from its first."""
MAGIC_AT, MAGIC = 128, b"DICM"


def guess(path: Path) -> tuple[str, str]:
    """The reader, and why in words. Raises SpecError where nothing there is known."""
    if path.is_file():
        reader, kind = _of_file(path)
        if not reader:
            raise _no_reader(f"no reader is known for {path.name}")
        return _parquet(path, reader), f"{path.name} is {kind}"
    found, kinds = Counter[str](), Counter[str]()
    n = 0
    for n, file in enumerate(_files(path), 1):
        reader, kind = _of_file(file)
        if reader:
            found[_parquet(file, reader)] += 1
            kinds[kind] += 1
        if n == LOOKED_AT:
            break
    if not found:
        raise _no_reader(f"none of the {n} files looked at is of a kind that is known" if n else "the folder is empty")
    [(reader, most)] = found.most_common(1)
    return (
        reader,
        f"{most} of the {n} files looked at are for it ({', '.join(kind for kind, _ in kinds.most_common(3))})",
    )


def _no_reader(what: str) -> SpecError:
    return SpecError(
        [Problem(where="reader", what=f"{what}; name one of {', '.join(sorted(set(READER_OF.values())))}")]
    )


def _files(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        yield from (Path(where, name) for name in sorted(names) if not name.startswith("."))


def _of_file(path: Path) -> tuple[str, str]:
    """Reader and what the file is; empty where nothing is known of it."""
    name = path.name.lower()
    suffix = ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()
    if suffix in READER_OF:
        return READER_OF[suffix], suffix
    try:
        with open(path, "rb") as file:
            file.seek(MAGIC_AT)
            is_dicom = file.read(len(MAGIC)) == MAGIC
    except OSError:
        return "", ""
    return ("dicom", "DICOM") if is_dicom else ("", "")


def _parquet(path: Path, reader: str) -> str:
    """Hugging Face's Parquet holds the images themselves, ours paths."""
    if path.suffix.lower() != ".parquet":
        return reader
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException):
        return reader
    holds = any(pa.types.is_struct(each.type) or pa.types.is_binary(each.type) for each in schema)
    return "huggingface" if holds else reader
