"""An SVG file as a part of a page: only what draws, under ids that no other figure has."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

SVG = "http://www.w3.org/2000/svg"
LINK = "{http://www.w3.org/1999/xlink}href"
DRAWS = {
    *("svg", "g", "defs", "use", "title", "text", "tspan", "path", "rect", "circle", "line", "image"),
    *("clipPath", "linearGradient", "stop"),
}
"""Elements kept; anything that could run, load or style the page around it is none of them."""
REFERENCE = re.compile(r"url\(#([^)]+)\)")


def has_hover_values(path: Path) -> bool:
    """Whether it is an SVG that names its points; only then has it to stand in the page itself."""
    return path.suffix == ".svg" and b'class="tip"' in path.read_bytes()


def inlined(path: Path, prefix: str, label: str) -> str:
    """The <svg> element, its ids prefixed, with `label` for those who cannot see it. Raises ParseError for no XML."""
    root = ElementTree.fromstring(path.read_bytes())
    _clean(root, prefix)
    width, height = (_pixels(root.attrib.pop(side, "")) for side in ("width", "height"))
    root.attrib |= {"role": "img", "aria-label": label, "width": f"{width:.0f}", "height": f"{height:.0f}"}
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    return ElementTree.tostring(root, encoding="unicode")


def width(path: Path) -> float | None:
    """Natural width in CSS pixels of an SVG file; None where it does not say, or is none."""
    if path.suffix != ".svg":
        return None
    found = re.search(rb"<svg[^>]*\swidth=\"([\d.]+(?:pt|px)?)\"", path.read_bytes())
    return _pixels(found[1].decode()) if found else None


def _pixels(length: str) -> float:
    number = float(re.sub(r"[a-z]+$", "", length) or 0)
    return number * 4 / 3 if length.endswith("pt") else number


def _clean(element: ElementTree.Element, prefix: str) -> None:
    for name, value in list(element.attrib.items()):
        if name.lower().startswith("on"):
            del element.attrib[name]
        elif name == "id":
            element.attrib[name] = f"{prefix}-{value}"
        elif name in ("href", LINK):
            if value.startswith("#"):
                element.attrib[name] = f"#{prefix}-{value[1:]}"
            elif not value.startswith("data:image/png;"):
                del element.attrib[name]
        else:
            element.attrib[name] = REFERENCE.sub(rf"url(#{prefix}-\1)", value)
    for child in list(element):
        if not isinstance(child.tag, str) or child.tag.removeprefix(f"{{{SVG}}}") not in DRAWS:
            element.remove(child)
        else:
            _clean(child, prefix)
