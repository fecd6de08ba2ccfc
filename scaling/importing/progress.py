"""What a person sees of an import: one line that moves on a terminal, one every quarter of a minute in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from scaling.importing.decoding import Count

PLAIN_EVERY = 15.0
"""Seconds between lines where there is no terminal."""


class Progress:
    """Adds up what jobs have done; `line` says it in words."""

    def __init__(self, name: str, n_items: int, n_bytes: int, before: Count) -> None:
        self._name, self._n_items, self._n_bytes = name, n_items, n_bytes
        self._before, self._done, self._now = before, before, before
        self._start = time.monotonic()
        self._told = self._start
        self._live: Live | None = None
        self._console = Console(stderr=True, highlight=False)

    @contextmanager
    def shown(self) -> Iterator[None]:
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, refresh_per_second=4, transient=True) as self._live:
            yield
        self._live = None

    def under_way(self, counts: Sequence[Count]) -> None:
        self._now = added(self._done, *counts)
        self._show()

    def done(self, count: Count) -> None:
        self._done = added(self._done, count)

    def line(self) -> str:
        now, seconds = self._now, max(time.monotonic() - self._start, 1e-6)
        said = f"{self._name}: {now.n_items:,} of {self._n_items:,} items, {now.n_images:,} images"
        if now.n_set_aside:
            said += f", {now.n_set_aside:,} set aside"
        said += f", {(now.n_images - self._before.n_images) / seconds:,.0f} images/s"
        if (left := self._seconds_left(seconds)) is not None:
            said += f", {_clock(left)} left"
        return said

    def _seconds_left(self, seconds: float) -> float | None:
        """By bytes, which tell large items from small ones; by items where they have no bytes."""
        by_bytes = self._n_bytes > 0
        now, before, total = (
            (self._now.n_bytes, self._before.n_bytes, self._n_bytes)
            if by_bytes
            else (self._now.n_items, self._before.n_items, self._n_items)
        )
        return (total - now) * seconds / (now - before) if now > before else None

    def _show(self) -> None:
        if self._live:
            self._live.update(Text(self.line(), overflow="ellipsis", no_wrap=True))
        elif not self._console.is_terminal and time.monotonic() - self._told > PLAIN_EVERY:
            self._told = time.monotonic()
            self._console.print(self.line(), soft_wrap=True, markup=False)


def added(*counts: Count) -> Count:
    return Count(
        n_items=sum(c.n_items for c in counts),
        n_bytes=sum(c.n_bytes for c in counts),
        n_images=sum(c.n_images for c in counts),
        n_set_aside=sum(c.n_set_aside for c in counts),
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
