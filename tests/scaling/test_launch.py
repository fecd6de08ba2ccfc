"""The contract of launchers over all of the catalog, and what each promises beyond it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scaling.catalog import LAUNCHERS
from scaling.config import load
from scaling.failures import EXIT_FAILED, EXIT_FENCED, EXIT_STOPPED
from scaling.launch import machine
from scaling.launch.launcher import Ended, Launcher, LaunchOptions, Order, Resources
from scaling.launch.local import Devices, LocalLauncher
from scaling.launch.warm import installed, run_environment
from scaling.plan import make_plan, source_of
from scaling.rundir import RunDir, write_json

PATIENCE = 120.0
"""Seconds until a test gives up; never measured against."""

WORKER = '''
"""Does what its job says, without torch."""
import json, os, signal, sys, time
from pathlib import Path

def attempt_logged(path, token):
    return act(path, token, calibrate=False)

def calibrate(path, token):
    return act(path, token, calibrate=True)

def main():
    """As a rank."""
    path, token, rank = Path(sys.argv[1]), sys.argv[2], os.environ["RANK"]
    job = json.loads((path / "job.json").read_text())["ranks"][rank]
    (path / f"rank{rank}").write_text(f"{os.getpid()} {os.environ['WORLD_SIZE']} {token}")
    print(f"rank {rank} speaks")
    if job < 0:
        os.kill(os.getpid(), -job)
    time.sleep(600 if job == 99 else 0)
    sys.exit(job)

def act(path, token, *, calibrate):
    job = json.loads((Path(path) / "job.json").read_text())
    seen = {"pid": os.getpid(), "slot": os.getppid(), "calibrate": calibrate, "mark": MARK, "env": dict(os.environ)}
    seen["name"] = Path("/proc/self/comm").read_text().strip()
    draft = Path(path) / ".seen"
    draft.write_text(json.dumps(seen))
    draft.rename(Path(path) / "seen.json")
    print("said to the log")
    if "raise" in job:
        raise SystemExit(job["raise"])
    if "signal" in job:
        os.kill(os.getpid(), job["signal"])
    held = b"x" * job.get("hold", 0)
    if "sleep" in job:
        time.sleep(job["sleep"])
    return job.get("code", 0)

MARK = "first"
'''


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A code folder whose worker does what its job says: what is tested is who starts it, not what it computes."""
    return fake_code(tmp_path_factory.mktemp("code"))


def fake_code(folder: Path) -> Path:
    package = folder / "scaling"
    shutil.copytree(installed() / "scaling", package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "worker.py").write_text(WORKER)
    (package / "catalog.py").write_text("ALGORITHMS = PROBES = SOURCES = {}\n")
    return folder


Make = Callable[..., Order]


@pytest.fixture
def order(tmp_path: Path, code: Path) -> Make:
    """Writes a job and orders it."""

    def make(name: str, /, job: dict[str, Any] | None = None, **changes: Any) -> Order:
        path = tmp_path / "runs" / name
        path.mkdir(parents=True, exist_ok=True)
        RunDir(path).lease(f"{name}-token")
        (path / "job.json").write_text(json.dumps(job or {}))
        values = {"path": path, "token": f"{name}-token", "resources": Resources(), "node": "", "code": code}
        return Order(**{**values, **changes})

    return make


def collect(launcher: Launcher, n: int = 1) -> dict[str, Ended]:
    """The next `n` that end, by run."""
    found: dict[str, Ended] = {}
    until = time.monotonic() + PATIENCE
    while len(found) < n and time.monotonic() < until:
        found |= {ended.path.name: ended for ended in launcher.wait(1.0)}
    assert len(found) == n, f"only {sorted(found)} of {n} ended"
    return found


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def seen(order: Order) -> dict[str, Any]:
    """What the run's process wrote down of itself."""
    path = order.path / "seen.json"
    until(path.exists)
    return json.loads(path.read_text())


