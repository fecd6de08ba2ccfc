"""Parts of a batch and ranks of a run: the numbers of one process, whoever computes them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scaling import checkpoint
from scaling.attempt import Attempt
from scaling.config import load
from scaling.data.source import Images
from scaling.errors import RunFailed
from scaling.failures import EXIT_DONE, EXIT_STOPPED
from scaling.grid import RunSpec
from scaling.models.vit import DropPath
from scaling.options import LearningRate
from scaling.parallel import Draws, Member, Part
from scaling.plan import make_plan, source_of
from scaling.rundir import RunDir, write_json
from scaling.train import Trained, pretrain
from scaling.worker import attempt
from tests.scaling.tiny import tiny_spec

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
BATCH_NORMED = ("simclr", "mocov3")
"""In bf16 little is left of what differs between eight noise images, and batch norm blows it up: steps go apart."""
OPTIONS = {
    "mae": "{lr: {base: 1.0e-3, rule: constant}}",
    "supervised": "{lr: {base: 1.0e-3, rule: constant}}",
    "dinov2": "{prototypes: 16, head_hidden: 16, head_bottleneck: 8, n_local: 1, lr: {base: 1.0e-3, rule: constant}}",
    "simclr": "{projector_hidden: 16, projector_width: 8, lr: {base: 1.0e-4, rule: constant}}",
    "mocov3": "{head_hidden: 16, head_width: 8, lr: {base: 1.0e-4, rule: constant}}",
    "ijepa": "{lr: {base: 1.0e-3, rule: constant}}",
    "lejepa": "{projector_hidden: 16, projector_width: 8, n_slices: 9, n_local: 1, lr: {base: 1.0e-5, rule: constant}}",
}
SWEEP = """\
name: shared
question: Do processes share a run?
grid: {model: [vit_atto], algorithm: [ALGORITHM], n_images: [48], mixture: [all], seed: [0]}
baselines: []
data: {source: phantoms, image_size: 32, n_train: 32, n_val: 32, n_test: 32}
encoder: {patch_size: 8}
pretrain: {images_seen: 150, batch_size: 15, precision: fp32, checkpoint_minutes: 60}
algorithms: {ALGORITHM: OPTIONS}
probe: {tasks: [TASK], bootstrap: 20, linear: {n_c: 2}}
"""
N_STEPS = 10


pytestmark = pytest.mark.usefixtures("one_thread")


# --- parts and draws --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "count"), [(8, 2), (15, 4), (7, 7), (5, 1)])
def test_parts_cover_the_batch_once_and_differ_by_at_most_one_image(n: int, count: int) -> None:
    parts = [Part.of(n, i, count) for i in range(count)]
    rows = torch.arange(2 * n)  # two groups of the batch, as two crops of each image
    both = torch.cat([part.rows(rows).unflatten(0, (2, -1)) for part in parts], dim=1)
    assert torch.equal(both.flatten(), rows)
    sizes = {part.stop - part.start for part in parts}
    assert max(sizes) - min(sizes) <= 1
    assert sum(part.share for part in parts) == pytest.approx(1)


def test_a_part_draws_what_it_would_have_had_in_the_whole_batch() -> None:
    def draws(part: Part | None) -> list[Tensor]:
        of = Draws(torch.Generator().manual_seed(3), part)
        n = 7 if part is None else part.stop - part.start
        return [of.uniform((n, 2)), of.uniform((3 * n,), 1.0, 2.0), of.of_all((4,))]

    whole = draws(None)
    for i in range(3):
        part = Part.of(7, i, 3)
        first, second, third = draws(part)
        assert torch.equal(first, part.rows(whole[0]))
        assert torch.equal(second, part.rows(whole[1]))
        assert torch.equal(third, whole[2])


def test_drop_path_drops_the_same_images_in_a_part_as_in_the_whole() -> None:
    module, tokens = DropPath(0.5).train(), torch.ones(14, 3, 2)

    def dropped(part: Part | None) -> Tensor:
        module.part = part
        torch.manual_seed(5)
        out: Tensor = module(tokens if part is None else part.rows(tokens))
        return out

    whole = dropped(None)
    assert set(whole.flatten().tolist()) == {0.0, 2.0}
    for i in range(3):
        part = Part.of(7, i, 3)
        assert torch.equal(dropped(part), part.rows(whole))


def test_without_torchruns_environment_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert Member.from_environment() == Member(rank=0, size=1, local_rank=0, local_size=1)


# --- micro-batches ----------------------------------------------------------------------------------------------


def close(losses: Any, expected: Any, precision: float = 1e-5) -> None:
    """Losses agree to rounding.

    fp32 sums of some thousand terms in another order differ by 1e-7 to 1e-6 of their size. AdamW hands that on to the
    weights at its own scale: one whose gradient is nothing but rounding moves by up to a learning rate, 1e-3, either
    way, but those have no part in the loss; the others move by 1e-6 of it. Over ten steps that stays below 1e-5 of
    the loss, where images weighted wrongly would change it by 1e-2.
    """
    np.testing.assert_allclose(losses, expected, rtol=precision)


def same_weights(mine: dict[str, Tensor] | None, theirs: dict[str, Tensor] | None) -> None:
    """As in `close`: ten steps of 1e-6 of the learning rate, 1e-3, but for weights whose gradient is rounding, such as
    the biases of attention's keys, 0.3 % of all."""
    assert mine is not None
    assert theirs is not None
    assert mine.keys() == theirs.keys()
    apart = torch.cat([(mine[name] - weights).abs().flatten() for name, weights in theirs.items()]).sort().values
    assert apart[-1] < 2e-3
    assert apart[int(0.99 * len(apart))] < 1e-6


