"""The Ray launcher on clusters of several nodes, all on this machine: placement, deaths, newcomers, the shared root."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from scaling.config import load
from scaling.errors import SpecError
from scaling.launch.launcher import Ended, LaunchOptions, Node, Order, Resources
from scaling.launch.warm import installed
from scaling.plan import make_plan, source_of
from scaling.rundir import RunDir, write_json

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PATIENCE = 120.0
"""Seconds until a test gives up; never measured against."""
STORE = 80 * 2**20
WATCH = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
"""Of the head: a silent node counts as dead after two seconds."""

WORKER = '''
"""Does what its job says, without torch."""
import json, os, time
from pathlib import Path

def attempt_logged(path, token):
    job = json.loads((Path(path) / "job.json").read_text())
    draft = Path(path) / ".seen"
    draft.write_text(json.dumps({"pid": os.getpid(), "slot": os.getppid(), "token": token, "env": dict(os.environ)}))
    draft.rename(Path(path) / "seen.json")
    held = b"x" * job.get("hold", 0)
    time.sleep(job.get("sleep", 0))
    return 0
'''

SWEEP = """\
name: one
question: Does a run survive its node?
grid: {model: [vit_atto], algorithm: [mae], n_images: [32], mixture: [all], seed: [0]}
baselines: []
data: {source: phantoms, image_size: 32, n_train: 32, n_val: 32, n_test: 32}
encoder: {patch_size: 8}
pretrain: {images_seen: 8000, batch_size: 16, precision: fp32, checkpoint_minutes: 0.001}
probe: {bootstrap: 20, linear: {n_c: 2}}
"""


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("code")
    package = folder / "scaling"
    shutil.copytree(installed() / "scaling", package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "worker.py").write_text(WORKER)
    (package / "catalog.py").write_text("ALGORITHMS = PROBES = SOURCES = {}\n")
    return folder


@contextmanager
def private_cluster(**head: Any) -> Iterator[Any]:
    """A head that carries no runs; nodes are the test's to add."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}.items():
            patch.setenv(name, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        from ray.cluster_utils import Cluster

        settings = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False, "_system_config": WATCH}
        made = Cluster(initialize_head=True, head_node_args={**settings, **head})
        yield made
        made.shutdown()


@pytest.fixture
def cluster() -> Iterator[Any]:
    with private_cluster() as made:
        yield made


def add(cluster: Any, cpus: int = 1, **more: Any) -> Any:
    return cluster.add_node(num_cpus=cpus, object_store_memory=STORE, **more)