def lives(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.fixture(scope="module", params=[pytest.param("ray", marks=pytest.mark.ray), "local"])
def launcher(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """Every launcher that starts processes; shared, because no run may leave a trace on the next."""
    made: Launcher = LAUNCHERS[request.param].load()(LaunchOptions(root=tmp_path_factory.mktemp("root")))
    yield made
    made.close()


@pytest.fixture
def submit(launcher: Launcher, order: Make) -> Make:
    node = launcher.nodes()[0].name

    def do(name: str, /, job: dict[str, Any] | None = None, **changes: Any) -> Order:
        made = order(name, job, **{"node": node, **changes})
        launcher.submit(made)
        return made

    return do


# --- what every launcher with processes promises --------------------------------------------------------------------


def test_a_node_has_a_name_a_host_and_cpus(launcher: Launcher) -> None:
    (node,) = launcher.nodes()
    assert node.name
    assert node.host
    assert node.cpus >= 1
    assert node.memory > 2**28


@pytest.mark.parametrize("status", [0, 1, 75, 76])
def test_the_exit_code_of_a_run_comes_out(launcher: Launcher, submit: Make, status: int) -> None:
    made = submit("one", {"code": status})
    ended = collect(launcher)["one"]
    assert (ended.path, ended.token, ended.code) == (made.path, made.token, status)
    assert "said to the log" in (made.path / "log.txt").read_text()


def test_what_ends_a_run_unheard_of_is_in_its_log(launcher: Launcher, submit: Make) -> None:
    made = submit("one", {"raise": "goodbye"})
    assert collect(launcher)["one"].code == EXIT_FAILED
    assert "goodbye" in (made.path / "log.txt").read_text()


@pytest.mark.parametrize("killer", [signal.SIGKILL, signal.SIGSEGV])
def test_a_run_that_dies_of_a_signal_loses_no_other(launcher: Launcher, submit: Make, killer: int) -> None:
    submit("dies", {"signal": killer})
    ended = collect(launcher)["dies"]
    assert ended.code == -killer
    assert not ended.oom_killed
    submit("lives")
    assert collect(launcher)["lives"].code == 0


def test_a_killed_run_comes_out_and_its_process_is_gone(launcher: Launcher, submit: Make) -> None:
    made = submit("sleeps", {"sleep": 600})
    pid = seen(made)["pid"]
    launcher.kill(made.path)
    assert collect(launcher)["sleeps"].code == -signal.SIGKILL
    until(lambda: not lives(pid))
    submit("after")
    assert collect(launcher)["after"].code == 0


def test_killing_what_does_not_run_does_nothing(launcher: Launcher, tmp_path: Path) -> None:
    launcher.kill(tmp_path / "nowhere")
    assert launcher.wait(0.05) == []


def test_runs_side_by_side_end_in_their_own_time(launcher: Launcher, submit: Make) -> None:
    if launcher.nodes()[0].cpus < 2:
        pytest.skip("this machine has one CPU")
    slow, quick = submit("slow", {"sleep": 600}), submit("quick")
    assert set(collect(launcher)) == {"quick"}
    launcher.kill(slow.path)
    assert set(collect(launcher)) == {"slow"}
    assert seen(slow)["pid"] != seen(quick)["pid"]


def test_a_run_sees_its_threads_and_no_gpu_it_was_not_given(launcher: Launcher, submit: Make) -> None:
    made = submit("one")
    collect(launcher)
    assert seen(made)["name"] == "run one"
    assert seen(made)["env"]["OMP_NUM_THREADS"] == "1"
    assert seen(made)["env"]["CUDA_VISIBLE_DEVICES"] == ""


def test_a_run_takes_the_code_it_was_ordered_with(launcher: Launcher, submit: Make, tmp_path: Path) -> None:
    other = fake_code(tmp_path / "other")
    worker = other / "scaling" / "worker.py"
    worker.write_text(worker.read_text().replace('MARK = "first"', 'MARK = "second"'))
    first, second = submit("first"), submit("second", code=other)
    collect(launcher, 2)
    assert (seen(first)["mark"], seen(second)["mark"]) == ("first", "second")


def test_a_slot_that_cannot_load_fails_its_runs_with_the_reason(
    launcher: Launcher, submit: Make, tmp_path: Path
) -> None:
    broken = fake_code(tmp_path / "broken")
    (broken / "scaling" / "worker.py").write_text("raise ImportError('no such thing')\n")
    submit("one", code=broken)
    ended = collect(launcher)["one"]
    assert ended.code == 1
    assert "ImportError: no such thing" in ended.detail
    submit("two")
    assert collect(launcher)["two"].code == 0


# --- several ranks --------------------------------------------------------------------------------------------------


def test_ranks_are_processes_that_share_a_run_and_its_log(launcher: Launcher, submit: Make) -> None:
    made = submit("one", {"ranks": {"0": 0, "1": 0}}, n_ranks=2)
    assert collect(launcher)["one"].code == 0
    found = [(made.path / f"rank{rank}").read_text().split() for rank in (0, 1)]
    assert found[0][0] != found[1][0]
    assert [words[1:] for words in found] == [["2", "one-token"]] * 2
    log = (made.path / "log.txt").read_text()
    assert "rank 0 speaks" in log
    assert "rank 1 speaks" in log


@pytest.mark.parametrize(
    ("ranks", "status"),
    [({"0": 0, "1": 75}, 75), ({"0": 99, "1": -signal.SIGKILL}, -signal.SIGKILL)],
    ids=["stopped", "killed"],
)
def test_a_run_ends_as_its_ranks_do(local: LocalLauncher, order: Make, ranks: dict[str, int], status: int) -> None:
    local.submit(order("one", {"ranks": ranks}, n_ranks=2))
    assert collect(local)["one"].code == status


def test_a_killed_run_loses_all_its_ranks(local: LocalLauncher, order: Make) -> None:
    made = order("one", {"ranks": {"0": 99, "1": 99}}, n_ranks=2)
    local.submit(made)
    files = [made.path / f"rank{rank}" for rank in (0, 1)]
    until(lambda: all(file.exists() and file.read_text() for file in files))
    local.kill(made.path)
    assert collect(local)["one"].code == -signal.SIGKILL
    until(lambda: not any(lives(int(file.read_text().split()[0])) for file in files))


@pytest.mark.parametrize(
    ("codes", "joint"),
    [
        ([1, 76], 76),
        ([1, 75], 75),
        ([1, 74], 74),
        ([75, 76], 76),
        ([1, -9], -9),
        ([76, -11], -11),
        ([1, 1], 1),
        ([3], 1),
    ],
)
def test_the_code_that_says_most_speaks_for_all_ranks(codes: list[int], joint: int) -> None:
    from scaling.launch.ranks import joint_code

    assert joint_code(codes) == joint


# --- the real worker ------------------------------------------------------------------------------------------------


def test_the_real_worker_fails_its_own_run_alone(launcher: Launcher, submit: Make) -> None:
    orders = [submit(run, {"no": "job"}, code=None) for run in ("a", "b")]
    ended = collect(launcher, 2)
    assert [ended[run].code for run in ("a", "b")] == [EXIT_FAILED] * 2
    assert all("ValidationError" in (each.path / "log.txt").read_text() for each in orders)
    if isinstance(launcher, LocalLauncher):
        slot = launcher._slots[None].pid
        assert len(list(Path(f"/proc/{slot}/task").iterdir())) == 1, (
            "a thread that torch started would not survive a fork"
        )


def test_the_real_worker_is_fenced_by_a_later_attempt(launcher: Launcher, submit: Make) -> None:
    made = submit("one", {"no": "job"}, code=None, token="old")
    assert collect(launcher)["one"].code == EXIT_FENCED
    assert not (made.path / "failed.json").exists()


SWEEP = """\
name: one
question: Do the ranks agree?
grid: {model: [vit_atto], algorithm: [mae], n_images: [32], mixture: [all], seed: [0]}
baselines: []
data: {source: phantoms, image_size: 32, n_train: 32, n_val: 32, n_test: 32}
encoder: {patch_size: 8}
pretrain: {images_seen: 64000, batch_size: 16, precision: fp32}
probe: {bootstrap: 20, linear: {n_c: 2}}
"""


@pytest.mark.slow
def test_real_ranks_train_stop_and_go_on(local: LocalLauncher, sweep_file: Callable[..., Path]) -> None:
    sweep, document = load(sweep_file(text=SWEEP))
    plan = make_plan(sweep, document, source_of(sweep.data))
    run = plan.runs[0].dir
    run.path.mkdir(parents=True)
    job = plan.job(plan.runs[0])
    write_json(run.path / "job.json", job.model_dump(mode="json"))
    made = Order(path=run.path, token="first", resources=Resources(), node="local", n_ranks=2)
    run.lease("first")
    local.submit(made)
    until(lambda: run.last_metrics() is not None)
    run.ask_to_stop()
    assert collect(local)[run.run].code == EXIT_STOPPED
    assert (run.path / "checkpoint.pt").exists()
    last = run.last_metrics()

    run.lease("second")
    local.submit(replace(made, token="second"))
    until(lambda: run.last_metrics() != last)
    run.lease("third")  # as a new driver would
    assert collect(local)[run.run].code == EXIT_FENCED
    beat = run.last_beat()
    assert beat is not None
    until(lambda: not lives(beat.pid))


def test_an_order_to_calibrate_is_one(launcher: Launcher, submit: Make) -> None:
    made = [submit("measured", calibrate=True), submit("run")]
    collect(launcher, 2)
    assert [seen(each)["calibrate"] for each in made] == [True, False]


def test_inline_fails_its_runs_one_by_one(tmp_path: Path, order: Make) -> None:
    assert set(LAUNCHERS) == {"ray", "local", "inline"}, "a new launcher is to be tested here"
    launcher: Launcher = LAUNCHERS["inline"].load()(LaunchOptions(root=tmp_path))
    assert [node.runs for node in launcher.nodes()] == [1]
    for run in ("a", "b"):
        launcher.submit(order(run, {"no": "job"}))
    assert [collect(launcher)[run].code for run in ("a", "b")] == [EXIT_FAILED] * 2
    assert launcher.wait(0.01) == []
    launcher.close()


def test_inline_refuses_what_it_has_not_got(tmp_path: Path, order: Make) -> None:
    launcher = LAUNCHERS["inline"].load()(LaunchOptions(root=tmp_path))
    launcher.submit(order("ranks", n_ranks=2))
    launcher.submit(order("waits"))
    launcher.kill(tmp_path / "runs" / "waits")
    ended = collect(launcher, 2)
    assert "wants 2" in ended["ranks"].detail
    assert ended["waits"].code == -signal.SIGKILL


# --- the local launcher ---------------------------------------------------------------------------------------------


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalLauncher]:
    made = LocalLauncher(LaunchOptions(root=tmp_path))
    yield made
    made.close()


def test_runs_share_one_slot_and_the_slot_has_one_thread(local: LocalLauncher, order: Make) -> None:
    made = [order(name, {"sleep": 600}) for name in "ab"]
    for each in made:
        local.submit(each)
    slots = {seen(each)["slot"] for each in made}
    assert len(slots) == 1
    assert len(list(Path(f"/proc/{slots.pop()}/task").iterdir())) == 1


def test_a_dead_slot_takes_its_runs_with_it_and_the_next_order_starts_another(
    local: LocalLauncher, order: Make
) -> None:
    made = order("one", {"sleep": 600})
    local.submit(made)
    processes = seen(made)
    os.kill(processes["slot"], signal.SIGKILL)
    ended = collect(local)["one"]
    assert ended.code == -signal.SIGKILL
    assert "the process that starts runs ended" in ended.detail
    until(lambda: not lives(processes["pid"]))
    local.submit(order("two"))
    assert collect(local)["two"].code == 0


def test_what_a_run_leaves_behind_is_ended_with_it(local: LocalLauncher, order: Make, tmp_path: Path) -> None:
    made = order("parent", {"sleep": 0})
    text = WORKER.replace('print("said to the log")', "import subprocess; child = subprocess.Popen(['sleep', '600']); "
                          "(Path(path) / 'child').write_text(str(child.pid))")  # fmt: skip
    other = fake_code(tmp_path / "other")
    (other / "scaling" / "worker.py").write_text(text)
    local.submit(replace(made, code=other))
    collect(local)
    until(lambda: not lives(int((made.path / "child").read_text())))


def test_a_run_killed_before_its_slot_is_ready_never_begins(local: LocalLauncher, order: Make) -> None:
    made = order("one", {"sleep": 600})
    local.submit(made)
    local.kill(made.path)
    assert collect(local)["one"].code == -signal.SIGKILL
    assert not (made.path / "seen.json").exists()


DRIVER = """
import sys
from pathlib import Path
from scaling.launch.launcher import LaunchOptions, Order, Resources
from scaling.launch.local import LocalLauncher
path, code = Path(sys.argv[1]), Path(sys.argv[2])
launcher = LocalLauncher(LaunchOptions(root=path.parent, code=code))
launcher.submit(Order(path=path, token="t", resources=Resources(), node="local", code=code))
launcher.wait(600)
"""


def test_all_processes_are_gone_when_the_driver_is_killed(order: Make, code: Path) -> None:
    made = order("one", {"sleep": 600})
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(made.path), str(code)], cwd=installed())
    processes = seen(made)
    driver.kill()
    driver.wait()
    until(lambda: not lives(processes["slot"]) and not lives(processes["pid"]))


