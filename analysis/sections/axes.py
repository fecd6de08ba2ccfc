"""Error along one axis with the others held: curves, laws, and each pretrained encoder against untrained ones."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.figures import error as figure
from analysis.figures.error import unplaced
from analysis.page.blocks import Block, Numbers, Section, Words
from analysis.sections.drawing import Pen
from analysis.study import Study

BAND = (
    "Points are runs, bars one standard error from the test images; the line is a power law through each size's "
    "geometric mean, dashed beyond the runs fitted, the band the curve's 95 % interval (Student's t), cut at the "
    "panel's edge. Hollow points were held out."
)


def model_size(study: Study, pen: Pen) -> Section:
    return _along(study, pen, "n_params", "Error against model size", "n_images", "Data are fixed within a curve.")


def data_size(study: Study, pen: Pen) -> Section:
    return _along(study, pen, "n_images", "Error against data size", "model", "The model is fixed within a curve.")


def compute(study: Study, pen: Pen) -> Section:
    seen = study.fitted["images_seen"]
    same = len(seen) and seen.notna().all() and np.ptp(seen) == 0
    note = "Every run saw the same number of images, so FLOPs grow with the model alone." if same else ""
    return _along(study, pen, "train_flops", "Error against compute", "n_images", note)


def _along(study: Study, pen: Pen, axis: str, title: str, panel_by: str, note: str) -> Section:
    found, blocks = study.along[axis], list[Block]()
    if lost := unplaced(study.means, axis):
        blocks.append(Words(lines=[f"{lost} of {len(study.means)} runs have no {axis} and are in no curve here."]))
    if not found:
        why = "No series has two sizes along this axis that differ by more than rounding: nothing to compare."
        return Section(title=title, blocks=[*blocks, Words(lines=[why])])
    drawn = figure.draw(found, study.mean_references(), panel_by=panel_by, ylabel=study.mean_error, size=study.size)
    caption = f"Exponent b of error = a x^-b with its 95 % interval; positive when scale helps. {note}".strip()
    blocks += [
        pen.picture(f"error_{axis}", f"{title}. {BAND}", drawn),
        Numbers(name=f"law_{axis}", caption=caption, rows=figure.table(found)),
    ]
    return Section(title=title, blocks=blocks)


def against_references(pairs: pd.DataFrame) -> Section:
    title = "Against the references"
    if pairs.empty:
        return Section(title=title, blocks=[Words(lines=["No untrained reference was compared."])])
    caption = (
        "Each algorithm's best cell against untrained references, task by task; difference = reference error - "
        "error, with its 95 % t interval over tasks taken as a sample of tasks. The best cell was chosen on the "
        "same test data, which flatters it."
    )
    return Section(title=title, blocks=[Numbers(name="references", caption=caption, rows=pairs)])
