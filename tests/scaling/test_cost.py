"""What a run costs: closed forms that hold for every model and algorithm, and times from the nearest evidence."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from scaling.catalog import ALGORITHMS, MODELS
from scaling.cost import Evidence, Measured, cost_of, shape_of
from scaling.grid import RunSpec
from scaling.options import LabelHead, LabelSet, MaeOptions
from scaling.records import BASELINES

HEADS = (LabelHead(task="a", kind="ordinal", n_classes=4), LabelHead(task="b", kind="multi-label", n_classes=14))
FOUND: dict[str, dict[str, Any]] = {"supervised": {"labels": LabelSet(identity="0" * 64, heads=HEADS)}}
"""Options that a plan would fill in."""


def spec_of(model: str = "vit_atto", algorithm: str = "mae", **changed: Any) -> RunSpec:
    size = MODELS[model]
    values: dict[str, Any] = {
        "model": model,
        "algorithm": algorithm,
        "mixture": "all",
        "n_images": 64,
        "seed": 0,
        "width": size.width,
        "depth": size.depth,
        "heads": size.heads,
        "image_size": 32,
        "channels": 1,
        "patch_size": 8,
        "options": ALGORITHMS[algorithm].options(**FOUND.get(algorithm, {})),
        "images_seen": 100,
        "batch_size": 16,
        "precision": "fp32",
        "data_identity": "0" * 64,
    }
    return RunSpec(**{**values, **changed})


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name not in BASELINES])
def test_the_closed_form_holds_for_every_model_and_algorithm(algorithm: str, model: str) -> None:
    spec = spec_of(model, algorithm)
    with torch.device("meta"):  # shapes without memory
        module = ALGORITHMS[algorithm].load()(shape_of(spec), spec.options)
    cost = cost_of(spec)
    assert cost.n_params_total == sum(p.numel() for p in module.parameters() if p.requires_grad)
    frozen = cost.n_params_by_part.get("frozen", 0)  # below zero: of the encoder, which is counted whole
    assert cost.n_params + frozen == sum(p.numel() for p in module.encoder.parameters() if p.requires_grad)


def test_parts_sum_to_the_total() -> None:
    cost = cost_of(spec_of(algorithm="dinov2"))
    assert set(cost.n_params_by_part) == {"encoder", "head", "mask_token"}
    assert sum(cost.n_params_by_part.values()) == cost.n_params_total > cost.n_params


def test_a_run_costs_its_flops_per_image_for_every_image_of_every_full_batch() -> None:
    cost = cost_of(spec_of(images_seen=100, batch_size=16))
    assert cost.train_flops == cost.flops_per_image * 7 * 16  # 100 images need seven batches, the last one full


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name not in BASELINES])
def test_more_of_anything_costs_more(algorithm: str) -> None:
    flops = [cost_of(spec_of(model, algorithm)).train_flops for model in MODELS]
    assert flops == sorted(set(flops))
    assert cost_of(spec_of(algorithm=algorithm, images_seen=200)).train_flops > flops[0]
    assert cost_of(spec_of(algorithm=algorithm, image_size=64)).train_flops > flops[0]


@pytest.mark.parametrize("algorithm", BASELINES)
def test_a_baseline_trains_for_nothing(algorithm: str) -> None:
    assert cost_of(spec_of(algorithm=algorithm)).train_flops == 0


def measured(model: str, algorithm: str, flops: float, seconds: float) -> Measured:
    return Measured(model=model, algorithm=algorithm, train_flops=flops, seconds=seconds)


def estimate_seconds(model: str, algorithm: str, flops: float, seen: list[Measured]) -> float | None:
    found = Evidence(seen).estimate(model, algorithm, flops)
    return found.seconds if found else None


# Four seconds of overhead for everything, then 0.1 (MAE) or 0.3 (DINOv2) seconds a FLOP.
SEEN = [
    measured("vit_s", "mae", 100.0, 14.0),
    measured("vit_b", "mae", 200.0, 24.0),
    measured("vit_s", "dinov2", 100.0, 34.0),
    measured("vit_b", "dinov2", 200.0, 64.0),
    measured("vit_s", "random", 0.0, 4.0),
    measured("vit_b", "random", 0.0, 4.0),
]


def test_an_estimate_scales_finished_runs_of_the_same_model_and_algorithm() -> None:
    twice = [*SEEN, measured("vit_s", "mae", 200.0, 36.0)]
    assert estimate_seconds("vit_s", "mae", 50.0, SEEN) == pytest.approx(7.0)
    assert estimate_seconds("vit_s", "mae", 50.0, twice) == pytest.approx(8.0)  # the mean of 0.14 and 0.18 a FLOP


def test_an_estimate_for_another_model_lies_on_the_line_of_its_algorithm() -> None:
    assert estimate_seconds("vit_l", "mae", 400.0, SEEN) == pytest.approx(44.0)
    assert estimate_seconds("vit_l", "dinov2", 400.0, SEEN) == pytest.approx(124.0)


def test_an_estimate_for_a_new_algorithm_lies_between_those_that_are_known() -> None:
    estimate = estimate_seconds("vit_l", "simclr", 400.0, SEEN)
    assert estimate is not None
    assert 44.0 < estimate < 124.0


def test_activations_computed_anew_take_longer_than_what_only_other_kinds_foretell() -> None:
    of_mae = {"model": "vit_l", "algorithm": "mae", "train_flops": 400.0}
    again = Evidence(SEEN).estimate(**of_mae, recomputed=True)  # type: ignore[arg-type]
    assert again is not None
    assert again.seconds == pytest.approx(4 + 1.3 * 40)
    same = Evidence([*SEEN, measured("vit_l", "mae", 200.0, 30.0)]).estimate(**of_mae, recomputed=True)  # type: ignore[arg-type]
    assert same is not None
    assert same.seconds == pytest.approx(60.0)  # as long as they took, who did so too


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name not in BASELINES])
def test_blocks_that_compute_anew_keep_their_inputs_and_one_of_them_the_rest(algorithm: str) -> None:
    values = []
    for depth in (8, 16, 24):
        cost = cost_of(spec_of("vit_ti", algorithm, depth=depth))
        assert cost.values_recomputed < cost.values_per_image
        values.append((cost.values_per_image, cost.values_recomputed))
    (kept, anew), (more_kept, more_anew), (_, most_anew) = values
    deeper = (more_anew - anew) / (more_kept - kept)
    assert deeper == pytest.approx(1 / 16)
    assert most_anew - more_anew == pytest.approx(more_anew - anew)


def test_evidence_of_one_size_alone_scales_by_flops() -> None:
    assert estimate_seconds("vit_l", "mae", 400.0, SEEN[:1]) == pytest.approx(56.0)


def test_an_estimate_is_never_negative() -> None:
    falling = [measured("vit_s", "mae", 100.0, 50.0), measured("vit_b", "mae", 200.0, 10.0)]
    estimate = estimate_seconds("vit_l", "mae", 400.0, falling)
    assert estimate is not None
    assert estimate > 0


def test_a_run_without_training_takes_as_long_as_those_took() -> None:
    other = [*SEEN, measured("vit_l", "random", 0.0, 7.0)]
    assert estimate_seconds("vit_l", "random", 0.0, other) == pytest.approx(5.0)


def test_without_evidence_there_is_no_estimate() -> None:
    assert estimate_seconds("vit_s", "mae", 100.0, []) is None
    assert estimate_seconds("vit_s", "mae", 100.0, [SEEN[-1]]) is None
    assert estimate_seconds("vit_s", "random", 0.0, SEEN[:1]) is None


# --- counts -------------------------------------------------------------------------------------------------------

PUBLISHED = {"vit_ti": 31.2e6, "vit_s": 47.4e6, "vit_b": 111.66e6, "vit_l": 329.24e6}
"""BioVFM@d988462:analysis/analyze_results.ipynb, `model_params`, rounded there."""
COUNTED = {"vit_ti": 31_200_000, "vit_s": 47_401_728, "vit_b": 111_655_680, "vit_l": 329_239_296}


@pytest.mark.parametrize("algorithm", ["mae", "dinov2", "random"])
@pytest.mark.parametrize("model", COUNTED)
def test_the_papers_axis_is_its_mae_whatever_the_run_is(model: str, algorithm: str) -> None:
    axis = cost_of(spec_of(model, algorithm)).paper_axis
    assert axis == COUNTED[model]
    assert axis == pytest.approx(PUBLISHED[model], abs=5e3)  # its last digit is 10,000


@pytest.mark.parametrize("model", COUNTED)
def test_the_papers_axis_is_what_torch_counts(model: str) -> None:
    there = spec_of(model, options=MaeOptions(decoder="paper"), image_size=224, patch_size=16, channels=3)
    with torch.device("meta"):
        module = ALGORITHMS["mae"].load()(shape_of(there), there.options)
    assert cost_of(there).paper_axis == sum(p.numel() for p in module.parameters() if p.requires_grad)


def test_without_an_encoder_there_is_no_place_on_the_papers_axis() -> None:
    assert cost_of(spec_of(algorithm="pixels", width=0, depth=0, heads=0)).counts == {
        "n_params": 0,
        "n_params_heads": 0,
        "n_params_total": 0,
        "n_params_non_embedding": 0,
        "paper_axis": 0,
        "flops_per_image": 0,
    }


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name not in BASELINES])
def test_counts_are_torchs_by_module(algorithm: str) -> None:
    spec = spec_of("vit_pico", algorithm, channels=3)
    with torch.device("meta"):
        module = ALGORITHMS[algorithm].load()(shape_of(spec), spec.options)
    cost, vit = cost_of(spec), module.encoder.vit
    blocks_and_norm = [*vit.blocks.parameters(), *vit.norm.parameters()]
    inside = set(map(id, module.encoder.parameters()))
    outside = [p for p in module.parameters() if p.requires_grad and id(p) not in inside]
    assert cost.n_params_non_embedding == sum(p.numel() for p in blocks_and_norm)
    assert cost.n_params_heads == sum(p.numel() for p in outside)
    frozen = cost.n_params + cost.n_params_heads - cost.n_params_total
    assert frozen == (193 * 64 if algorithm == "mocov3" else 0)  # its patch projection, 8 x 8 x 3 and a bias