def test_close_ends_what_runs(order: Make, tmp_path: Path) -> None:
    launcher = LocalLauncher(LaunchOptions(root=tmp_path))
    made = order("one", {"sleep": 600})
    launcher.submit(made)
    processes = seen(made)
    launcher.close()
    assert not lives(processes["slot"])
    until(lambda: not lives(processes["pid"]))


BOXED = """
import sys
from pathlib import Path
Path(sys.argv[3], "cgroup.procs").write_text("0")
from scaling.launch.launcher import LaunchOptions, Order, Resources
from scaling.launch.local import LocalLauncher
path, code = Path(sys.argv[1]), Path(sys.argv[2])
launcher = LocalLauncher(LaunchOptions(root=path.parent, code=code))
for name in ("greedy", "modest"):
    launcher.submit(Order(path=path / name, token=f"{name}-token", resources=Resources(), node="local", code=code))
ended = {}
while len(ended) < 2:
    ended |= {one.path.name: (one.code, one.oom_killed) for one in launcher.wait(60)}
print(dict(sorted(ended.items())))
"""


@pytest.fixture
def box() -> Iterator[Path]:
    """A control group with 256 MiB of memory."""
    one, two = machine.CGROUPS / "memory", machine.CGROUPS
    limit = "memory.limit_in_bytes" if one.is_dir() else "memory.max"
    folder = (one if one.is_dir() else two) / f"test-launch-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / limit).write_text(str(2**28))
    except OSError as error:
        with suppress(OSError):
            folder.rmdir()
        pytest.skip(f"this user may not make a control group: {error}")
    yield folder
    folder.rmdir()