def trained(folder: Path, spec: RunSpec, images: Images, n_micro: int) -> tuple[Trained, list[dict[str, float]]]:
    """The run and the loss and terms of its steps."""
    run_dir = RunDir(folder / f"{spec.algorithm}{n_micro}")
    run_dir.lease("mine")
    done = pretrain(spec, images, Attempt(run_dir.path, "mine"), device=CPU, checkpoint_minutes=60.0, n_micro=n_micro)
    names = {"loss", "dino", "ibot", "koleo", "teacher_entropy", "sigreg", "prediction"}
    return done, [{name: line[name] for name in names & line.keys()} for line in run_dir.metrics()]


IN_PARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mae": ("mae", {}),
    "mae with drop path": ("mae", {"drop_path": 0.2}),
    "dinov2": ("dinov2", {}),
    "dinov2 without koleo": ("dinov2", {"koleo_weight": 0.0}),
    "dinov2 with much koleo and drop path": ("dinov2", {"koleo_weight": 1.0, "drop_path": 0.2}),
    "dinov2 with sinkhorn and drop path": ("dinov2", {"centering": "sinkhorn", "drop_path": 0.2}),
    "dino with sinkhorn": ("dino", {"centering": "sinkhorn"}),
    "ibot with a head for patches": ("ibot", {"ibot_head": {"prototypes": 24, "hidden": 12, "bottleneck": 4}}),
    "simclr": ("simclr", {}),
    "mocov3 with drop path": ("mocov3", {"drop_path": 0.2}),
    "ijepa with drop path": ("ijepa", {"drop_path": 0.2}),
    "lejepa with drop path": ("lejepa", {"drop_path": 0.2}),
}


@pytest.mark.parametrize("case", IN_PARTS)
def test_micro_batches_give_the_losses_and_the_weights_of_the_whole_batch(case: str, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 16, 16), dtype=np.uint8)
    algorithm, options = IN_PARTS[case]
    spec = small_spec(algorithm, **options)
    whole, expected = trained(tmp_path, spec, images, 1)
    for n_micro in (2, 3, 100):  # of 8 images: even parts, uneven ones, one image each
        parted, steps = trained(tmp_path, spec, images, n_micro)
        assert len(steps) == N_STEPS
        for step, its in zip(steps, expected, strict=True):
            assert step.keys() == its.keys()
            close(list(step.values()), [its[name] for name in step])
        assert parted.train_loss == pytest.approx(whole.train_loss, rel=1e-5)
        same_weights(parted.module.state_dict(), whole.module.state_dict())


@pytest.mark.slow  # one step of each in bf16 is among the contract tests
@pytest.mark.parametrize("case", [case for case, (algorithm, _) in IN_PARTS.items() if algorithm not in BATCH_NORMED])
def test_micro_batches_in_bf16_give_the_losses_of_the_whole_batch_but_for_its_rounding(
    case: str, tmp_path: Path
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 16, 16), dtype=np.uint8)
    algorithm, options = IN_PARTS[case]
    spec = small_spec(algorithm, **options).model_copy(update={"precision": "bf16"})
    _, expected = trained(tmp_path, spec, images, 1)
    _, steps = trained(tmp_path, spec, images, 3)
    # Gradients are rounded by 2^-9 layer by layer, by 2^-7 in all. AdamW moves a weight by about the learning rate
    # whatever its gradient's size: the 2^-7 of them that are nearer to zero than that may go either way. Ten steps
    # change the loss by less than itself, so that such weights change it by less than 2 x 2^-7 of itself. KoLeo or
    # Sinkhorn of each micro-batch alone would change it by 2^-4.3 and more.
    # LeJEPA's batch norm of eight images takes away most of what they are: bf16 is 5 % off fp32 after a step or two,
    # and parts from the whole likewise; those that knew nothing of each other would be off by 25 to 55 %.
    precision = 2**-3 if algorithm == "lejepa" else 2**-6
    close([step["loss"] for step in steps], [its["loss"] for its in expected], precision)


