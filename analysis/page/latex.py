"""A table as LaTeX that needs no package: a float with `tabular`, all rows, three digits."""

from __future__ import annotations

import re

from analysis.page.blocks import Cell, Head, Numbers, cells

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "−": "$-$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "∞": r"$\infty$",
    "–": "--",
    "…": r"\dots{}",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "γ": r"$\gamma$",
    "ρ": r"$\rho$",
    "τ": r"$\tau$",
}
"""Characters that LaTeX reads as commands, and those of formulas that its standard fonts lack as text."""
NUMBER = re.compile(r"(?<![\w.,])(-?)(\d+(?:,\d{3})*(?:\.\d+)?)(?:e(-?\d+))?(?![\w.])|(-?)∞")


def escaped(text: str) -> str:
    """One line that typesets as `text`. Letters beyond Latin need an engine that knows Unicode (XeLaTeX, LuaLaTeX)."""
    return "".join(SPECIAL.get(character, character) for character in " ".join(text.split()))


def latex(block: Numbers) -> str:
    """A `table` with caption and the label tab:NAME."""
    heads, rows = cells(block)
    lines = [_row([escaped(head.name) for head in heads])]
    body = [_row([_cell(cell, head) for cell, head in zip(row, heads, strict=True)]) for row in rows]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escaped(block.caption)}}}",
            rf"\label{{tab:{re.sub(r'[^A-Za-z0-9-]+', '-', block.name)}}}",
            rf"\begin{{tabular}}{{{''.join('r' if head.numeric else 'l' for head in heads)}}}",
            r"\hline",
            *lines,
            r"\hline",
            *body,
            r"\hline",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _row(texts: list[str]) -> str:
    # A bracket that opens a row would be read as the optional length of the line break before it.
    return " & ".join(f"{{}}{text}" if text.startswith(("[", "*")) else text for text in texts) + r" \\"


def _cell(cell: Cell, head: Head) -> str:
    if not cell.text:
        return "--" if head.numeric else ""
    return NUMBER.sub(_number, cell.text) if cell.value is not None else escaped(cell.text)


def _number(found: re.Match[str]) -> str:
    sign, digits, power, infinite = found[1], found[2], found[3], found[4]
    if digits is None:
        return rf"${infinite}\infty$"
    digits = digits.replace(",", "{,}")
    return rf"${sign}{digits} \times 10^{{{power}}}$" if power else f"${sign}{digits}$"
