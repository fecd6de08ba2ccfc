"""A slot process of this machine, seen from the process that started it. Used by the local and the Ray launcher."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import scaling.launch
from scaling.launch.launcher import Ended, Order
from scaling.launch.machine import oom_kills

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
CLOSING_SECONDS = 5.0


def installed() -> Path:
    """The folder that holds the package this process runs."""
    return Path(scaling.launch.__file__).resolve().parents[2]


class WarmSlot:
    """Takes orders at any time, also while it still loads; they start when it is ready, each in a child of its own.

    Make it in a thread that lives as long as the process: the slot dies with the thread that started it.
    """

    def __init__(self, code: Path | None) -> None:
        first = str(code or installed())
        path = os.pathsep.join(filter(None, (first, os.environ.get("PYTHONPATH"))))
        environment = {
            **os.environ,
            **dict.fromkeys(THREADS, "1"),  # threads of libraries would not survive the fork; a run starts its own
            "JE_ARROW_MALLOC_CONF": "background_thread:false",  # nor would Arrow's
            "PYTHONPATH": path,
            "PYTHONSAFEPATH": "1",  # else the current folder comes before the code that was ordered
            "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # an import that asks for a GPU must not open CUDA before the fork
        }
        self._oom_kills = oom_kills()
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the slot
        self._process = subprocess.Popen(
            [sys.executable, "-m", "scaling.launch.slot", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            start_new_session=True,  # Ctrl-C is the driver's to hear, which then decides what becomes of the runs
        )
        assert self._process.stdout is not None
        self._answers = self._process.stdout.fileno()
        os.set_blocking(self._answers, False)
        self._unread = b""
        self._orders: dict[str, Order] = {}
        self._to_kill: set[str] = set()
        self.ready = False
        """Whether it has loaded everything."""
        self.dead = False
        """Whether it is of no use any more; known from `read`."""

    def fileno(self) -> int:
        """Readable when `read` has news."""
        return self._answers

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def busy(self) -> bool:
        return bool(self._orders)

    def start(self, order: Order, *, devices: str) -> None:
        """`devices` is what the run sees as CUDA_VISIBLE_DEVICES; empty hides all GPUs."""
        self._orders[order.token] = order
        self._send(
            token=order.token,
            path=str(order.path.resolve()),
            calibrate=order.calibrate,
            n_ranks=order.n_ranks,
            env=run_environment(order, devices),
        )

    def kill(self, path: Path) -> None:
        """Nothing where no run of that path is under way."""
        for token, order in self._orders.items():
            if order.path == path:
                self._to_kill.add(token)
                self._send(kill=token)
        if self._orders and not self.ready and self._to_kill >= self._orders.keys():
            self._process.kill()  # it may never get ready, and nobody needs it to

    def read(self) -> list[Ended]:
        """What ended since the last call, without waiting. All its runs end with a slot that ended itself."""
        over = False
        try:
            while chunk := os.read(self._answers, 65536):
                self._unread += chunk
            over = True
        except BlockingIOError:
            pass
        *lines, self._unread = self._unread.split(b"\n")
        ended = [self._settle(json.loads(line)) for line in lines]
        return [one for one in ended if one] + (self._gone() if over else [])

    def _settle(self, answer: Mapping[str, Any]) -> Ended | None:
        if "ready" in answer:
            self.ready = True
            return None
        order = self._orders.pop(answer["token"])
        self._to_kill.discard(order.token)
        return Ended(path=order.path, token=order.token, code=answer["code"], oom_killed=answer["oom_killed"])

    def _gone(self) -> list[Ended]:
        code = self._process.wait()
        self.dead = True
        self._errors.seek(0)
        last = "".join(self._errors.read().strip().splitlines()[-1:])
        detail = f"the process that starts runs ended with exit code {code}" + f": {last}" * bool(last)
        oom_killed = code == -signal.SIGKILL and not self._to_kill and oom_kills() > self._oom_kills
        orders, self._orders = self._orders, {}
        self.close()
        return [
            Ended(path=o.path, token=o.token, code=code, oom_killed=oom_killed, detail=detail) for o in orders.values()
        ]

    def _send(self, **message: Any) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it is gone: the end of its answers says so
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def close(self) -> None:
        """Ends it and its runs; none of them comes out of `read` any more."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.dead = True
        if not self.ready:
            self._process.kill()
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(CLOSING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()


def run_environment(order: Order, devices: str) -> dict[str, str]:
    """What a run's process finds in its environment beyond what its slot has."""
    per_rank = max(1, order.resources.cpus // order.n_ranks)
    environment = {**dict.fromkeys(THREADS, str(per_rank)), "CUDA_VISIBLE_DEVICES": devices}
    if devices:
        environment["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"  # less memory lost to fragments
    return environment
