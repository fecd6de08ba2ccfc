"""Runs on Ray, on this machine or a cluster. The one module that imports ray.

Each Ray actor holds one slot process (`slot.py`) and imports no torch itself: it starts in a moment, takes little
memory, and outlives whatever its runs do to their processes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ray

from scaling.errors import Problem, SpecError
from scaling.launch.launcher import Ended, LaunchOptions

OBJECT_STORE_BYTES = 100 * 2**20
"""Near Ray's minimum: runs exchange files, not objects, and the default would take a third of the memory."""


class Slot:
    """Ray actor: one run at a time, in children of a warm process."""

    def __init__(self, cpus: int, gpus: float) -> None:
        self.cpus, self.gpus = cpus, gpus
        self._start()

    def _start(self) -> None:
        threads = {name: str(self.cpus) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        # Ray leaves every GPU visible to actors that asked for none.
        hidden = {} if self.gpus else {"CUDA_VISIBLE_DEVICES": ""}
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the slot
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scaling.launch.slot", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, **threads, **hidden, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self.ready = False

    def _answer(self) -> dict[str, Any] | None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def run(self, path: str, token: str) -> str:
        """What killed the run's process, or nothing."""
        assert self.process.stdin is not None
        self.ready = self.ready or self._answer() is not None
        try:
            self.process.stdin.write(json.dumps({"path": path, "token": token}) + "\n")
            self.process.stdin.flush()
            answer = self._answer()
        except BrokenPipeError:
            answer = None
        if answer is None:
            code = self.process.wait()
            self.errors.seek(0)
            last = self.errors.read().strip().splitlines()[-1:]
            self._start()
            return f"its slot ended with exit code {code}: {''.join(last)}"
        return _crash(answer["code"])


def _crash(code: int) -> str:
    if code >= 0:
        return ""
    hint = "; the usual cause is too little memory" if -code == signal.SIGKILL else ""
    return f"killed by {signal.Signals(-code).name}{hint}"


class RayLauncher:
    def __init__(self, options: LaunchOptions) -> None:
        self.options = options
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        common: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "namespace": "scaling"}
        if options.address:
            ray.init(address=options.address, **common)
        else:
            os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a private cluster on the loopback interface
            ray.init(include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **common)
        self.gpus, self._free_slots = self._fit()
        actor = ray.remote(max_restarts=-1, max_task_retries=0)(Slot).options(num_cpus=options.cpus, num_gpus=self.gpus)
        self._idle = [actor.remote(options.cpus, self.gpus) for _ in range(self._free_slots)]
        self._running: dict[Any, tuple[Any, Path]] = {}

    def _fit(self) -> tuple[float, int]:
        """GPUs per run and the runs that fit at once, counted node by node because a run never spans two."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        has_gpus = any(node.get("GPU", 0) >= 1 for node in nodes)
        gpus = self.options.gpus if self.options.gpus is not None else float(has_gpus)
        fit = [
            int(min(node.get("CPU", 0) // self.options.cpus, node.get("GPU", 0) // gpus if gpus else 2**31))
            for node in nodes
        ]
        if sum(fit) < 1:
            table = "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes)
            self.close()
            what = f"a run wants {self.options.cpus} CPUs and {gpus:g} GPUs; no node has them ({table})"
            raise SpecError([Problem(where="resources", what=f"{what}; lower resources.cpus or resources.gpus")])
        return gpus, min(sum(fit), self.options.n_runs)

    def slots(self) -> int:
        return self._free_slots

    def submit(self, path: Path, token: str) -> None:
        slot = self._idle.pop(0)
        self._running[slot.run.remote(str(path.resolve()), token)] = (slot, path)

    def wait(self, timeout: float) -> list[Ended]:
        ready, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout)
        ended = []
        for ref in ready:
            slot, path = self._running.pop(ref)
            self._idle.append(slot)
            try:
                crash = ray.get(ref)
            except ray.exceptions.RayError as error:  # the actor or its node died; Ray restarts it elsewhere
                crash = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            ended.append(Ended(path=path, crash=crash))
        return ended

    def close(self) -> None:
        ray.shutdown()
