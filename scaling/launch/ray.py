"""Runs on Ray, on this machine or a cluster. Here and in the `tune:` stage alone ray is imported.

Each Ray actor holds one slot process (`slot.py`) and imports no torch itself: it takes little memory and outlives
whatever its runs do to their processes. Ray counts what an actor holds; where it goes is the scheduler's decision.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from scaling.errors import Problem, SpecError
from scaling.launch import machine
from scaling.launch.launcher import Ended, LaunchOptions, Node, Order, Resources
from scaling.launch.warm import installed

OBJECT_STORE_BYTES = 100 * 2**20
"""Near Ray's minimum: runs exchange files, not objects, and the default would take a third of the memory."""
NODES_SECONDS = 1.0
"""The list of nodes is asked for at most this often."""
LOOK_SECONDS = 120.0
"""A node that has not answered by then counts as one that does not see the root."""
BLIND_SECONDS = 60.0
"""A node that came without the root is asked again after this time: its storage may be mounted late."""
LABEL, RESOURCE = "ray.io/accelerator-type", "accelerator_type:"


class SlotActor:
    """On a node: one run at a time, in children of a warm process. Ray sends this class's text along."""

    def __init__(self, code: str) -> None:
        if os.path.isdir(code):
            sys.path.insert(0, code)
        self._code = Path(code)
        self._slot = self._warm()

    def _warm(self) -> Any:
        from scaling.launch.warm import WarmSlot

        return WarmSlot(self._code)

    def run(self, order: Order) -> Ended:
        """Takes as long as the run."""
        from multiprocessing.connection import wait

        if self._slot.dead:
            self._slot = self._warm()
        # Ray shows an actor the GPUs it was given, and one that asked for none all there are.
        devices = os.environ.get("CUDA_VISIBLE_DEVICES", "") if order.resources.gpus else ""
        self._slot.start(order, devices=devices)
        while True:
            wait([self._slot])
            if ended := self._slot.read():
                return ended[0]