def test_a_run_the_kernel_kills_for_memory_says_so_and_the_slot_survives(order: Make, code: Path, box: Path) -> None:
    greedy = order("greedy", {"hold": 2**29, "sleep": 600})
    order("modest", {"sleep": 2})
    arguments = [str(greedy.path.parent), str(code), str(box)]
    done = subprocess.run(
        [sys.executable, "-c", BOXED, *arguments], cwd=installed(), capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.stdout.strip() == str({"greedy": (-signal.SIGKILL, True), "modest": (0, False)}), done.stderr


# --- GPUs -----------------------------------------------------------------------------------------------------------


def test_shares_fill_one_gpu_before_the_next_and_never_lie_across_two() -> None:
    devices = Devices(["a", "b"])
    assert [devices.take(str(i), 1 / 3) for i in range(4)] == ["a", "a", "a", "b"]
    assert devices.take("whole", 1) is None
    devices.give_back("3")
    assert devices.take("whole", 1) == "b"
    assert devices.take("none", 0) == ""
    assert devices.take("one more", 1 / 3) is None
    devices.give_back("1")
    assert devices.take("one more", 1 / 3) == "a"


def test_several_gpus_are_several_whole_ones() -> None:
    devices = Devices(["a", "b", "c"])
    assert devices.take("share", 0.5) == "a"
    assert devices.take("two", 2) == "b,c"
    devices.give_back("two")
    devices.give_back("share")
    assert devices.take("three", 3) == "a,b,c"


def test_a_run_waits_while_free_shares_lie_on_different_gpus(order: Make, tmp_path: Path) -> None:
    launcher = LocalLauncher(LaunchOptions(root=tmp_path))
    launcher._devices = Devices(["a", "b"])
    half, whole = Resources(gpus=0.5), Resources(gpus=1)
    try:
        made = {name: order(name, {"sleep": 600}, resources=half) for name in "pqr"}
        for each in made.values():
            launcher.submit(each)
        assert [seen(each)["env"]["CUDA_VISIBLE_DEVICES"] for each in made.values()] == ["a", "a", "b"]
        launcher.kill(made["p"].path)
        collect(launcher)
        last = order("whole", {}, resources=whole)
        launcher.submit(last)
        assert launcher.wait(0.2) == []
        launcher.kill(made["r"].path)
        assert set(collect(launcher, 2)) == {"r", "whole"}
        assert seen(last)["env"]["CUDA_VISIBLE_DEVICES"] == "b"
    finally:
        launcher.close()


def test_ranks_share_the_cpus_of_their_run() -> None:
    made = Order(path=Path(), token="", resources=Resources(cpus=8, gpus=4), node="", n_ranks=4)
    environment = run_environment(made, "GPU-1,GPU-2,GPU-3,GPU-4")
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"


# --- the machine ----------------------------------------------------------------------------------------------------

LISTING = """\
GPU-11aa, NVIDIA H100 80GB HBM3, 81559
GPU-22bb, NVIDIA H100 80GB HBM3, 81559
GPU-33cc, NVIDIA A100-SXM4-40GB, 40960
"""


@pytest.mark.parametrize(
    ("chosen", "uuids"),
    [
        (None, ["GPU-11aa", "GPU-22bb", "GPU-33cc"]),
        ("", []),
        ("2,0", ["GPU-33cc", "GPU-11aa"]),
        ("GPU-22", ["GPU-22bb"]),
        ("0,-1,1", ["GPU-11aa"]),
        ("MIG-7", ["MIG-7"]),
    ],
)
def test_gpus_are_those_that_cuda_would_see(chosen: str | None, uuids: list[str]) -> None:
    assert [gpu.uuid for gpu in machine.visible(LISTING, chosen)] == uuids


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("NVIDIA GeForce RTX 3090", "RTX3090"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("", None),
    ],
)
def test_a_gpu_type_is_one_word(name: str, kind: str | None) -> None:
    assert machine.accelerator(name) == kind


