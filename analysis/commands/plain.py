"""A document as text for a terminal: the same numbers, fewer digits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Document = dict[str, Any]
MOST_PREDICTIONS = 20
"""Rows shown of a list of predictions; the JSON has all."""
NOTHING = "-"


def text_of(document: Document) -> str:
    """Of any command; ends without a line break."""
    lines = {"fit": _fit, "frontier": _frontier, "correlate": _correlate}[document["command"]](document)
    return "\n".join(lines)


def _head(document: Document) -> list[str]:
    rows = document["rows"]
    lines = [f"{document['table']}: {_counts(rows)}"]
    lines += [f"  {_exclusion(one)}" for one in rows["exclusions"]]
    return lines + [f"note: {note}" for note in document["notes"]]


def _fit(document: Document) -> list[str]:
    lines = _head(document)
    for group in document["groups"]:
        lines += ["", *_group(group)]
    return lines


def _frontier(document: Document) -> list[str]:
    lines = _head(document)
    for group in document["groups"]:
        lines += ["", *_title(group)]
        lines += [f"warning: {warning}" for warning in group["warnings"]]
        for one in group["approaches"]:
            said = one["status"] + (f": {one['reason']}" if one["reason"] else "")
            lines.append(f"approach {one['approach']}, {one['name']}: {said}")
            lines += [f"  warning: {warning}" for warning in one["warnings"]]
            if one["a"]["value"] is not None:
                lines.append(f"  N_opt ~ C^a, a = {_interval(one['a'])}; D_opt ~ C^b, b = {_interval(one['b'])}")
            if group.get("gamma", {}).get("value") is not None:
                lines.append(f"  gamma = {_interval(group['gamma'], 3)}; below 1 a mixture beats its parts")
            for best in one["optima"]:
                lines.append(
                    f"  C = {show(best['budget'])}: N = {_interval(best['n_params'])}, "
                    f"D = {_interval(best['n_images'])}, loss {_interval(best['loss'])}"
                )
                lines += _more(best)
                lines += [f"    {note}" for note in best["notes"]]
        if reason := group.get("gpu_hours", {}).get("reason"):
            lines.append(f"GPU-hours: {reason}")
    return lines + (_together(document["together"]) if "together" in document else [])


def _more(best: Document) -> list[str]:
    """Of an optimum that has them: shares and what they gain, or epochs and what they cost."""
    if "epochs" in best:
        epochs, over = _interval(best["epochs"], 3), _interval(best["loss_over_unlimited_images"], 4)
        return [
            f"    of {show(best['unique_images'])} images: epochs {epochs}, loss over that of unlimited ones {over}"
        ]
    if "shares" not in best:
        return []
    lines = [f"    shares: {', '.join(f'{name} {_interval(one, 3)}' for name, one in best['shares'].items())}"]
    if gain := best.get("loss_over_best_run_mixture"):
        lines.append(f"    loss over that of the best mixture run, at its own best sizes: {_interval(gain, 4)}")
    return lines


def _together(found: Document) -> list[str]:
    """One mixture for all groups, and what each pays for it."""
    said = found["status"] + (f": {found['reason']}" if found["reason"] else "")
    lines = ["", f"all groups together, least mean log error: {said}"]
    lines += [f"warning: {warning}" for warning in found["warnings"]]
    for best in found["optima"]:
        lines.append(
            f"  C = {show(best['budget'])}: N = {_interval(best['n_params'])}, D = {_interval(best['n_images'])}, "
            f"geometric mean of losses {_interval(best['loss'])}"
        )
        lines += _more(best)
        lines += [f"    {note}" for note in best["notes"]]
        rows = [
            (", ".join(map(show, one["group"].values())), _interval(one["loss"], 4), _interval(one["loss_over_own"], 4))
            for one in best["groups"]
        ]
        lines += ["  " + line for line in table(("group", "loss", "over that of its own optimum"), rows)]
    return lines


def _interval(one: Document, digits: int = 5) -> str:
    value, low, high = (show(one[key], digits) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})" if one["value"] is not None else NOTHING


def _correlate(document: Document) -> list[str]:
    tasks = document["tasks"]
    lines = [f"{document['benefits']} and {document['features']}: {tasks['both']} tasks in both"]
    for what in ("without_features", "without_benefit"):
        lines += [f"{what.replace('_', ' ')}: {', '.join(tasks[what])}"] * bool(tasks[what])
    lines += [f"note: {note}" for note in document["notes"]]
    lines.append(
        f"{document['significant']} of {document['answered']} correlations survive a false-discovery rate of 5 %"
    )
    by = document["settings"]["by"]
    rows = [
        (
            one["benefit"],
            one["feature"],
            *(str(one[name]) for name in by),
            str(one["n_tasks"]),
            *(show(one[name], 3) for name in ("pearson", "pearson_low", "pearson_high", "p", "q", "spearman")),
            one["reason"],
        )
        for one in document["correlations"]
    ]
    return [*lines, *table(("benefit", "feature", *by, "tasks", "r", "from", "to", "p", "q", "rho", ""), rows)]


def _counts(rows: Document) -> str:
    return f"{rows['total']} rows: {rows['used']} fitted, {rows['held_out']} held out, {rows['excluded']} excluded"


def _exclusion(one: Document) -> str:
    what = one.get("column", one.get("expression"))
    numbers = ", ".join(map(str, one["row_numbers"]))
    return f"excluded, {one['reason']} ({what}): {one['rows']} (row {numbers}{', ...' * (one['rows'] > 20)})"


def _group(group: Document) -> list[str]:
    said = group["status"] + (f": {group['reason']}" if group["reason"] else "")
    lines = [*_title(group), f"{group['law']}: {group['formula']}", f"status: {said}"]
    lines += [f"warning: {warning}" for warning in group["warnings"]]
    value = group["objective"]
    if value["sum"] is not None:
        lines.append(f"objective: {value['name']}, sum {show(value['sum'], 8)}, mean {show(value['mean'])}")
        lines.append(f"intervals: {group['intervals']['method']} ({group['intervals']['why']})")
        found = {**group["parameters"], **group["derived"]}
        ends = f"{100 * group['intervals']['level']:g} % from"
        lines += table(
            ("", "value", "se", ends, "to", ""),
            [
                (name, *(show(one[key]) for key in ("value", "se", "low", "high")), one["meaning"])
                for name, one in found.items()
            ],
        )
    lines += _across(group["across"]) if "across" in group else []
    lines += _candidates(group.get("candidates", []))
    lines += _scores(group) + _predictions("held out", group["held_out"]["predictions"])
    return lines + _predictions("predicted", group.get("predictions", []))


def _title(group: Document) -> list[str]:
    key = ", ".join(f"{name} {show(value)}" for name, value in group["group"].items())
    return [f"{key}: {_counts(group['rows'])}"] if key else []


def _across(found: Document) -> list[str]:
    """What categories share, the tests of it, and who wins beyond the data."""
    own, common = ", ".join(found["separate"]) or "nothing", ", ".join(found["shared"]) or "nothing"
    lines = [f"across {found['column']}: {common} shared, {own} separate ({found['chosen_by']})"]
    if found["sharing"]:
        lines += table(
            ("may all share", "F", "p", "q (Holm)", ""),
            [
                (one["parameter"], show(one["f"], 3), show(one["p"], 3), show(one["q"], 3), one["reason"])
                for one in found["sharing"]
            ],
        )
    if found["duels"]:
        named = ("x", "ratio", "low", "high", "p_first")
        lines += table(
            ("first", "second", "at", "ratio", "from", "to", "P(first lower)", ""),
            [
                (one["first"], one["second"], *(show(one[key], 3) for key in named), one["reason"])
                for one in found["duels"]
            ],
        )
    return lines + [found["duels_reason"]] * bool(found["duels_reason"])


def _candidates(found: list[Document]) -> list[str]:
    """RMSLE of larger sizes foretold from smaller ones, and what each law has to say in predictions."""
    rows = [
        (one["law"], show(one["score"]), show(one["weight"], 2), show(one["held_out"]["rmsle"]), one["status"])
        for one in found
    ]
    return table(("law", "score", "weight", "held out", ""), rows) if found else []


def _scores(group: Document) -> list[str]:
    return [
        f"{name}: {one['n']} rows, RMSLE {show(one['rmsle'])}, relative error mean {show(one['mean_relative_error'])}, "
        f"median {show(one['median_relative_error'])}"
        for name, one in (("fitted", group["fitted"]), ("held out", group["held_out"]))
        if one["rmsle"] is not None
    ]


def _predictions(title: str, found: list[Document]) -> list[str]:
    if not found:
        return []
    names = list(found[0]["inputs"])
    rows = [
        (
            str(one["row"]),
            *(show(one["inputs"][name]) for name in names),
            *(show(one[key]) for key in ("observed", "value", "low", "high")),
            *(show(one["new_run"][key]) for key in ("low", "high")),
            one["reason"] or ("" if one["status"] == "predicted" else one["status"]),
        )
        for one in found[:MOST_PREDICTIONS]
    ]
    header = ("row", *names, "observed", title, "from", "to", "a new run from", "to", "")
    more = [f"... and {len(found) - len(rows)} more: --json has them"] if len(found) > len(rows) else []
    return table(header, rows) + more


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Columns to the right but for the last, which may be long."""
    every = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(row[i]) for row in every) for i in range(len(header) - 1)]
    return [
        "  " + "  ".join([*(cell.rjust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in every
    ]


def show(value: Any, digits: int = 5) -> str:
    if value is None:
        return NOTHING
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)
