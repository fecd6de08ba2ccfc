"""A sweep that never ran: its errors follow power laws of known exponents; one run failed, one diverged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scaling.records import COLUMNS

MODELS = {"vit_s": 2e6, "vit_m": 8e6, "vit_l": 3e7}
IMAGES = (1_000, 4_000, 16_000)
TASKS = ("chest", "skin", "retina", "blood", "organ")
EXPONENTS = {"chest": 0.05, "skin": 0.10, "retina": 0.15, "blood": 0.20, "organ": 0.25}
"""Of the error along model size."""
NOISE = 0.02
"""Standard deviation of ln error from run to run."""

Sweep = Callable[..., pd.DataFrame]


def _row(**values: Any) -> dict[str, Any]:
    fixed = {"status": "done", "probe": "linear", "modality": "mixed", "chance_auc": 0.5, "chance_accuracy": 0.3}
    return {**fixed, "n_test": 500, "train_seconds": 60.0, "reason": "", **values}


def _probes(common: dict[str, Any], errors: dict[str, float]) -> list[dict[str, Any]]:
    return [
        _row(
            **common,
            task=task,
            probe=probe,
            auc=1 - error * worse,
            auc_se=0.05 * error,
            accuracy=1 - 1.5 * error * worse,
            accuracy_se=0.05 * error,
        )
        for task, error in errors.items()
        for probe, worse in (("linear", 1.0), ("knn", 1.1))
    ]


def make_sweep(
    *,
    models: tuple[str, ...] = tuple(MODELS),
    images: tuple[int, ...] = IMAGES,
    algorithms: tuple[str, ...] = ("dinov2", "mae"),
    mixtures: tuple[str, ...] = ("all", "ct_only"),
    tasks: tuple[str, ...] = TASKS,
    seeds: tuple[int, ...] = (0,),
    baselines: bool = True,
    broken: bool = True,
    noise: float = NOISE,
) -> pd.DataFrame:
    """Observations with the columns of `COLUMNS`; with `broken`, the last two runs failed and diverged."""
    rng = np.random.default_rng(0)
    grid = [(a, x, m, n, s) for a in algorithms for x in mixtures for m in models for n in images for s in seeds]
    rows: list[dict[str, Any]] = []
    for i, (algorithm, mixture, model, n_images, seed) in enumerate(grid):
        n_params = MODELS[model]
        common: dict[str, Any] = {
            "run": f"{i:012d}",  # digits alone, so that whoever reads them as numbers is found out
            "model": model,
            "algorithm": algorithm,
            "mixture": mixture,
            "n_images": n_images,
            "seed": seed,
            "n_params": n_params,
            "n_params_total": 1.3 * n_params,
            "images_seen": 1e5,
            "train_flops": 6 * n_params * 1e5 * 64,
        }
        if broken and i >= len(grid) - 2:
            status = "failed" if i == len(grid) - 2 else "diverged"
            rows.append(_row(**common, reason=f"it {status} <b>here</b>") | {"status": status, "probe": ""})
            continue
        scale = 0.2 * (1.1 if algorithm == "mae" else 1.0) * (1.2 if mixture == "ct_only" else 1.0)
        errors = {
            task: scale * (n_params / 2e6) ** -EXPONENTS[task] * (n_images / 1e3) ** -0.1 * np.exp(noise * normal)
            for task, normal in zip(tasks, rng.standard_normal(len(tasks)), strict=True)
        }
        rows += _probes(common, errors)
    if baselines:
        nothing = {"mixture": "-", "n_images": 0, "train_flops": 0.0, "images_seen": 0}
        for model in models:
            common = {"run": f"random-{model}", "model": model, "algorithm": "random", "n_params": MODELS[model]}
            rows += _probes(common | nothing | {"seed": 0}, dict.fromkeys(tasks, 0.3))
        common = {"run": "pixels", "model": "-", "algorithm": "pixels", "n_params": 0, "seed": 0}
        rows += _probes(common | nothing, dict.fromkeys(tasks, 0.35))
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS))


@pytest.fixture
def sweep() -> Sweep:
    """Makes observation tables; see `make_sweep`."""
    return make_sweep


@pytest.fixture
def exponents() -> dict[str, float]:
    """The planted exponents along model size, by task."""
    return dict(EXPONENTS)


def make_tasks() -> pd.DataFrame:
    """A task table whose `samples` go with the planted exponents."""
    return pd.DataFrame(
        {
            "task": TASKS,
            "modality": ["x-ray", "photo", "fundus", "microscope", "ct"],
            "kind": ["multi-label", "multi-class", "ordinal", "multi-class", "binary"],
            "n_classes": [14, 7, 5, 8, 2],
            "samples": [1000.0, 2100.0, 2900.0, 4200.0, 5000.0],
            "classes": [14.0, 7.0, 5.0, 8.0, 2.0],
            "imbalance": [0.4, 0.1, 0.3, 0.2, 0.0],
            "compressibility": [0.5, 0.7, 0.6, 0.4, 0.65],
            "davies_bouldin": [np.nan, 4.0, 9.0, 5.0, 12.0],
            "davies_bouldin_reason": ["a multi-label task has no clusters", "", "", "", ""],
        }
    )


@pytest.fixture
def tasks() -> pd.DataFrame:
    """See `make_tasks`."""
    return make_tasks()


@pytest.fixture(scope="session")
def whole_sweep() -> pd.DataFrame:
    """The whole made-up sweep, not to be changed."""
    return make_sweep()


@pytest.fixture(scope="session")
def all_tasks() -> pd.DataFrame:
    """Its tasks, not to be changed."""
    return make_tasks()
