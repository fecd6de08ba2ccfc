"""How all figures look: colour-blind-safe, vector first, nothing set globally. Matplotlib stays in this folder."""

from __future__ import annotations

import re
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure as Figure  # for the report, which imports no matplotlib
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

# Okabe and Ito 2008; black is kept for references.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
REFERENCE = "#555555"
SETTINGS = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.dpi": 120,
    "savefig.bbox": "tight",
    "svg.fonttype": "none",  # letters stay letters, that can be searched and edited
    "svg.hashsalt": "scaling",  # the same data give the same file
    "pdf.fonttype": 42,  # TrueType, embedded: journals refuse Type 3
    "text.parse_math": False,  # a task may be called $x
}


@contextmanager
def styled() -> Iterator[None]:
    with matplotlib.rc_context(SETTINGS):
        yield


def panels(
    rows: int, columns: int, *, width: float = 3.1, height: float = 2.6, sharey: bool = True
) -> tuple[Figure, list[list[Axes]]]:
    """A figure with its own canvas, so that no window system and no global state is touched."""
    spaced = ConstrainedLayoutEngine(wspace=0.05, hspace=0.05)  # so that neighbours' tick labels do not touch
    figure = Figure(figsize=(width * columns + 0.4, height * rows + 0.5), layout=spaced)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=sharey)
    return figure, [list(row) for row in grid]


def colours(names: Iterable[str]) -> dict[str, str]:
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}


def markers(names: Iterable[str]) -> dict[str, str]:
    return {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(names)}


def quantity(value: float, _: object = None) -> str:
    """Three digits and an SI prefix: 0.05M, 21M, 1.2T."""
    for prefix, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 5e4), ("k", 1e3)):
        if value >= size:
            scale = 1e6 if prefix == "M" else size
            return f"{value / scale:.3g}{prefix}"
    return f"{value:.3g}"


NEAREST = 0.17
"""Least distance of two labels of sizes, as a share of the axis: what six characters take on a panel of 3 inches."""


def ticks_at(axis: Axis, values: Iterable[float], *, at_most: int = 5) -> None:
    """Labels at the sizes that were run, on an axis of logarithms; of those too near to be read apart, the first.

    Asked once all is drawn, as the span of the axis decides.
    """
    sizes = sorted(set(values))
    if len(sizes) > at_most:
        sizes = [sizes[round(i * (len(sizes) - 1) / (at_most - 1))] for i in range(at_most)]
    low, high = np.log(axis.get_view_interval())
    kept: list[float] = []
    for size in sizes:
        if not kept or np.log(size / kept[-1]) >= NEAREST * (high - low):
            kept.append(size)
    axis.set_major_locator(FixedLocator(kept))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(quantity))


LADDERS = (
    (1, 1.2, 1.4, 1.6, 1.8, 2, 2.25, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9),
    (1, 1.5, 2, 3, 4, 5, 7),
    (1, 2, 5),
    (1, 3),
    (1,),
)
"""Ticks of a decade, the finest first."""


