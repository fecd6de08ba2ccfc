"""The points of a sweep, and fingerprints that change when and only when something else would be computed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from scaling.config import load
from scaling.errors import SpecError
from scaling.grid import Excluded, Point, RunSpec, expand, fingerprint, held_out, spec
from scaling.options import IbotHead

Write = Callable[..., Path]
GOLDEN = Path(__file__).parent / "golden" / "fingerprints.json"
"""Fingerprints of the good sweep of conftest.py, by `runs` below, at schema 1. They change only together with what a
finished run means: then SCHEMA or an algorithm's version goes up and this file is written anew by hand."""


def points(path: Path) -> tuple[list[Point], list[Excluded]]:
    return expand(*load(path))


def trained(found: list[Point]) -> list[str]:
    return [str(point) for point in found if point.n_images]


def identity_of(point: Point, images: str = "") -> str:
    """Stands in for the hash over a selection's keys, so that these tests need no source."""
    named = f"{images}{point.n_images}"
    return hashlib.sha256(named.encode()).hexdigest() if point.n_images else ""


def runs(path: Path, images: Callable[[Point], str] = identity_of) -> dict[str, str]:
    """Point -> fingerprint."""
    sweep, document = load(path)
    return {str(point): spec(sweep, point, images(point)).fingerprint for point in expand(sweep, document)[0]}


# --- points -----------------------------------------------------------------------------------------------------


def test_the_product_runs_through_the_last_axis_fastest_and_baselines_come_last(sweep_file: Write) -> None:
    found, excluded = points(sweep_file(("seed: [0]", "seed: [0, 5]")))
    expected = [
        f"vit_atto/{algorithm}/{n}x{mixture}/s{seed}"
        for algorithm in ("mae", "dinov2")
        for n in (16, 32)
        for mixture in ("all", "ct_only")
        for seed in (0, 5)
    ]
    assert [str(point) for point in found] == [*expected, "vit_atto/random/s0", "vit_atto/random/s5", "none/pixels/s0"]
    assert excluded == []


def test_axes_keep_the_order_of_the_file(sweep_file: Write) -> None:
    found, _ = points(sweep_file(("[16, 32]", "[32, 16]")))
    assert [point.n_images for point in found[:4]] == [32, 32, 16, 16]


def test_one_value_needs_no_list(sweep_file: Write) -> None:
    assert points(sweep_file(("model: [vit_atto]", "model: vit_atto"))) == points(sweep_file())


def test_a_rule_leaves_out_every_point_that_matches_all_its_keys(sweep_file: Write) -> None:
    rules = (
        "exclude:\n  - {algorithm: dinov2, n_images: 16}\n  - {mixture: ct_only, n_images: [16, 32], algorithm: mae}\n"
    )
    found, excluded = points(sweep_file(("mixtures:", rules + "mixtures:")))
    assert trained(found) == [
        "vit_atto/mae/16xall/s0",
        "vit_atto/mae/32xall/s0",
        "vit_atto/dinov2/32xall/s0",
        "vit_atto/dinov2/32xct_only/s0",
    ]
    assert [str(e.point) for e in excluded] == [
        "vit_atto/mae/16xct_only/s0",
        "vit_atto/mae/32xct_only/s0",
        "vit_atto/dinov2/16xall/s0",
        "vit_atto/dinov2/16xct_only/s0",
    ]


def test_a_point_left_out_names_the_rule_that_says_so(sweep_file: Write) -> None:
    rules = "exclude:\n  - {n_images: 16}\n  - {algorithm: dinov2}\n"
    _, excluded = points(sweep_file(("mixtures:", rules + "mixtures:")))
    rule_of = {str(e.point): e.rule.split("/")[-1] for e in excluded}
    assert rule_of["vit_atto/dinov2/16xall/s0"] == "sweep.yaml:10: exclude[0]"  # the first that matches
    assert rule_of["vit_atto/dinov2/32xall/s0"] == "sweep.yaml:11: exclude[1]"


def test_an_extra_grid_comes_after_the_product_and_adds_only_what_is_new(sweep_file: Write) -> None:
    extra = (
        "include:\n"
        "  - {model: vit_femto, algorithm: mae, n_images: [16, 64]}\n"
        "  - {model: [vit_atto, vit_femto], algorithm: mae, n_images: 64}\n"
    )
    found, _ = points(sweep_file(("mixtures:", extra + "mixtures:")))
    assert trained(found)[8:] == ["vit_femto/mae/16xall/s0", "vit_femto/mae/64xall/s0", "vit_atto/mae/64xall/s0"]
    assert len(set(found)) == len(found)


