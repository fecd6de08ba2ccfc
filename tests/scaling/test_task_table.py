"""The task table: features of each task's own images and of what was pretrained on, computed once and then kept."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.features import FEATURES, VERSION
from scaling import report
from scaling.config import load
from scaling.data.mixture import select
from scaling.plan import Plan, make_plan, open_source, source_of
from scaling.pretraining import IMAGES, Pretraining, compared_with
from scaling.records import TASK_COLUMNS
from scaling.report import task_table

PACKS = """\
name: packs
question: What do tasks look like?
grid:
  model: [vit_atto, vit_femto]
  algorithm: [mae]
  n_images: [12, 24]
  mixture: [natural, cells_only, films]
exclude:
  - {mixture: films, n_images: 24}
mixtures:
  natural: natural
  cells_only: {microscopy: 1}
  films: {xray: 1, ct: 3}
data:
  source: npz
  root: PACKS
  image_size: 28
  channels: 3
  files:
    shapes.npz: {modality: {slice: ct, film: xray}, pretrain: [train], task: {kind: binary, modality: xray}}
    cells.npz: {modality: microscopy, pretrain: [train], task: {kind: multi-class}}
encoder: {patch_size: 14}
pretrain: {images_seen: 64, batch_size: 16, precision: fp32}
baselines: [pixels]
"""


@pytest.fixture
def packed(packs: Path, sweep_file: Callable[..., Path]) -> Callable[..., Plan]:
    """Plans the sweep of packs, after the replacements given."""

    def make(*replacements: tuple[str, str]) -> Plan:
        sweep, document = load(sweep_file(("PACKS", str(packs)), *replacements, text=PACKS))
        sweep, source = open_source(sweep, document)
        return make_plan(sweep, document, source)

    return make


def rows(plan: Plan) -> dict[str, dict[str, Any]]:
    return {row["task"]: row for row in task_table(plan).to_dict("records")}


def kept(plan: Plan) -> list[Path]:
    return sorted((plan.root / "cache").glob("features-*.json"))


def test_every_task_has_every_feature_and_says_what_it_is_compared_with(packed: Callable[..., Plan]) -> None:
    table = task_table(packed())
    assert list(TASK_COLUMNS) == list(table.columns[: len(TASK_COLUMNS)])
    assert table["task"].tolist() == ["shapes", "cells"]
    assert np.isfinite(table[list(FEATURES)].to_numpy(float)).all()
    assert table["samples"].tolist() == [120, 120]
    assert table["channels"].tolist() == [1, 3]
    assert table["resolution"].tolist() == [28, 28]
    assert set(table["pretraining_images"]) == {24}


def test_the_share_is_that_of_the_images_trained_on(packed: Callable[..., Plan]) -> None:
    only = ("mixture: [natural, cells_only, films]", "mixture: [films]")
    gone = ("  natural: natural\n  cells_only: {microscopy: 1}\n", "")
    table = rows(packed(only, gone, ("exclude:\n  - {mixture: films, n_images: 24}\n", "")))
    assert table["shapes"]["modality_share"] == 6 / 24
    assert table["cells"]["modality_share"] == 0.0  # none of it, and known to be none
    assert table["cells"]["pretraining_mixture"] == "films"


def test_images_pretrained_on_are_nearer_than_others(packed: Callable[..., Plan]) -> None:
    cells = rows(packed(("exclude:", "exclude:\n  - {mixture: natural, n_images: 24}")))
    assert cells["cells"]["pretraining_mixture"] == "cells_only"
    assert cells["cells"]["modality_share"] == 1.0
    assert cells["cells"]["pretraining_distance"] < 0.01 < cells["shapes"]["pretraining_distance"]


def test_a_task_of_several_modalities_has_a_share_of_none(packed: Callable[..., Plan]) -> None:
    table = rows(packed(("modality: xray}}", "modality: mixed}}")))
    assert pd.isna(table["shapes"]["modality_share"])
    assert table["shapes"]["modality_share_reason"] == "the task's images are of several modalities"


def test_tasks_are_compared_with_the_set_of_most_models_then_images_then_runs_then_name(
    plan_of: Callable[..., Plan], packed: Callable[..., Plan]
) -> None:
    def set_of(plan: Plan) -> str:
        run = compared_with(plan)
        return f"{run.point.n_images} {run.point.mixture}" if run else "none"

    assert set_of(plan_of()) == "32 all"
    assert set_of(plan_of(("seed: [0]\n", "seed: [0]\nexclude: [{mixture: all, algorithm: mae}]\n"))) == "32 ct_only"
    assert set_of(packed()) == "24 cells_only"
    # one model fewer where there are more images
    fewer = ("exclude:", "exclude:\n  - {model: vit_femto, n_images: 24}")
    assert set_of(packed(fewer)) == "12 cells_only"
    plan = plan_of()
    held_out = [dataclasses.replace(run, holdout=run.point.mixture == "all") for run in plan.runs]
    assert set_of(dataclasses.replace(plan, runs=tuple(held_out))) == "32 ct_only"
    assert set_of(dataclasses.replace(plan, runs=())) == "none"


def test_a_sweep_of_baselines_has_reasons_in_place_of_a_distance(packed: Callable[..., Plan]) -> None:
    plan = packed()
    row = rows(dataclasses.replace(plan, runs=tuple(run for run in plan.runs if not run.spec.data_identity)))["cells"]
    assert pd.isna(row["pretraining_distance"])
    assert row["pretraining_distance_reason"] == "no pretraining images are known"
    assert row["modality_share_reason"] == "no mixture of pretraining images is known"
    assert row["entropy"] > 0


def test_the_images_compared_with_are_drawn_from_the_set_trained_on(plan_of: Callable[..., Plan]) -> None:
    many = ("n_images: [16, 32]", "n_images: [1200]"), ("images_seen: 64,", "images_seen: 1200,")
    plan = plan_of(*many)
    images, run = Pretraining(plan).images, compared_with(plan)
    assert run is not None
    assert images is not None
    assert len(images) == IMAGES
    source = source_of(plan.sweep.data)
    trained_on = source.read(select(source.pool(), plan.sweep.mixtures["all"], 1200).indices)
    assert {image.tobytes() for image in images} <= {image.tobytes() for image in trained_on}
    np.testing.assert_array_equal(images, Pretraining(plan).images)


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_features_are_computed_once(packed: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    plan = packed()
    first = task_table(plan)
    monkeypatch.setattr(report, "cached_task", None)
    monkeypatch.setattr("scaling.pretraining.source_of", None)
    assert task_table(plan).equals(first)
    assert len(kept(plan)) == 2


def test_a_feature_that_is_new_or_means_something_else_is_computed_for_old_caches(packed: Callable[..., Plan]) -> None:
    plan = packed()
    whole = task_table(plan)
    for change in (
        lambda held: held["features"].pop("entropy"),
        lambda held: held["given"].update(version=VERSION - 1),
        lambda held: held["given"].update(modality_share=0.123),
        lambda held: (held.clear(), held.update(task="cells", samples=99.0)),  # the layout before there were versions
    ):
        for path in kept(plan):
            held = json.loads(path.read_text())
            change(held)
            path.write_text(json.dumps(held))
        assert task_table(plan).equals(whole)


def test_another_mixture_is_another_row_and_leaves_the_first_kept(packed: Callable[..., Plan]) -> None:
    plan = packed()
    first = rows(plan)["cells"]
    other = dataclasses.replace(plan, runs=tuple(run for run in plan.runs if run.point.mixture == "films"))
    assert rows(other)["cells"]["pretraining_distance"] > first["pretraining_distance"]
    assert len(kept(plan)) == 4
    assert rows(plan)["cells"] == first


def test_a_report_without_the_source_says_what_it_cannot_tell_and_keeps_nothing_of_it(
    packed: Callable[..., Plan], packs: Path
) -> None:
    plan = packed()
    whole = task_table(plan)
    for path in kept(plan):
        path.unlink()
    moved = packs.rename(packs.with_name("moved"))
    lacking = rows(plan)["cells"]
    assert pd.isna(lacking["pretraining_distance"])
    assert "the pretraining images cannot be read" in lacking["pretraining_distance_reason"]
    assert "no file" in lacking["pretraining_distance_reason"]
    assert lacking["modality_share"] == 1.0
    assert kept(plan) == []
    moved.rename(packs)
    assert task_table(plan).equals(whole)


def test_images_that_changed_since_the_plan_are_not_compared_with(packed: Callable[..., Plan], packs: Path) -> None:
    plan = packed()
    task_table(plan)
    for path in kept(plan):
        path.unlink()
    with np.load(packs / "cells.npz") as file:
        arrays = {key: file[key] for key in file.files}
    np.savez(packs / "cells.npz", **{**arrays, "train_images": arrays["train_images"] + 1})
    assert "changed since the plan was made" in rows(plan)["cells"]["pretraining_distance_reason"]
