"""What a source of a store holds, in numbers and as a sheet of images for people to look at. Row of data/."""

from __future__ import annotations

import io
import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from scaling.data.source import Images
from scaling.data.splitmix import mix
from scaling.errors import Problem, SpecError
from scaling.store.layout import LABEL
from scaling.store.opened import NO_SPLIT, SPLITS, StoredImages, StoredSource

LOOKED_AT = 4096
"""Images whose intensities are looked at."""
PER_ROW, MARGIN, LEFT, LINE = 12, 6, 150, 12
TILE = (84, 128)
"""Smallest and largest side of an image on the sheet, in pixels."""
REASONS = 12
"""Reasons of quarantine that are told apart."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """A source in numbers."""

    name: str
    n_images: int
    n_distinct: int
    """Images that are not the same, pixel by pixel."""
    n_groups: int
    n_bytes: int
    """Of its files."""
    channels: int
    by_modality: dict[str, int]
    by_split: dict[str, int]
    """`none`: only to pretrain on."""
    height: tuple[int, int, int]
    """Of the originals in pixels: smallest, median, largest."""
    width: tuple[int, int, int]
    mean: float
    """Of grey values or colours, 0-255, over `n_looked_at` images spread over the source."""
    sd: float
    n_looked_at: int
    tasks: dict[str, dict[str, dict[str, int]]]
    """Task -> split -> class -> images; of a multi-label task, those that have the label."""
    quarantine: dict[str, int]
    """Reason -> items that could not be used, the commonest first."""


def described(source: StoredSource, image_size: int) -> Described:
    table = source.table(["key", "split", "height", "width"])
    splits, rows = source.splits(table), len(table)
    by_split: dict[str, int] = {split: int((splits == code).sum()) for code, split in enumerate(SPLITS)}
    looked = np.unique(np.linspace(0, rows - 1, min(rows, LOOKED_AT)).astype(np.int64))
    mean, sd = _intensities(StoredImages([source], image_size, image_size, source.card.channels), looked)
    return Described(
        name=source.name,
        n_images=rows,
        n_distinct=pc.count_distinct(table["key"]).as_py(),
        n_groups=source.card.n_groups,
        n_bytes=sum(path.stat().st_size for path in source.folder.iterdir()),
        channels=source.card.channels,
        by_modality=source.card.n_by_modality,
        by_split={**by_split, "none": int((splits == NO_SPLIT).sum())},
        height=_spread(table["height"].to_numpy()),
        width=_spread(table["width"].to_numpy()),
        mean=round(mean, 2),
        sd=round(sd, 2),
        n_looked_at=len(looked),
        tasks={task: _classes(source, task, splits) for task in source.card.tasks},
        quarantine=quarantined(source.folder),
    )


def _spread(values: NDArray[np.int32]) -> tuple[int, int, int]:
    return int(values.min()), int(np.median(values)), int(values.max())


def _intensities(images: StoredImages, rows: NDArray[np.int64]) -> tuple[float, float]:
    counts = np.zeros(256, np.int64)
    for start in range(0, len(rows), 512):
        counts += np.bincount(images.take(rows[start : start + 512]).ravel(), minlength=256)
    share, values = counts / counts.sum(), np.arange(256)
    mean = float(share @ values)
    return mean, float(np.sqrt(share @ (values - mean) ** 2))


def _classes(source: StoredSource, task: str, splits: NDArray[np.int8]) -> dict[str, dict[str, int]]:
    about, labelled = source.card.tasks[task], source.labelled(task)
    counts = {}
    for code, name in [*enumerate(SPLITS), (NO_SPLIT, "none")]:
        rows = np.flatnonzero(labelled & (splits == code))
        if len(rows):
            labels = source.labels(task, rows)
            many = labels.ndim == 2
            n = labels.sum(0) if many else np.bincount(labels, minlength=len(about.classes))
            counts[name] = dict(zip(about.classes, n.tolist(), strict=True))
    return counts


def quarantined(folder: Path) -> dict[str, int]:
    """Reason -> items, the commonest first; reasons that differ in numbers alone are one, with dots for them. Raises
    SpecError for a table that is none."""
    path = folder / "quarantine.parquet"
    try:
        counted = pc.value_counts(pq.read_table(path, columns=["reason"])["reason"].combine_chunks())
    except (pa.ArrowException, OSError) as error:
        raise SpecError([Problem(where=str(path), what=f"cannot be read: {str(error).splitlines()[0]}")]) from None
    of = Counter[str]()
    example: dict[str, str] = {}
    for reason, n in zip(counted.field(0).to_pylist(), counted.field(1).to_pylist(), strict=True):
        alike = re.sub(r"\d[\d.,]*", "...", reason)
        of[alike] += n
        example[alike] = reason if example.get(alike, reason) == reason else alike
    found = {example[alike]: n for alike, n in of.most_common(REASONS)}
    if rest := of.total() - sum(found.values()):
        found["other reasons"] = rest
    return found


# --- a sheet to look at ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SheetRow:
    """Images of one modality of one source."""

    title: str
    images: Images
    """(n, channels, size, size)."""
    captions: list[str]
    """Under each."""


def sheet_rows(source: StoredSource, image_size: int) -> Iterator[SheetRow]:
    """For each modality some images, drawn by their keys, so that another look shows the same."""
    table = source.table(["key", "split", "modality", "image_id", *(LABEL + task for task in source.card.tasks)])
    codes, names = source.modalities(table)
    order = np.argsort(mix(table["key"].to_numpy()), kind="stable")
    images = StoredImages([source], image_size, image_size, source.card.channels)
    for code, name in sorted(enumerate(names), key=lambda each: each[1]):
        rows = np.sort(order[codes[order] == code][:PER_ROW])
        if len(rows):
            title = f"{source.name}: {name}\n{source.card.n_by_modality.get(name, 0):,} images"
            captions = [_caption(source, row) for row in table.take(pa.array(rows)).to_pylist()]
            yield SheetRow(title=title, images=images.take(rows), captions=captions)


def _caption(source: StoredSource, row: dict[str, object]) -> str:
    """Split, and label of each task that has one."""
    said = [str(row["split"] or "no split")]
    for task, about in source.card.tasks.items():
        label = row[LABEL + task]
        if isinstance(label, list):
            said.append(" + ".join(name for name, has in zip(about.classes, label, strict=True) if has) or "none")
        elif isinstance(label, int):
            said.append(about.classes[label] if 0 <= label < len(about.classes) else f"class {label}?")
    return "\n".join(said)


def sheet(rows: Sequence[SheetRow], lines: Sequence[str]) -> bytes:
    """PNG: a row of images per modality of each source, what is said of them below, and `lines` at the end."""
    size = rows[0].images.shape[-1]
    side = size * max(1, -(-TILE[0] // size)) if size < TILE[1] else TILE[1]
    width = LEFT + PER_ROW * (side + MARGIN)
    wrapped = [part for line in lines for part in textwrap.wrap(line, width // 7, subsequent_indent="    ") or [""]]
    heights = [side + LINE * max(caption.count("\n") + 1 for caption in row.captions) + 2 * MARGIN for row in rows]
    picture = Image.new("RGB", (width, sum(heights) + LINE * (len(wrapped) + 1) + MARGIN), "white")
    pen, top = ImageDraw.Draw(picture), MARGIN
    pen.font = ImageFont.load_default_imagefont()  # sharp at its only size; Pillow's outline font runs words together
    for row, height in zip(rows, heights, strict=True):
        pen.multiline_text(
            (MARGIN, top + side // 3),
            "\n".join(part for line in row.title.splitlines() for part in textwrap.wrap(line, 22)),
            fill="black",
        )
        for column, (image, caption) in enumerate(zip(row.images, row.captions, strict=True)):
            at = LEFT + column * (side + MARGIN)
            picture.paste(_tile(image, side), (at, top))
            cut = "\n".join(line[: max(4, side // 6)] for line in caption.splitlines())
            pen.multiline_text((at, top + side + 1), cut, fill="black", spacing=1)
        top += height
    for number, line in enumerate(wrapped):
        pen.text((MARGIN, top + LINE * number), line, fill="black")
    png = io.BytesIO()
    picture.save(png, "PNG", optimize=True)
    return png.getvalue()


def _tile(image: NDArray[np.uint8], side: int) -> Image.Image:
    """Enlarged without smoothing, or made smaller by area."""
    rgb = np.ascontiguousarray(np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0))
    how = Image.Resampling.NEAREST if side >= image.shape[-1] else Image.Resampling.BOX
    return Image.fromarray(rgb).resize((side, side), how)