def test_an_extra_point_may_bring_back_what_a_rule_left_out(sweep_file: Write) -> None:
    rules = "exclude:\n  - {n_images: 32}\ninclude:\n  - {model: vit_atto, algorithm: mae, n_images: 32}\n"
    found, excluded = points(sweep_file(("mixtures:", rules + "mixtures:")))
    assert trained(found)[-1] == "vit_atto/mae/32xall/s0"
    assert len(excluded) == 4


def test_what_is_held_out_is_run_like_any_other_and_changes_no_fingerprint(sweep_file: Write) -> None:
    rule = "holdout:\n  - {n_images: 32, algorithm: [mae]}\n  - {mixture: ct_only, n_images: 32}\n"
    path = sweep_file(("mixtures:", rule + "mixtures:"))
    held, _ = points(path)
    sweep, _ = load(path)
    assert [str(point) for point in held if held_out(sweep, point)] == [
        "vit_atto/mae/32xall/s0",
        "vit_atto/mae/32xct_only/s0",
        "vit_atto/dinov2/32xct_only/s0",
    ]
    assert runs(path) == runs(sweep_file())
    assert held == points(sweep_file())[0]


def test_an_extra_point_can_be_held_out_and_a_baseline_cannot(sweep_file: Write) -> None:
    rules = "include:\n  - {model: vit_femto, algorithm: mae, n_images: 16}\nholdout:\n  - {model: vit_femto}\n"
    path = sweep_file(("mixtures:", rules + "mixtures:"))
    sweep, _ = load(path)
    found = [str(point) for point in points(path)[0] if held_out(sweep, point)]
    assert found == ["vit_femto/mae/16xall/s0"]


def test_there_is_one_untrained_encoder_per_model_and_seed_and_one_image_itself(sweep_file: Write) -> None:
    found, _ = points(sweep_file(("[vit_atto]", "[vit_atto, vit_femto]"), ("seed: [0]", "seed: [0, 1]")))
    assert [str(point) for point in found if not point.n_images] == [
        "vit_atto/random/s0",
        "vit_atto/random/s1",
        "vit_femto/random/s0",
        "vit_femto/random/s1",
        "none/pixels/s0",
    ]


def test_baselines_can_be_left_out(sweep_file: Write) -> None:
    found, _ = points(sweep_file(("probe: {", "baselines: []\nprobe: {")))
    assert all(point.n_images for point in found)


# --- specs ------------------------------------------------------------------------------------------------------


def spec_in(path: Path, algorithm: str = "mae") -> RunSpec:
    sweep, document = load(path)
    return spec(sweep, next(p for p in expand(sweep, document)[0] if p.algorithm == algorithm), "0" * 64)


@pytest.mark.parametrize("algorithm", ["mae", "dinov2", "random", "pixels"])
def test_a_spec_survives_being_written_as_json(sweep_file: Write, algorithm: str) -> None:
    before = spec_in(sweep_file(), algorithm)
    after = RunSpec.model_validate_json(before.model_dump_json())
    assert after == before
    assert type(after.options) is type(before.options)
    assert after.fingerprint == before.fingerprint


def test_a_head_of_its_own_survives_being_written_as_json(sweep_file: Write) -> None:
    before = spec_in(sweep_file(("n_local: 1", "n_local: 1, ibot_head: {prototypes: 24}")), "dinov2")
    after = RunSpec.model_validate_json(before.model_dump_json())
    assert after == before
    assert after.options.ibot_head == IbotHead(prototypes=24)  # type: ignore[attr-defined]


def test_a_spec_knows_its_point(sweep_file: Write) -> None:
    sweep, document = load(sweep_file())
    for point in expand(sweep, document)[0]:
        assert spec(sweep, point, "").point == point


@pytest.mark.parametrize(("images_seen", "steps"), [(63, 4), (64, 4), (65, 5), (32, 2)])
def test_the_budget_is_met_with_full_batches(sweep_file: Write, images_seen: int, steps: int) -> None:
    assert spec_in(sweep_file(("images_seen: 64", f"images_seen: {images_seen}"))).n_steps == steps


