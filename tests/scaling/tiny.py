"""Specs of runs so small that a test can make them whole: one shape, small heads, twelve steps of eight images."""

from __future__ import annotations

from typing import Any

from scaling.catalog import ALGORITHMS
from scaling.grid import RunSpec

N_STEPS = 12
_DINO = {"prototypes": 16, "head_hidden": 16, "head_bottleneck": 8, "n_local": 1}
SMALLER: dict[str, dict[str, Any]] = {
    "dinov2": _DINO,
    "dino": _DINO,
    "ibot": _DINO,
    "simclr": {"projector_hidden": 16, "projector_width": 8},
    "mocov3": {"head_hidden": 16, "head_width": 8},
    "lejepa": {"projector_hidden": 16, "projector_width": 8, "n_slices": 32, "n_local": 1},
    "supervised": {
        "labels": {"identity": "0" * 64, "heads": ({"task": "grade", "kind": "ordinal", "n_classes": 4},)},
    },
}


def tiny_spec(
    algorithm: str = "mae", *, seed: int = 0, precision: str = "fp32", images_seen: int = 8 * N_STEPS, **options: Any
) -> RunSpec:
    """Of 20 grey images of 16 pixels; `options` beside or in place of the small ones."""
    return RunSpec(
        model="none",
        algorithm=algorithm,
        mixture="all",
        n_images=20,
        seed=seed,
        width=32,
        depth=2,
        heads=2,
        image_size=16,
        channels=1,
        patch_size=4,
        options=ALGORITHMS[algorithm].options(**{**SMALLER.get(algorithm, {}), **options}),
        images_seen=images_seen,
        batch_size=8,
        precision=precision,  # type: ignore[arg-type]
        data_identity="0" * 64,
    )
