"""A sweep whose data is not on this machine: its price from the YAML, what stays unknown, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scaling.accelerators import ACCELERATORS, REACHED_BETWEEN
from scaling.algorithms.closed_forms import dinov2, mae
from scaling.catalog import MODELS
from scaling.cli import main
from scaling.models.shape import Shape
from scaling.options import DinoV2Options, MaeOptions
from tests.scaling.medmnist_fakes import write_fakes

SWEEP = """\
name: priced
grid: {model: [vit_ti, vit_l], algorithm: [mae, dinov2], n_images: [200000, 21000000], mixture: [all, sound]}
exclude: [{mixture: sound, n_images: 21000000}]
mixtures: {all: natural, sound: {ultrasound: 1}}
data:
  source: store
  path: nowhere
  image_size: 224
  channels: 3
  expected: {ultrasound: 200000, others: 20800000}
  tasks_from: {source: medmnist}
pretrain: {images_seen: 256000000, batch_size: 2048}
algorithms: {mae: {recipe: paper}, dinov2: {recipe: short}}
probe: {tasks: all, protocol: biovfm}
resources: {gpus: 8, accelerator: H100, cpus: 8}
"""
Priced = Callable[..., dict[str, Any]]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("SCALING_DATA_ROOT", raising=False)
    (tmp_path / "priced.yaml").write_text(f"{SWEEP}root: {tmp_path / 'state'}\n")
    return tmp_path / "priced.yaml"


@pytest.fixture
def priced(sweep: Path, capsys: pytest.CaptureFixture[str]) -> Priced:
    """Its plan as JSON, after the replacements given."""

    def plan(*replacements: tuple[str, str], code: int = 0) -> dict[str, Any]:
        text = sweep.read_text()
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        sweep.write_text(text)
        assert main(["plan", str(sweep), "--json"]) == code
        found: dict[str, Any] = json.loads(capsys.readouterr().out) if code == 0 else {}
        return found

    return plan


def test_what_is_done_and_what_runs_are_called_is_unknown(priced: Priced) -> None:
    plan = priced()
    assert plan["data_missing"]
    assert plan["totals"]["done"] is None
    assert plan["totals"]["runs"] == plan["totals"]["to_do"] == 12 + 2 + 1  # grid, random encoders, pixels
    assert {run["run"] for run in plan["runs"]} == {None}
    assert {run["state"] for run in plan["runs"]} == {"unknown"}
    assert len(plan["tasks"]) == 12


def test_the_flops_are_those_counted_by_hand(priced: Priced) -> None:
    flops = {(run["model"], run["algorithm"]): run["train_flops"] for run in priced()["runs"]}
    width, depth, tokens, seen = 1024, 24, 196, 256e6
    # 6 N D and the attention's products: 3 passes x 2 products x 2 FLOPs x T^2 d a block.
    encoder = 6 * 12 * depth * width**2 * (tokens // 4 + 1) + 12 * depth * (tokens // 4 + 1) ** 2 * width
    decoder = 6 * 12 * 8 * 512**2 * (tokens + 1) + 12 * 8 * (tokens + 1) ** 2 * 512
    # Projections of pixels, into the decoder and back are left out; masked patches share work in the decoder.
    assert flops["vit_l", "mae"] == pytest.approx(seen * (encoder + decoder), rel=0.05)
    local = 36  # patches of a crop of 96 pixels

    def blocks(patches: int) -> float:
        return 2 * 12 * depth * width**2 * (patches + 1) + 4 * depth * (patches + 1) ** 2 * width

    student, teacher = 3 * (2 * blocks(tokens) + 8 * blocks(local)), 2 * blocks(tokens)
    head = 2 * (width * 2048 + 2048**2 + 2048 * 256 + 256 * 65536)  # for a token
    masked = 2 * tokens * 0.5 * 0.3
    heads = (3 * (10 + masked) + (2 + masked)) * head
    assert flops["vit_l", "dinov2"] == pytest.approx(seen * (student + teacher + heads), rel=0.05)


def test_gpu_hours_are_flops_over_a_share_of_the_peak(priced: Priced) -> None:
    plan = priced()
    totals = plan["totals"]
    work = sum(run["train_flops"] + run["probe_flops"] for run in plan["runs"])
    assert totals["gpu_hours"] == pytest.approx(work / (0.3 * 989e12) / 3600)
    assert {run["seconds_basis"] for run in plan["runs"]} == {"assumed"}
    assert plan["nodes"][0]["accelerator"] == "H100"
    assert plan["nodes"][0]["gpus"] == 8
    # 708,069 images of the twelve sets through the frozen encoder, 2 N FLOPs a token and attention.
    (random,) = [run for run in plan["runs"] if run["algorithm"] == "random" and run["model"] == "vit_l"]
    assert random["probe_flops"] == pytest.approx(708_069 * 2 * 302.3e6 * 197 * 1.03, rel=0.02)


def test_another_gpu_is_another_price(priced: Priced) -> None:
    hours = priced()["totals"]["gpu_hours"]
    assert priced(("H100", "A100"))["totals"]["gpu_hours"] == pytest.approx(hours * 989 / 312)
    unknown = priced(("A100", "Abacus"))["totals"]
    assert (unknown["gpu_hours"], unknown["untimed"]) == (0, unknown["to_do"])


@pytest.mark.parametrize(
    ("gpu", "flops_per_image", "images", "gpu_hours"),
    [
        # mae@efb2a80:PRETRAIN.md: ViT-L/16, 800 epochs of ImageNet-1k, 42 hours on 64 V100
        ("V100", lambda shape: mae(shape, MaeOptions(decoder="paper")).flops_per_image, 800 * 1_281_167, 64 * 42),
        # dinov2@b8931f7:README.md: ViT-L/16 on ImageNet-1k, 125,000 steps of 2,048, a day on 32 A100
        ("A100", lambda shape: dinov2(shape, DinoV2Options(local_size=96)).flops_per_image, 125_000 * 2048, 32 * 24),
    ],
    ids=["MAE", "DINOv2"],
)
def test_published_runs_lie_within_the_stated_shares_of_the_peak(
    gpu: str, flops_per_image: Callable[[Shape], float], images: int, gpu_hours: float
) -> None:
    size = MODELS["vit_l"]
    shape = Shape(width=size.width, depth=size.depth, heads=size.heads, image_size=224, patch_size=16, channels=3)
    reached = flops_per_image(shape) * images / (gpu_hours * 3600 * ACCELERATORS[gpu].flops)
    assert REACHED_BETWEEN[0] <= reached <= REACHED_BETWEEN[1]


def test_the_summary_says_what_is_missing_and_what_to_do(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(sweep), "--data-root", str(sweep.parent)]) == 0
    text = capsys.readouterr().out
    for part in (
        "how many are done is unknown",
        "its data is not here, so this is a price from the YAML alone and `scaling run` refuses",
        "missing: ",
        "data.path: no folder ",
        "nowhere; `scaling data import` makes a store",
        f"`scaling data download medmnist --size 224 --to {sweep.parent}`",
        "pathmnist_224.npz  MD5 2c51a510bcdc9cf8ddb2af93af1eadec",
        "at 30% of H100's peak, a guess",
        "time ? at an assumed share of the GPU's peak",
    ):
        assert part in text


def test_a_run_without_its_data_is_refused(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(sweep), "--data-root", str(sweep.parent), "--launcher", "inline"]) == 2
    error = capsys.readouterr().err
    assert "2 problems, nothing was started" in error
    assert "12 of 12 files of MedMNIST are not in" in error
    assert not (sweep.parent / "state").exists()


def test_mixtures_that_the_expected_images_would_not_fill_are_refused(
    priced: Priced, capsys: pytest.CaptureFixture[str]
) -> None:
    priced(("ultrasound: 200000", "ultrasound: 150000"), code=2)
    error = capsys.readouterr().err
    assert "n_images 200,000: of the expected images ultrasound has 150,000 of the 200,000 images wanted" in error


def test_a_modality_that_is_not_expected_is_unknown(priced: Priced, capsys: pytest.CaptureFixture[str]) -> None:
    priced(("sound: {ultrasound: 1}", "sound: {ultrasond: 1}"), code=2)
    assert "unknown modality 'ultrasond'; did you mean 'ultrasound'?" in capsys.readouterr().err


def test_without_expected_images_there_is_a_price_all_the_same(priced: Priced) -> None:
    before = priced()["totals"]["train_flops"]
    assert priced(("  expected: {ultrasound: 200000, others: 20800000}\n", ""))["totals"]["train_flops"] == before


def test_mistakes_are_no_missing_data(priced: Priced, capsys: pytest.CaptureFixture[str]) -> None:
    priced(("tasks: all,", "tasks: [pathmist],"), code=2)
    assert "unknown task 'pathmist'; did you mean 'pathmnist'?" in capsys.readouterr().err


def test_medmnist_alone_is_priced_by_its_published_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SCALING_DATA_ROOT", raising=False)
    path = tmp_path / "a.yaml"
    text = "name: a\ngrid: {model: vit_atto, algorithm: [mae, supervised], n_images: N}\ndata: {source: medmnist}\n"
    text += f"pretrain: {{epochs: 1, batch_size: 8}}\nroot: {tmp_path / 'state'}\n"
    path.write_text(text.replace("N}", "518175}"))
    assert main(["plan", str(path), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    (taught,) = [run for run in plan["runs"] if run["algorithm"] == "supervised"]
    assert taught["n_params_total"] > taught["n_params"]  # heads for the tasks that the table knows
    path.write_text(text.replace("N}", "518176}"))
    assert main(["plan", str(path), "--json"]) == 2
    assert "this mixture is possible up to 518,175 images" in capsys.readouterr().err


def test_once_the_data_is_here_runs_have_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.yaml"
    text = "name: a\ngrid: {model: vit_atto, algorithm: mae, n_images: 16}\n"
    text += "data: {source: medmnist, sets: [octmnist]}\npretrain: {images_seen: 32, batch_size: 8}\n"
    path.write_text(f"{text}root: {tmp_path / 'state'}\n")
    command = ["plan", str(path), "--json", "--data-root", str(tmp_path / "data")]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["data_missing"]
    write_fakes(tmp_path / "data", ("octmnist",), monkeypatch)
    assert main(command) == 0
    plan = json.loads(capsys.readouterr().out)
    assert not plan["data_missing"]
    assert plan["totals"]["done"] == 0
    assert all(run["run"] and run["state"] == "waiting" for run in plan["runs"])


def test_shapes_are_measured_without_the_data_that_they_are_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    monkeypatch.delenv("SCALING_DATA_ROOT", raising=False)
    path = tmp_path / "a.yaml"
    text = "name: a\ngrid: {model: vit_atto, algorithm: mae, n_images: 100}\ndata: {source: medmnist}\nbaselines: []\n"
    path.write_text(f"{text}pretrain: {{images_seen: 200, batch_size: 8}}\nroot: {tmp_path / 'state'}\n")
    assert main(["calibrate", str(path), "--launcher", "inline"]) == 0
    capsys.readouterr()
    assert main(["plan", str(path), "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert (run["seconds_basis"], run["memory_basis"], run["state"]) == ("calibration", "measured", "unknown")
    assert run["seconds"] > 0