def test_a_baseline_has_no_budget_and_none_of_the_algorithms_settings(sweep_file: Write) -> None:
    baseline = spec_in(sweep_file(), "random")
    assert (baseline.images_seen, baseline.n_steps, baseline.options.model_dump()) == (0, 0, {})


# --- fingerprints -----------------------------------------------------------------------------------------------


def test_the_fingerprints_are_those_on_file(sweep_file: Write) -> None:
    assert runs(sweep_file()) == json.loads(GOLDEN.read_text())


def test_no_two_runs_of_a_sweep_share_a_fingerprint(sweep_file: Write) -> None:
    def by_mixture(point: Point) -> str:
        return identity_of(point, point.mixture)

    found = runs(sweep_file(("seed: [0]", "seed: [0, 1]")), by_mixture)
    assert len(set(found.values())) == len(found) == 16 + 3
    assert all(len(f) == 12 and set(f) <= set("0123456789abcdef") for f in found.values())


def test_the_same_images_under_two_names_are_one_run(sweep_file: Write) -> None:
    found = runs(sweep_file())  # both mixtures stand for the same images here
    assert found["vit_atto/mae/16xall/s0"] == found["vit_atto/mae/16xct_only/s0"]


RENAMED = {
    "the sweep": [("name: tiny", "name: other")],
    "the question": [("Does the path hold?", "Why?")],
    "a mixture": [("[all, ct_only]", "[all, slices]"), ("ct_only: {ct: 1}", "slices: {ct: 1}")],
}
WITHOUT_EFFECT = {
    "resources": [("probe: {", "resources: {gpus: 0.5, cpus: 4, memory_gb: 8, accelerator: H100}\nprobe: {")],
    "priority": [("probe: {", "schedule: {priority: 7, order: longest, patience: 5min}\nprobe: {")],
    "budget of hours": [("probe: {", "budget: {gpu_hours: 5, wall: 2h, on_hit: stop}\nprobe: {")],
    "further attempts": [("probe: {", "retry: {gpu_oom: 0, error: 3, hang_after: 1h}\nprobe: {")],
    "a comment": [("probe: {", "# said aloud\nprobe: {")],
    "tracking": [("probe: {", "tracking: {experiment: other}\nprobe: {")],
    "bootstrap": [("bootstrap: 20", "bootstrap: 200")],
    "probes": [("linear: {n_c: 2}", "linear: {n_c: 5}, knn: null, pool: cls, max_train: 10")],
    "checkpoints": [("images_seen: 64", "images_seen: 64, checkpoint_minutes: 0")],
    "compiling": [("images_seen: 64", "images_seen: 64, compile: never")],
    "task sizes": [("n_test: 64", "n_test: 128")],
    "a default written out": [("n_local: 1", "n_local: 1, student_temp: 0.1")],
    "what was so before there was a choice": [("n_local: 1", "n_local: 1, ibot_head: tied")],
}


@pytest.mark.parametrize("changes", [*RENAMED.values(), *WITHOUT_EFFECT.values()], ids=[*RENAMED, *WITHOUT_EFFECT])
def test_what_changes_no_computation_changes_no_fingerprint(sweep_file: Write, changes: list[tuple[str, str]]) -> None:
    assert list(runs(sweep_file(*changes)).values()) == list(runs(sweep_file()).values())


def test_the_order_of_the_values_of_an_axis_changes_no_fingerprint(sweep_file: Write) -> None:
    turned = [("[mae, dinov2]", "[dinov2, mae]"), ("[16, 32]", "[32, 16]"), ("[all, ct_only]", "[ct_only, all]")]
    assert runs(sweep_file(*turned)) == runs(sweep_file())
    assert list(runs(sweep_file(*turned))) != list(runs(sweep_file()))


CHANGES = {
    "learning rate": (("n_local: 1}", "n_local: 1}\n  mae: {lr: {base: 1.0e-3}}"), "mae"),
    "rule of the learning rate": (("n_local: 1}", "n_local: 1}\n  mae: {lr: {base: 1.5e-4, rule: sqrt}}"), "mae"),
    "mask ratio": (("n_local: 1}", "n_local: 1}\n  mae: {mask_ratio: 0.5}"), "mae"),
    "local crops": (("n_local: 1", "n_local: 2"), "dinov2"),
    "a head of iBOT's own": (("n_local: 1", "n_local: 1, ibot_head: {}"), "dinov2"),
    "seed": (("seed: [0]", "seed: [1]"), "mae"),
    "encoder": (("[vit_atto]", "[vit_femto]"), "mae"),
    "number of images": (("[16, 32]", "[8, 32]"), "mae"),
    "patch size": (("patch_size: 8", "patch_size: 4"), "mae"),
    "image size": (("image_size: 32", "image_size: 64"), "mae"),
    "channels": (("image_size: 32", "image_size: 32\n  channels: 3"), "mae"),
    "budget": (("images_seen: 64", "images_seen: 128"), "mae"),
    "batch size": (("batch_size: 16", "batch_size: 8"), "mae"),
    "precision": (("precision: fp32", "precision: bf16"), "mae"),
    "seed of an untrained encoder": (("seed: [0]", "seed: [1]"), "random"),
    "patch size of an untrained encoder": (("patch_size: 8", "patch_size: 4"), "random"),
}


