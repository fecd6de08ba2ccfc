"""Every mistake of a YAML is found at once, with its place, what is allowed and the way out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scaling.catalog import PROBES
from scaling.config import TRAINED, load
from scaling.errors import SpecError
from scaling.grid import expand

Write = Callable[..., Path]
KNOWN = ", ".join(sorted(TRAINED))

# What is changed in the good sweep, and the whole message without the file's name.
MISTAKES = [
    (
        "vit_atto]",
        "vit_attto]",
        "4: grid.model[0]: unknown model 'vit_attto'; did you mean 'vit_atto'? known: vit_atto, ",
    ),
    (
        "[mae, dinov2]",
        "[maee, dinov2]",
        f"5: grid.algorithm[0]: unknown algorithm 'maee'; did you mean 'mae'? known: {KNOWN}",
    ),
    ("[mae, dinov2]", "[mae, dinov2, random]", f"5: grid.algorithm[2]: unknown algorithm 'random'; known: {KNOWN}"),
    ("[16, 32]", "[16, -3]", "6: grid.n_images[1]: should be greater than 0 (got -3)"),
    ("[16, 32]", "[16, 32.5]", "6: grid.n_images[1]: should be an integer"),
    ("[16, 32]", "[16, 65]", "6: grid.n_images[1]: 65 is more than pretrain.images_seen 64, so some would"),
    ("[16, 32]", "[16, 16]", "6: grid.n_images: lists 16 twice; give each value once"),
    ("[16, 32]", "[]", "6: grid.n_images: is empty; give one or more values"),
    ("  n_images: [16, 32]\n", "", "3: grid.n_images: is missing; add it"),
    (
        "[all, ct_only]",
        "[all, ct_onyl]",
        "7: grid.mixture[1]: unknown mixture 'ct_onyl'; did you mean 'ct_only'? known: all, ct_only",
    ),
    ("seed: [0]", "seed: [zero]", '8: grid.seed[0]: should be an integer (got "zero")'),
    ("name: tiny", "name: Tiny Sweep", "1: name: string should match pattern"),
    ("name: tiny\n", "", "1: name: is missing; add it"),
    ("all: natural", "all: naturel", "10: mixtures.all: should be 'natural' (got \"naturel\")"),
    ("{ct: 1}", "{ct: 0}", "11: mixtures.ct_only.ct: should be greater than 0 (got 0)"),
    ("{ct: 1}", "{}", "11: mixtures.ct_only: dictionary should have at least 1 item"),
    (
        "[all, ct_only]",
        "[all]",
        "11: mixtures.ct_only: is defined but no point uses it; add it to grid.mixture or remove it",
    ),
    (
        "source: phantoms",
        "source: phantom",
        "13: data.source: unknown source 'phantom'; did you mean 'phantoms'? known: ",
    ),
    ("  source: phantoms\n", "", "12: data.source: is missing; one of phantoms, npz"),
    (
        "image_size: 32",
        "image_sise: 32",
        "14: data.image_sise: unknown key 'image_sise'; did you mean 'image_size'? known: channels, ",
    ),
    ("image_size: 32", "image_size: 8", "14: data.image_size: should be greater than or equal to 16 (got 8)"),
    (
        "patch_size: 8",
        "patch_size: 5",
        "18: encoder.patch_size: 5 does not divide data.image_size 32; these do: 2, 4, 8, 16, 32",
    ),
    ("images_seen: 64", "images_seen: many", '19: pretrain.images_seen: should be an integer (got "many")'),
    ("images_seen: 64", "flops: 0", "19: pretrain.flops: should be greater than 0 (got 0)"),
    ("images_seen: 64", "flops: .inf", "19: pretrain.flops: should be a finite number"),
    (
        "images_seen: 64",
        "epochs: 0.5",
        "19: pretrain.epochs: 0.5 is less than one pass, so some images would never be seen; write 1 or more",
    ),
    (
        "images_seen: 64, ",
        "",
        "19: pretrain: does not say how long runs are; add one of `images_seen: 100000` (equal images), ",
    ),
    (
        "images_seen: 64",
        "images_seen: 64, flops: 1e12",
        "19: pretrain: has images_seen and flops, which are several budgets; keep one",
    ),
    (
        "batch_size: 16",
        "batchsize: 16",
        "19: pretrain.batchsize: unknown key 'batchsize'; did you mean 'batch_size'? known: batch_size, ",
    ),
    ("precision: fp32", "precision: fp8", "19: pretrain.precision: should be 'auto', 'bf16' or 'fp32' (got \"fp8\")"),
    ("n_local: 1", "n_local: -1", "21: algorithms.dinov2.n_local: should be greater than or equal to 0 (got -1)"),
    (
        "n_local: 1",
        "local_size: 12",
        "21: algorithms.dinov2.local_size: 12 is no multiple of encoder.patch_size 8; the nearest is 16",
    ),
    (
        "[mae, dinov2]",
        "[mae]",
        "21: algorithms.dinov2: sets an algorithm that no point uses; add it to grid.algorithm or remove it",
    ),
    ("bootstrap: 20", "tasks: []", "22: probe.tasks: is empty; name tasks or write `all`"),
    ("linear: {n_c: 2}", "linear: null, knn: null", "22: probe: leaves every read-out out; keep one of linear, knn"),
    (
        "linear: {n_c: 2}",
        "linear: {c_min: 1, c_max: 0.1}",
        "22: probe.linear: c_min is above c_max; give c_min <= c_max",
    ),
    (
        "linear: {n_c: 2}",
        "lineer: {}",
        "22: probe.lineer: unknown key 'lineer'; did you mean 'linear'? known: biovfm, bootstrap, keep_mb, knn, ",
    ),
    (
        "linear: {n_c: 2}",
        "protocol: biovfm, biovfm: null",
        "22: probe: leaves every read-out out; keep one of linear, knn, ridge, biovfm",
    ),
    ("linear: {n_c: 2}", "protocol: biofm", "22: probe.protocol: should be 'biovfm' (got \"biofm\")"),
    (
        "linear: {n_c: 2}",
        "ridge: {l2_min: 1, l2_max: 0.1}",
        "22: probe.ridge: l2_min is above l2_max; give l2_min <= l2_max",
    ),
    ("name: tiny", "name: tiny\nname: two", "2: name: stands twice, first in line 1; keep one"),
    (
        "probe: {",
        "baselines: [pixel]\nprobe: {",
        "22: baselines[0]: unknown baseline 'pixel'; did you mean 'pixels'? known: pixels, random",
    ),
    (
        "probe: {",
        "resources: {gpus: -1}\nprobe: {",
        "22: resources.gpus: should be greater than or equal to 0 (got -1)",
    ),
    (
        "probe: {",
        "resorces: {gpus: 1}\nprobe: {",
        "22: resorces: unknown key 'resorces'; did you mean 'resources'? known: algorithms, ",
    ),
    ("grid:\n", "grid: [\n", "no valid YAML"),
]


@pytest.mark.parametrize(("old", "new", "message"), MISTAKES)
def test_a_mistake_is_named_with_its_line_and_the_way_out(sweep_file: Write, old: str, new: str, message: str) -> None:
    path = sweep_file((old, new))
    with pytest.raises(SpecError) as caught:
        load(path)
    assert message in str(caught.value), str(caught.value)


def test_a_protocol_says_what_the_sweep_does_not(sweep_file: Write) -> None:
    probe = load(sweep_file(("linear: {n_c: 2}", "protocol: biovfm, knn: {}")))[0].probe
    assert set(probe.read_outs()) == {"knn", "biovfm"}
    assert probe.max_train is None
    assert type(probe).model_validate_json(probe.model_dump_json()) == probe


def test_a_read_out_is_known_by_what_it_computes(sweep_file: Write) -> None:
    def identity(settings: str) -> dict[str, Any]:
        return load(sweep_file(("linear: {n_c: 2}", settings)))[0].probe.identity()

    plain = identity("linear: {n_c: 2}")
    assert identity("linear: {n_c: 2}, keep_mb: 0, tasks: [ct_lesion], ridge: null") == plain
    assert plain["read_outs"]["linear"]["version"] == PROBES["linear"].version
    for other in ("linear: {n_c: 3}", "linear: {n_c: 2}, ridge: {}", "linear: {n_c: 2}, pool: mean"):
        assert identity(other) != plain


def test_the_good_sweep_is_good(sweep_file: Write) -> None:
    sweep, _ = load(sweep_file())
    assert sweep.grid.n_images == [16, 32]
    assert sweep.patch_size == 8


def test_all_mistakes_are_reported_at_once_from_the_top_down(sweep_file: Write) -> None:
    path = sweep_file(
        ("vit_atto]", "vit_x]"), ("[16, 32]", "[0]"), ("{ct: 1}", "{ct: -1}"), ("patch_size: 8", "patch_size: 7")
    )
    with pytest.raises(SpecError) as caught:
        load(path)
    assert [problem.where.split(":")[-2:] for problem in caught.value.problems] == [
        ["4", " grid.model[0]"],
        ["6", " grid.n_images[0]"],
        ["11", " mixtures.ct_only.ct"],
        ["18", " encoder.patch_size"],
    ]


@pytest.mark.parametrize("wrong", ["epochs: 2, flops: 1e9, ", "images_seen: null, "], ids=["two", "none"])
def test_a_budget_too_many_or_too_few_is_said_once_beside_all_other_mistakes(sweep_file: Write, wrong: str) -> None:
    path = sweep_file(("vit_atto]", "vit_x]"), ("images_seen: 64, ", wrong), ("{n_c: 2}", "{n_c: 0}"))
    with pytest.raises(SpecError) as caught:
        load(path)
    assert [problem.where.split(": ")[1] for problem in caught.value.problems] == [
        "grid.model[0]",
        "pretrain",
        "probe.linear.n_c",
    ]
    with pytest.raises(SpecError) as caught:
        load(sweep_file(("images_seen: 64, batch_size: 16", f"{wrong}batch_size: 1")))
    assert [problem.where.split(": ")[1] for problem in caught.value.problems] == ["pretrain.batch_size", "pretrain"]


@pytest.mark.parametrize(
    ("written", "budget", "said"),
    [
        ("images_seen: 64000", "equal images", "equal images, 64,000 a run"),
        ("flops: 1.0e15", "equal FLOPs", "equal FLOPs, 1e+15 a run"),
        ("epochs: 1.5, images_seen: null", "equal epochs", "equal epochs, 1.5 a run"),
    ],
)
def test_a_budget_says_what_it_makes_equal(sweep_file: Write, written: str, budget: str, said: str) -> None:
    pretrain = load(sweep_file(("images_seen: 64", written)))[0].pretrain
    assert (pretrain.budget, str(pretrain)) == (budget, said)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; a sweep is `key: value` lines"),
        (b"- a\n- b\n", "is not a mapping"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        (b"a: b: c\n", "no valid YAML: mapping values are not allowed here"),
    ],
)
def test_a_file_that_is_no_sweep_says_so(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=r"x\.yaml") as caught:
        load(path)
    assert message in str(caught.value)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read: No such file or directory; give a sweep's YAML"):
        load(tmp_path / "none.yaml")


def test_an_exponent_without_a_point_is_a_number(sweep_file: Write) -> None:
    path = sweep_file(("n_local: 1", "n_local: 1, lr: {base: 1e-3}"))
    assert load(path)[0].algorithms.dinov2.lr.base == 1e-3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            "exclude:\n  - {model: vit_atto, seed: 7}\n",
            "exclude[0]: matches no point of the grid; correct or remove it",
        ),
        ("exclude:\n  - {algorithm: [mae, dinov2]}\n", "exclude: leaves no point of the grid; remove a rule"),
        (
            "include:\n  - {model: vit_atto, algorithm: mae, n_images: 16}\n",
            "include[0]: adds no point that the grid does not have; remove it",
        ),
        (
            "holdout:\n  - {algorithm: mae}\n  - {n_images: 16, seed: 7}\n",
            "sweep.yaml:11: holdout[1]: matches no point that is run; correct or remove it",
        ),
        (
            "exclude:\n  - {n_images: 32}\nholdout:\n  - {n_images: 32}\n",
            "sweep.yaml:12: holdout[0]: matches no point that is run; correct or remove it",
        ),
        (
            "holdout:\n  - {algorithm: [mae, dinov2]}\n",
            "sweep.yaml:9: holdout: holds every point out, so that nothing is left to fit; narrow or remove a rule",
        ),
    ],
)
def test_a_rule_without_effect_is_a_mistake(sweep_file: Write, rule: str, message: str) -> None:
    sweep, document = load(sweep_file(("mixtures:", rule + "mixtures:")))
    with pytest.raises(SpecError) as caught:
        expand(sweep, document)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("  - {modle: vit_atto}", "sweep.yaml:10: holdout[0].modle: unknown key 'modle'; did you mean 'model'?"),
        (
            "  - {model: vit_ato}",
            "sweep.yaml:10: holdout[0].model[0]: unknown model 'vit_ato'; did you mean 'vit_atto'?",
        ),
        (
            "  - {mixture: ct_onyl}",
            "sweep.yaml:10: holdout[0].mixture: unknown mixture 'ct_onyl'; did you mean 'ct_only'?",
        ),
        ("  - {seed: []}", "sweep.yaml:10: holdout[0].seed: is empty; give one or more values"),
        ("  - vit_atto", "sweep.yaml:10: holdout[0]: should be"),
    ],
)
def test_a_mistake_in_what_is_held_out_has_its_place(sweep_file: Write, rule: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(sweep_file(("mixtures:", f"holdout:\n{rule}\nmixtures:")))
    assert message in str(caught.value)


def test_a_silence_that_would_end_healthy_runs_is_refused(sweep_file: Callable[..., Path]) -> None:
    path = sweep_file(("probe:", "retry: {hang_after: 5s}\nprobe:"))
    with pytest.raises(SpecError, match=r"hang_after: would end healthy runs.*at least 30s"):
        load(path)


@pytest.mark.parametrize("text", ["20m", "7", "1.5 days", "-3h"])
def test_a_duration_that_is_none_is_shown_with_the_units_there_are(sweep_file: Callable[..., Path], text: str) -> None:
    with pytest.raises(SpecError, match=f"'{text}' is no duration; write a number and its unit .s, min, h, d."):
        load(sweep_file(("probe:", f"budget: {{wall: '{text}'}}\nprobe:")))