def small_spec(algorithm: str, **options: Any) -> RunSpec:
    # Cosines over a temperature of 0.1 and batch norms of eight rows make ten times more of a weight's rounding.
    peak = LearningRate(base=1e-4 if algorithm in BATCH_NORMED else 1e-3, rule="constant")
    return tiny_spec(algorithm, images_seen=8 * N_STEPS, lr=peak, **options)


# --- ranks ------------------------------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., RunDir]:
    """A run of an algorithm in a folder of its own, with its job and a lease of token `mine`."""

    def make(name: str, algorithm: str, *replacements: tuple[str, str], **changed: Any) -> RunDir:
        text = SWEEP.replace("ALGORITHM", algorithm).replace("OPTIONS", OPTIONS[algorithm])
        for old, new in (("TASK", TASK), *replacements):
            assert old in text
            text = text.replace(old, new, 1)
        path = tmp_path / f"{name}.yaml"
        path.write_text(text + f"root: {tmp_path / name}\n")
        sweep, document = load(path)
        plan = make_plan(sweep, document, source_of(sweep.data))
        run = plan.runs[0]
        run.dir.path.mkdir(parents=True)
        job = plan.job(run).model_copy(update={"use_gpu": False, **changed})
        write_json(run.dir.path / "job.json", job.model_dump(mode="json"))
        run.dir.lease("mine")
        return run.dir

    return make


TASK = "ct_lesion"


def torchrun(run_dir: RunDir, n_ranks: int = 2, token: str = "mine") -> subprocess.Popen[bytes]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_ranks}"]
    with open(run_dir.path / "log.txt", "ab") as log:
        command = [*launcher, "-m", "scaling.worker", str(run_dir.path), token]
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def losses(run_dir: RunDir) -> list[float]:
    return [line["loss"] for line in run_dir.metrics()]


SINKHORN = "centering: sinkhorn, koleo_weight: 1, drop_path: 0.2, "


@pytest.mark.parametrize(
    ("algorithm", "options", "n_micro"),
    [
        pytest.param("mae", "", 1, id="mae"),
        pytest.param("supervised", "", 2, id="supervised in two parts", marks=pytest.mark.slow),
        pytest.param("dinov2", "", 1, id="dinov2", marks=pytest.mark.slow),
        pytest.param("dinov2", "", 2, id="dinov2 in two parts", marks=pytest.mark.slow),
        pytest.param("dinov2", SINKHORN, 1, id="dinov2 with sinkhorn", marks=pytest.mark.slow),
        pytest.param("dinov2", SINKHORN, 2, id="dinov2 with sinkhorn in two parts", marks=pytest.mark.slow),
        pytest.param("simclr", "", 1, id="simclr", marks=pytest.mark.slow),
        pytest.param("simclr", "", 2, id="simclr in two parts", marks=pytest.mark.slow),
        pytest.param("mocov3", "", 1, id="mocov3", marks=pytest.mark.slow),
        pytest.param("mocov3", "", 2, id="mocov3 in two parts", marks=pytest.mark.slow),
        pytest.param("ijepa", "", 1, id="ijepa", marks=pytest.mark.slow),
        pytest.param("lejepa", "", 1, id="lejepa", marks=pytest.mark.slow),
        pytest.param("lejepa", "", 2, id="lejepa in two parts", marks=pytest.mark.slow),
    ],
)
def test_two_ranks_have_the_loss_curve_and_the_encoder_of_one_process(
    algorithm: str, options: str, n_micro: int, made: Callable[..., RunDir]
) -> None:
    # 15 images a step, so that the ranks' parts are uneven; DINOv2 with all its terms, KoLeo across ranks too.
    more = [("{prototypes", f"{{{options}prototypes")] if options else []
    one, two = made("one", algorithm, *more), made("two", algorithm, *more, n_micro=n_micro)
    assert attempt(one.path, "mine") == EXIT_DONE
    assert torchrun(two).wait(180) == EXIT_DONE, two.log_tail()
    assert [line["step"] for line in two.metrics()] == list(range(1, N_STEPS + 1))
    # Batch norm and SIGReg of fifteen images, some of them nearly black crops, make more of rounding.
    close(losses(two), losses(one), 1e-3 if algorithm == "lejepa" else 1e-5)
    same_weights(*(checkpoint.load(run.path / "encoder.pt", CPU) for run in (two, one)))
    records = two.record(), one.record()
    assert records[0] is not None
    assert records[1] is not None
    assert records[0].train_loss == pytest.approx(records[1].train_loss, rel=1e-3 if algorithm == "lejepa" else 1e-5)
    assert len(list((two.path / "probes").glob("*.json"))) == 1
    assert two.failure() is None