@pytest.mark.parametrize(("change", "algorithm"), CHANGES.values(), ids=CHANGES)
def test_what_changes_the_computation_changes_the_fingerprint(
    sweep_file: Write, change: tuple[str, str], algorithm: str
) -> None:
    assert spec_in(sweep_file(change), algorithm).fingerprint != spec_in(sweep_file(), algorithm).fingerprint


@pytest.mark.parametrize(
    "change", [("images_seen: 64", "images_seen: 128"), ("batch_size: 16", "batch_size: 8"), ("fp32", "bf16")]
)
@pytest.mark.parametrize("algorithm", ["random", "pixels"])
def test_the_training_budget_changes_no_baseline(sweep_file: Write, algorithm: str, change: tuple[str, str]) -> None:
    assert spec_in(sweep_file(change), algorithm).fingerprint == spec_in(sweep_file(), algorithm).fingerprint


def test_other_images_change_the_fingerprint(sweep_file: Write) -> None:
    sweep, document = load(sweep_file())
    point = expand(sweep, document)[0][0]
    assert spec(sweep, point, "0" * 64).fingerprint != spec(sweep, point, "1" * 64).fingerprint


def test_a_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [1.5, None]}) == fingerprint({"b": [1.5, None], "a": 1})


def test_a_fingerprint_is_the_start_of_the_hash_of_canonical_json() -> None:
    assert fingerprint({"b": 0.1, "a": "é"}) == hashlib.sha256(rb'{"a":"\u00e9","b":0.1}').hexdigest()[:12]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_without_a_stable_form_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"options\.lr: -?(nan|inf) has no form in a fingerprint; use null"):
        fingerprint({"options": {"lr": value}})


class Colour(str):
    """What JSON would write like any text."""


@pytest.mark.parametrize(
    ("value", "kind", "way_out"),
    [
        ({1, 2}, "set", "use a sorted list"),
        (frozenset({1}), "frozenset", "use a sorted list"),
        (b"x", "bytes", "use their SHA-256 as text"),
        (object(), "object", "use text, numbers"),
        (len, "builtin_function_or_method", "use text, numbers"),
        (lambda: 1, "function", "use text, numbers"),
        (Path, "type", "use the name it has in the catalog"),
        (Path("x"), "PosixPath", "use text, numbers"),
        (Colour("red"), "Colour", "use text, numbers"),
        (1j, "complex", "use two numbers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_without_a_stable_form_are_refused_with_their_place(value: object, kind: str, way_out: str) -> None:
    with pytest.raises(TypeError, match=rf"^views\[1\]\.x: a {kind} has no stable form in a fingerprint; {way_out}"):
        fingerprint({"views": [0, {"x": value}]})


@pytest.mark.parametrize(("key", "kind"), [(1, "int"), (None, "NoneType"), (True, "bool"), (1.5, "float")])
def test_keys_that_json_would_turn_into_text_are_refused(key: object, kind: str) -> None:
    with pytest.raises(TypeError, match=rf"^mixture: key {key!r} is a {kind}; keys must be text, use '{key!s}'$"):
        fingerprint({"mixture": {key: 0.5}})


def test_a_tuple_is_the_list_it_is_written_as() -> None:
    assert fingerprint({"betas": (0.9, 0.95)}) == fingerprint({"betas": [0.9, 0.95]})


@pytest.mark.parametrize("text", [".nan", ".inf"])
def test_a_sweep_cannot_say_nan_or_infinity(sweep_file: Write, text: str) -> None:
    with pytest.raises(SpecError, match="koleo_weight"):
        load(sweep_file(("n_local: 1", f"koleo_weight: {text}")))