def test_a_node_with_two_gpu_types_promises_neither_and_the_smaller_memory() -> None:
    node = machine.here("local", machine.visible(LISTING, None))
    assert (node.gpus, node.accelerator, node.gpu_memory) == (3, None, 40960 * 2**20)
    assert machine.here("local", machine.visible(LISTING, "0,1")).accelerator == "H100"


@pytest.mark.parametrize(
    ("groups", "files", "found"),
    [
        (
            "0::/box",
            {"box/cpu.max": "150000 100000", "box/memory.max": "1073741824", "box/memory.events": "low 0\noom_kill 3"},
            (1, 2**30, 3),
        ),
        (
            "4:memory:/box\n1:cpu,cpuacct:/box",
            {
                "memory/box/memory.limit_in_bytes": "1073741824",
                "memory/box/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2",
                "cpu/cpu.cfs_quota_us": "100000",
                "cpu/cpu.cfs_period_us": "100000",
            },
            (1, 2**30, 2),
        ),
    ],
    ids=["version 2", "version 1"],
)
def test_a_control_group_limits_what_a_node_has(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    groups: str,
    files: dict[str, str],
    found: tuple[int, int, int],
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    real = machine._read
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "_read", lambda path: groups if path == Path("/proc/self/cgroup") else real(path))
    assert (machine.cpus(), machine.memory(), machine.oom_kills()) == found