def test_a_run_goes_on_with_another_number_of_ranks_and_micro_batches(made: Callable[..., RunDir]) -> None:
    one, mixed = made("one", "mae"), made("mixed", "mae", n_micro=2)
    assert attempt(one.path, "mine") == EXIT_DONE
    stop = Attempt(mixed.path, "mine")

    def on_step(step: int) -> None:
        if step == 4:
            stop.run_dir.ask_to_stop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scaling.attempt.EVERY", 0.0)
        assert attempt(mixed.path, "mine", on_step) == EXIT_STOPPED
    mixed.lease("again")
    assert torchrun(mixed, token="again").wait(180) == EXIT_DONE, mixed.log_tail()
    assert [line["step"] for line in mixed.metrics()] == list(range(1, N_STEPS + 1))
    close(losses(mixed), losses(one))


LONG = ("images_seen: 150", "images_seen: 45000")


def children(pid: int) -> list[int]:
    """Of a process and all its threads."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in path.read_text().split()]
    return found


def wait_until_trained(run_dir: RunDir, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 180
    while (run_dir.last_metrics() or {}).get("step", 0) == 0:
        assert process.poll() is None, run_dir.log_tail()
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.slow
def test_when_a_rank_is_killed_the_others_and_the_attempt_end(made: Callable[..., RunDir]) -> None:
    if sys.platform != "linux":
        pytest.skip("finds its ranks in /proc")
    run_dir = made("run", "mae", LONG)
    process = torchrun(run_dir)
    try:
        wait_until_trained(run_dir, process)
        beat = run_dir.last_beat()
        assert beat is not None
        ranks = children(process.pid)
        assert beat.pid in ranks  # the first one writes
        (other,) = [pid for pid in ranks if pid != beat.pid]
        os.kill(other, signal.SIGKILL)
        assert process.wait(60) not in (0, None)
        assert not beat.process_lives()
    finally:
        process.kill()
        process.wait()
    assert run_dir.record() is None
    assert run_dir.failure() is None  # the first rank only lost its peer: whoever watches knows of the signal
    assert "another rank of the run is gone" in (run_dir.path / "log.txt").read_text()


def test_ranks_asked_to_stop_agree_on_the_step_and_save_it(made: Callable[..., RunDir]) -> None:
    run_dir = made("run", "mae", LONG)
    process = torchrun(run_dir)
    try:
        wait_until_trained(run_dir, process)
        run_dir.ask_to_stop()
        assert process.wait(60) not in (0, None)  # torchrun's own word for a rank that ended with 75
    finally:
        process.kill()
        process.wait()
    state = checkpoint.load(run_dir.path / "checkpoint.pt", CPU)
    assert state is not None
    log = (run_dir.path / "log.txt").read_text()
    assert log.count(f"asked to stop; saved at step {state['n_done']} of") == 2
    assert run_dir.failure() is None
    assert "exitcode  : 75" in log


@pytest.mark.slow
def test_the_failure_of_any_rank_is_the_failure_of_the_run(made: Callable[..., RunDir], tmp_path: Path) -> None:
    run_dir = made("run", "mae", LONG)
    (tmp_path / "site").mkdir()
    program = (
        "import os\n"
        "if os.environ.get('RANK') == '1':\n"
        "    from scaling.algorithms.mae import MAE\n"
        "    import torch\n"
        "    def fail(*args, **kwargs): raise torch.OutOfMemoryError('CUDA out of memory')\n"
        "    MAE.loss = fail\n"
    )
    (tmp_path / "site" / "faulty.py").write_text(program + "from scaling.worker import main\nmain()\n")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}"}
    with open(run_dir.path / "log.txt", "ab") as log:
        command = [*launcher, "-m", "faulty", str(run_dir.path), "mine"]
        code = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, env=environment, timeout=180).returncode
    assert code != 0
    failure = run_dir.failure()
    assert failure is not None
    assert (failure["kind"], failure["error"]) == ("gpu_oom", "OutOfMemoryError: CUDA out of memory")
    assert "in fail" in (run_dir.path / "log.txt").read_text()  # its traceback


def test_more_ranks_than_images_in_a_step_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    images = np.zeros((20, 1, 16, 16), np.uint8)
    monkeypatch.setattr("scaling.parallel.n_ranks", lambda: 9)
    with pytest.raises(RunFailed, match="a batch of 8 cannot be shared by 9 processes"):
        trained(tmp_path, small_spec("mae"), images, 1)