def few_decades(axis: Axis, *, at_most: int = 6) -> None:
    """Powers of ten, or of 100, ... on an axis of sizes or FLOPs that spans many; plain steps where it spans few."""
    low, high = axis.get_view_interval()
    decades = range(int(np.ceil(np.log10(low))), int(np.floor(np.log10(high))) + 1)
    if len(decades) < 2:
        ticks = _steps(low, high, at_most - 2)
    else:
        ticks = [10.0**decade for decade in decades[:: -(-len(decades) // at_most)]]
    _set_ticks(axis, ticks, quantity if low >= 1 and high < 1e13 else power)


def power(value: float, _: object = None) -> str:
    """Two digits and a power of ten: 1e18, 5.6e18."""
    return f"{value:.1e}".replace(".0e", "e").replace("e+", "e")


def shortened(text: str, most: int = 36) -> str:
    """For a label: one line of at most so many characters, its middle left out."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most // 2]}…{line[-(most - most // 2 - 1) :]}"


def plain_log(axis: Axis, *, at_most: int = 7) -> None:
    """Readable numbers on an error axis, few enough to be told apart."""
    low, high = axis.get_view_interval()
    _set_ticks(axis, _steps(low, high, at_most), "{:.3g}".format)


def _steps(low: float, high: float, at_most: int) -> list[float]:
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for ladder in LADDERS:
        ticks = [step * 10.0**decade for decade in decades for step in ladder if low <= step * 10.0**decade <= high]
        if len(ticks) <= at_most:
            break
    if len(ticks) < 2:  # less than one step of the finest ladder
        ticks = [tick for tick in MaxNLocator(4).tick_values(low, high) if low <= tick <= high]
    return ticks[:: -(-len(ticks) // at_most)]


def _set_ticks(axis: Axis, ticks: list[float], write: Callable[[float], str]) -> None:
    """Labels by `write`, with as many digits more as it takes to tell them apart."""
    ways = [write, *(f"{{:.{digits}g}}".format for digits in range(4, 17))]
    chosen = next(way for way in ways if len({way(tick) for tick in ticks}) == len(ticks))
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: chosen(value)))


TIP = "tip:"
"""Begins the address of a mark whose words are no address."""
UNDATED: dict[str, dict[str, None]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""By format: what would tell the day, left out."""
WORDS = re.compile(r"""<a xlink:href=(["'])tip:(.*?)\1[^>]*>(.*?)</a>""", re.DOTALL)
"""How Matplotlib writes a mark with an address: here the words of `hover`."""


def hover(axes: Axes, x: Iterable[float], y: Iterable[float], words: Iterable[str]) -> None:
    """What an SVG says when a pointer rests on these points, in data units; other formats show nothing of it."""
    xs, ys = np.asarray(list(x), float), np.asarray(list(y), float)
    there = np.isfinite(xs) & np.isfinite(ys)
    there &= (xs > 0) | (axes.get_xscale() != "log")
    there &= (ys > 0) | (axes.get_yscale() != "log")
    if there.any():
        mark = axes.scatter(xs[there], ys[there], s=50, marker="s", alpha=0, lw=0, zorder=9)
        mark.set_urls([f"{TIP}{said}" for said, is_there in zip(words, there, strict=True) if is_there])


def save(figure: Figure, folder: Path, name: str, *, values: bool = True) -> tuple[Path, Path]:
    """Writes PNG, SVG and PDF, each beside and then renamed; returns the paths of the first two.

    The same figure gives the same bytes. `values`: whether the SVG holds what `hover` says of its points. `name` may be
    any text; the file's name is made safe.
    """
    name = file_name(name)
    marks = [mark for mark in figure.findobj(PathCollection) if str(mark.get_urls()[0]).startswith(TIP)]
    for kind, metadata in UNDATED.items():
        path, beside = folder / f"{name}.{kind}", folder / f".{name}.{kind}"
        for mark in marks:
            mark.set_visible(kind == "svg" and values)
        with styled(), warnings.catch_warnings():  # some settings are read when the file is written
            # a browser has the letters of an SVG that this font lacks; PNG and PDF show boxes
            warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
            figure.savefig(beside, format=kind, dpi=200, metadata=dict[str, Any](metadata))
        if kind == "svg" and marks and values:
            text = beside.read_text(encoding="utf-8")
            beside.write_text(
                WORDS.sub(r'<g class="tip" pointer-events="all"><title>\2</title>\3</g>', text), encoding="utf-8"
            )
        beside.replace(path)
    return folder / f"{name}.png", folder / f"{name}.svg"


def file_name(name: str) -> str:
    """`name` where it is letters, digits, - and _; else these of it and a checksum, so that names stay distinct."""
    safe = re.sub(r"[^A-Za-z0-9_-]+", "-", name)
    return name if safe == name else f"{safe}-{zlib.crc32(name.encode()):08x}"