@pytest.fixture
def launch(cluster: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Joins the cluster."""
    from scaling.launch.ray import RayLauncher

    made = []

    def join(root: Path = tmp_path) -> RayLauncher:
        made.append(RayLauncher(LaunchOptions(root=root, address=cluster.address)))
        return made[-1]

    yield join
    for launcher in made:
        launcher.close()


Make = Callable[..., Order]


@pytest.fixture
def order(tmp_path: Path, code: Path) -> Make:
    """Writes a job and orders it on a node."""

    def make(name: str, node: str, /, job: dict[str, Any] | None = None, **changes: Any) -> Order:
        path = tmp_path / "runs" / name
        RunDir(path).lease(f"{name}-token")
        (path / "job.json").write_text(json.dumps(job or {}))
        values = {"path": path, "token": f"{name}-token", "resources": Resources(), "node": node, "code": code}
        return Order(**{**values, **changes})

    return make


def collect(launcher: Any, n: int = 1) -> dict[str, Ended]:
    found: dict[str, Ended] = {}
    end = time.monotonic() + PATIENCE
    while len(found) < n and time.monotonic() < end:
        found |= {ended.path.name: ended for ended in launcher.wait(1.0)}
    assert len(found) == n, f"only {sorted(found)} of {n} ended"
    return found


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def seen(order: Order) -> dict[str, Any]:
    path = order.path / "seen.json"
    until(path.exists)
    return json.loads(path.read_text())


def lives(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def ray_node(order: Order) -> str:
    """The node whose raylet started the run's actor: its number came down to the run, its command line names it."""
    raylet = seen(order)["env"]["RAY_RAYLET_PID"]
    words = Path(f"/proc/{raylet}/cmdline").read_bytes().decode().split("\0")
    return next(word.removeprefix("--node_id=") for word in words if word.startswith("--node_id="))


def workers(launcher: Any) -> list[Node]:
    return [node for node in launcher.nodes() if node.cpus]


# --- placement ------------------------------------------------------------------------------------------------------


def test_each_run_goes_to_the_node_its_order_names(cluster: Any, launch: Callable[..., Any], order: Make) -> None:
    add(cluster, 2, labels={"ray.io/accelerator-type": "H100"}, num_gpus=2)
    add(cluster, 1)
    launcher = launch()
    big, small = sorted(workers(launcher), key=lambda node: -node.cpus)
    assert (big.cpus, big.gpus, big.accelerator) == (2, 2, "H100")
    assert (small.cpus, small.gpus, small.accelerator) == (1, 0, None)
    made = [
        order("a", big.name, {"sleep": 600}, resources=Resources(gpus=0.5)),
        order("b", big.name, {"sleep": 600}, resources=Resources(gpus=0.5)),
        order("c", small.name, {"sleep": 600}),
    ]
    for each in made:
        launcher.submit(each)
    found = [seen(each) for each in made]
    assert [ray_node(each) for each in made] == [big.name, big.name, small.name]
    assert [each["env"]["CUDA_VISIBLE_DEVICES"] for each in found] == ["0", "0", ""]
    for each in made:
        launcher.kill(each.path)
    assert {ended.code for ended in collect(launcher, 3).values()} == {-signal.SIGKILL}
    # Nothing is idle now but what was killed: a run of another shape finds the whole node.
    launcher.submit(order("d", big.name, resources=Resources(cpus=2, gpus=2, memory=2**28)))
    assert collect(launcher)["d"].code == 0
    launcher.submit(order("e", big.name, resources=Resources(cpus=2)))  # ends the idle slot of another shape
    assert collect(launcher)["e"].code == 0


# --- nodes that die and come ----------------------------------------------------------------------------------------


def test_a_run_whose_node_died_goes_on_from_its_checkpoint_on_another(
    cluster: Any, launch: Callable[..., Any], order: Make, sweep_file: Callable[..., Path]
) -> None:
    doomed = add(cluster, 1)
    add(cluster, 2)
    launcher = launch()
    first, second = sorted(workers(launcher), key=lambda node: node.cpus)
    sweep, document = load(sweep_file(text=SWEEP))
    plan = make_plan(sweep, document, source_of(sweep.data))
    run = plan.runs[0].dir
    run.lease("first")
    write_json(run.path / "job.json", plan.job(plan.runs[0]).model_dump(mode="json"))
    other = order("other", second.name, {"sleep": 600})
    launcher.submit(other)
    launcher.submit(Order(path=run.path, token="first", resources=Resources(), node=first.name))
    seen(other)
    until((run.path / "checkpoint.pt").exists)
    until(lambda: run.last_beat() is not None)
    beat = run.last_beat()
    assert beat is not None

    cluster.remove_node(doomed, allow_graceful=False)
    ended = collect(launcher)[run.run]
    assert ended.code is None
    assert ended.detail
    assert not ended.oom_killed
    until(lambda: not lives(beat.pid))
    until(lambda: [node.name for node in workers(launcher)] == [second.name])
    assert lives(seen(other)["pid"])

    before = list(run.metrics())
    assert 0 < before[-1]["step"] < plan.runs[0].spec.n_steps
    run.lease("second")
    launcher.submit(Order(path=run.path, token="second", resources=Resources(), node=second.name))
    assert collect(launcher)[run.run].code == 0
    after = list(run.metrics())
    kept = [line for line in after if line in before]  # each carries the time it was written
    assert kept, "the run began anew"
    assert [line["step"] for line in after] == sorted({line["step"] for line in after})
    assert run.record() is not None
    launcher.kill(other.path)
    collect(launcher)


def test_a_node_that_joins_is_used(cluster: Any, launch: Callable[..., Any], order: Make) -> None:
    add(cluster, 1)
    launcher = launch()
    (old,) = workers(launcher)
    add(cluster, 1)
    until(lambda: len(workers(launcher)) == 2)
    new = next(node for node in workers(launcher) if node.name != old.name)
    made = order("one", new.name, {"sleep": 600})
    launcher.submit(made)
    assert ray_node(made) == new.name
    launcher.kill(made.path)
    collect(launcher)


def test_an_order_for_a_node_that_is_gone_ends_without_a_code(
    cluster: Any, launch: Callable[..., Any], order: Make
) -> None:
    doomed = add(cluster, 1)
    add(cluster, 2)
    launcher = launch()
    gone, _ = sorted(workers(launcher), key=lambda node: node.cpus)
    cluster.remove_node(doomed, allow_graceful=False)
    until(lambda: gone.name not in {node.name for node in launcher.nodes()})
    launcher.submit(order("late", gone.name))
    ended = collect(launcher)["late"]
    assert ended.code is None
    assert ended.detail


def test_a_run_that_ray_kills_for_memory_says_so(cluster: Any, launch: Callable[..., Any], order: Make) -> None:
    add(cluster, 1)
    launcher = launch()
    known = {node.name for node in launcher.nodes()}
    # On this node every use of memory is too much, so that its monitor kills whatever comes first.
    add(cluster, 1, env_vars={"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "50"})
    import ray

    until(lambda: len({node["NodeID"] for node in ray.nodes()} - known) == 1)
    (poor,) = {node["NodeID"] for node in ray.nodes()} - known
    launcher.submit(order("one", poor, {"sleep": 600}))
    ended = collect(launcher)["one"]
    assert ended.oom_killed
    assert ended.code is None


# --- the root -------------------------------------------------------------------------------------------------------


def test_a_node_that_does_not_see_the_root_is_refused_by_name(
    cluster: Any, launch: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("this user may not hide folders from a process (unshare --mount)")
    add(cluster, 1)
    launcher = launch(hidden)
    before = launcher.nodes()
    ray_command = f"{sys.executable} -m ray.scripts.scripts"
    start = f"{ray_command} start --block --address={cluster.address} --num-cpus=1 --object-store-memory={STORE}"
    blind = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs none {hidden} && exec {start} --disable-usage-stats"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until(lambda: len([n for n in cluster.global_state.node_table() if n["Alive"]]) == 3)
        until(lambda: launcher.nodes() and "joined but does not see" in caplog.text)
        assert launcher.nodes() == before
        launcher.close()
        with pytest.raises(SpecError, match=r"1 of 3 nodes do not see this folder: .*same storage"):
            launch(hidden)
        assert list(hidden.iterdir()) == []
        assert launch(tmp_path).nodes()
    finally:
        os.killpg(blind.pid, signal.SIGTERM)
        blind.wait(60)


# --- submission -----------------------------------------------------------------------------------------------------


def test_a_sweep_submitted_as_a_ray_job_runs_on_the_cluster(tmp_path: Path, sweep_file: Callable[..., Path]) -> None:
    pytest.importorskip("aiohttp_cors", reason="Ray's job server needs the extra `cluster`", exc_type=ImportError)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sweep = sweep_file(text=SWEEP.replace("images_seen: 8000", "images_seen: 160"))
    command = f"{sys.executable} -m scaling.cli run {sweep} --launcher ray --tracking none --no-report"
    with private_cluster(include_dashboard=True, dashboard_port=port) as cluster:
        add(cluster, 1)
        from ray.job_submission import JobStatus, JobSubmissionClient

        client = JobSubmissionClient(f"http://127.0.0.1:{port}")
        job = client.submit_job(entrypoint=command, submission_id="sweep", metadata={"of": "a test"})
        until(lambda: client.get_job_status(job).is_terminal())
        log = client.get_job_logs(job)
        assert client.get_job_status(job) == JobStatus.SUCCEEDED, log
    (record,) = (tmp_path / "state" / "runs").glob("*/result.json")
    assert json.loads(record.read_text())["status"] == "done"
    # The run was carried by the cluster that the job was submitted to.
    assert "Traceback" not in (record.parent / "log.txt").read_text()


# --- the driver -----------------------------------------------------------------------------------------------------

DRIVER = """
import sys
from pathlib import Path
from scaling.launch.launcher import LaunchOptions, Order, Resources
from scaling.launch.ray import RayLauncher
path, code, address = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] or None
launcher = RayLauncher(LaunchOptions(root=path.parent, address=address))
node = next(node.name for node in launcher.nodes() if node.cpus)
launcher.submit(Order(path=path, token="t", resources=Resources(), node=node, code=code))
launcher.wait(600)
"""


@pytest.mark.parametrize("joined", [True, False], ids=["a cluster", "its own Ray"])
def test_nothing_of_a_killed_driver_goes_on(cluster: Any, order: Make, code: Path, joined: bool) -> None:
    add(cluster, 1)
    made = order("one", "", {"sleep": 600})
    arguments = [str(made.path), str(code), cluster.address if joined else ""]
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, *arguments], cwd=installed())
    processes = seen(made)
    driver.kill()
    driver.wait()
    until(lambda: not lives(processes["pid"]) and not lives(processes["slot"]))
