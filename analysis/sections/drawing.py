"""Where a report's pictures go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from analysis.figures.style import Figure, save
from analysis.page.blocks import Picture


@dataclass(frozen=True, kw_only=True)
class Pen:
    folder: Path
    """figures/ of the report; exists."""
    values: bool = True
    """Whether a pointer on a point is told its numbers."""

    def picture(self, name: str, caption: str, figure: Figure) -> Picture:
        """The figure in all formats; `name` may be any text, the file's name is made safe."""
        _, svg = save(figure, self.folder, name, values=self.values)
        return Picture(name=svg.stem, caption=caption, path=svg)