def look(nonce: str, code: str) -> tuple[bool, int]:
    """On a node: whether it sees the file, and the bytes of its smallest GPU. Ray sends this function's text along."""
    until = time.monotonic() + 10  # a network file system may remember for seconds that the file was not there
    while not os.path.exists(nonce) and time.monotonic() < until:
        time.sleep(0.2)
    if not os.path.exists(nonce):
        return False, 0
    if os.path.isdir(code):
        sys.path.insert(0, code)
    try:
        from scaling.launch.machine import gpus
    except ImportError:  # no package and no code folder: the first run there says so
        return True, 0
    return True, min((gpu.memory for gpu in gpus()), default=0)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What an actor was made for; an order that wants the same finds it warm."""

    node: str
    resources: Resources
    code: Path | None


@dataclass(frozen=True, eq=False)
class Holder:
    shape: Shape
    handle: Any


class RayLauncher:
    def __init__(self, options: LaunchOptions) -> None:
        self.root, self._code = options.root, options.code
        self._idle: list[Holder] = []
        self._busy: dict[Any, tuple[Holder, Order]] = {}
        self._killed: set[str] = set()
        self._listed: tuple[float, tuple[Node, ...]] = (-float("inf"), ())
        self._gpu_memory: dict[str, int] = {}
        """Nodes that were found to see the root -> bytes of their smallest GPU."""
        self._looking: dict[Any, str] = {}
        self._blind: dict[str, float] = {}
        """Nodes that came later and do not see the root -> when they were found out; they are asked again."""
        self._nonce: Path | None = None
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # no node needs the package installed
        address = options.address or os.environ.get("RAY_ADDRESS")
        with _signals_kept():
            start(address)
        self._joined = bool(address)
        try:
            self._check_nodes()
        except BaseException:
            self.close()
            raise

    # --- nodes --------------------------------------------------------------------------------------------------

    def nodes(self) -> Sequence[Node]:
        since, listed = self._listed
        if time.monotonic() - since < NODES_SECONDS:
            return listed
        alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        if self._joined:
            self._look_at_new(set(alive))
        found = tuple(self._node(alive[name]) for name in alive if name in self._gpu_memory)
        self._idle = [holder for holder in self._idle if holder.shape.node in alive]
        self._listed = (time.monotonic(), found)
        return found

    def _node(self, node: dict[str, Any]) -> Node:
        resources = node["Resources"]
        types = [key.removeprefix(RESOURCE) for key in resources if key.startswith(RESOURCE)]
        label = (node.get("Labels") or {}).get(LABEL) or (types[0] if types else None)
        gpus = int(resources.get("GPU", 0))
        return Node(
            name=node["NodeID"],
            host=node["NodeManagerHostname"],
            cpus=int(resources.get("CPU", 0)),
            gpus=gpus,
            memory=int(resources.get("memory", 0)),
            accelerator=label if gpus else None,
            gpu_memory=self._gpu_memory[node["NodeID"]],
        )

    def _check_nodes(self) -> None:
        """Every node of a cluster must see the root, or its runs are lost. Raises SpecError."""
        alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        if not self._joined:
            self._gpu_memory = dict.fromkeys(alive, machine.here("").gpu_memory)
            return
        self._look_at(set(alive))
        blind = set(self._hear(LOOK_SECONDS)) | set(self._looking.values())
        if blind:
            names = ", ".join(
                sorted(f"{alive[n]['NodeManagerHostname']} ({alive[n]['NodeManagerAddress']})" for n in blind)
            )
            what = (
                f"{len(blind)} of {len(alive)} nodes do not see this folder: {names}; every node writes its runs "
                "there, so mount the same storage at the same path on all of them, or set `root:` to a shared folder"
            )
            raise SpecError([Problem(where=str(self.root), what=what)])

    def _look_at_new(self, alive: set[str]) -> None:
        """Asks who came since; a node is listed once it is known to see the root."""
        now = time.monotonic()
        lately = {name for name, since in self._blind.items() if now - since < BLIND_SECONDS}
        self._look_at(alive - self._gpu_memory.keys() - set(self._looking.values()) - lately)
        for name in self._hear(0.0):
            if name not in self._blind:
                logging.getLogger(__name__).warning("node %s joined but does not see %s; not used", name, self.root)
            self._blind[name] = now

    def _look_at(self, names: set[str]) -> None:
        """Asks nodes whether they see the root."""
        if names and self._nonce is None:
            self.root.mkdir(parents=True, exist_ok=True)
            self._nonce = self.root.resolve() / f".seen-{uuid4().hex[:12]}"
            self._nonce.touch()
        task = ray.remote(num_cpus=0, max_calls=1, max_retries=0)(look)
        for name in sorted(names):
            asked = task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(name, soft=False))
            self._looking[asked.remote(str(self._nonce), str(self._code or installed()))] = name

    def _hear(self, timeout: float) -> list[str]:
        """Takes the answers that came; the nodes that do not see the root."""
        blind = []
        refs = list(self._looking)
        done = ray.wait(refs, num_returns=len(refs), timeout=timeout)[0] if refs else []
        for ref in done:
            name = self._looking.pop(ref)
            try:
                sees, gpu_memory = ray.get(ref)
            except ray.exceptions.RayError:  # gone again, or of no use
                sees, gpu_memory = False, 0
            if sees:
                self._gpu_memory[name] = gpu_memory
            else:
                blind.append(name)
        if not self._looking and self._nonce is not None:
            self._nonce.unlink(missing_ok=True)
            self._nonce = None
        return blind

    # --- runs ---------------------------------------------------------------------------------------------------

    def submit(self, order: Order) -> None:
        shape = Shape(node=order.node, resources=order.resources, code=order.code)
        holder = next((holder for holder in self._idle if holder.shape == shape), None)
        if holder is None:
            self._make_room(shape)
            holder = self._hold(shape)
        else:
            self._idle.remove(holder)
        self._busy[holder.handle.run.remote(order)] = (holder, order)

    def _hold(self, shape: Shape) -> Holder:
        wanted = shape.resources
        actor = ray.remote(SlotActor).options(
            num_cpus=wanted.cpus,
            num_gpus=wanted.gpus,
            memory=wanted.memory or None,
            max_restarts=0,  # a new one is made where the next order goes
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(shape.node, soft=False),
        )
        return Holder(shape, actor.remote(str(shape.code or installed())))

    def _make_room(self, shape: Shape) -> None:
        """Ends idle actors of other shapes on the node until what they hold is enough."""
        node = next((node for node in self.nodes() if node.name == shape.node), None)
        if node is None:
            return  # it died since the order was thought of: the actor's failure says so
        held = [
            h.shape.resources for h in [*self._idle, *(h for h, _ in self._busy.values())] if h.shape.node == node.name
        ]
        cpus = node.cpus - sum(r.cpus for r in held) - shape.resources.cpus
        memory = node.memory - sum(r.memory for r in held) - shape.resources.memory
        for holder in [holder for holder in self._idle if holder.shape.node == node.name]:
            of = holder.shape.resources
            # Idle shares may lie on different GPUs, so that their sum says nothing: all of them go.
            if cpus < 0 or memory < 0 or (shape.resources.gpus and of.gpus):
                self._idle.remove(holder)
                ray.kill(holder.handle)
                cpus, memory = cpus + of.cpus, memory + of.memory

    def wait(self, timeout: float) -> list[Ended]:
        if not self._busy:
            time.sleep(timeout)
            return []
        refs = list(self._busy)
        done, _ = ray.wait(refs, num_returns=1, timeout=timeout)
        if done:
            done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        return [self._settle(ref) for ref in done]

    def _settle(self, ref: Any) -> Ended:
        holder, order = self._busy.pop(ref)
        try:
            ended: Ended = ray.get(ref)
        except ray.exceptions.RayError as error:
            with suppress(ray.exceptions.RayError):
                ray.kill(holder.handle)
            ended = self._lost(order, error)
        else:
            self._idle.append(holder)
        self._killed.discard(order.token)
        return ended

    def _lost(self, order: Order, error: Exception) -> Ended:
        """An attempt whose actor cannot tell any more."""
        code: int | None = None
        if order.token in self._killed:
            code = -signal.SIGKILL
        elif isinstance(error, ray.exceptions.RayTaskError) or getattr(error, "_actor_init_failed", False):
            code = 1  # the slot's own doing, which would happen again
        return Ended(
            path=order.path,
            token=order.token,
            code=code,
            oom_killed=isinstance(error, ray.exceptions.OutOfMemoryError),
            detail=_line(error),
        )

    def kill(self, path: Path) -> None:
        for holder, order in self._busy.values():
            if order.path == path:
                self._killed.add(order.token)
                ray.kill(holder.handle)  # its slot and its run die with it

    def close(self) -> None:
        for holder in [*self._idle, *(holder for holder, _ in self._busy.values())]:
            with suppress(ray.exceptions.RayError):
                ray.kill(holder.handle)
        self._idle.clear()
        self._busy.clear()
        if self._nonce is not None:
            self._nonce.unlink(missing_ok=True)
        ray.shutdown()


def start(address: str | None, **more: Any) -> None:
    """Joins a cluster, with `more` for `ray.init`, or starts one of this process's own."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "namespace": "scaling"}
    if address:
        ray.init(address=address, **more, **common)
        return
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # on the loopback interface, for this process alone
    ray.init(
        address="local",  # else Ray joins whatever cluster it finds running here
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        num_cpus=machine.cpus(),
        **common,
    )


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself; what a signal means is the driver's to say."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    with suppress(ValueError):  # not the main thread: then Ray took nothing
        signal.signal(signal.SIGTERM, before)


def _line(error: Exception) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"
