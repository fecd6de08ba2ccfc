"""A slot: a process that has torch and timm loaded and forks a child for every run it is given.

A fork takes milliseconds where a new interpreter takes seconds of imports, and isolates as well: whatever a run leaks
or breaks ends with its process. Nothing here may start a thread or touch CUDA, which no fork survives. Children die
with the slot, the slot with the process that started it.

In, one JSON object a line: {"token", "path", "calibrate", "n_ranks", "env"} starts a run, {"kill": token} ends one.
Out: {"ready"} once loaded, {"token", "code", "oom_killed"} when a child is gone. End of input ends all.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.failures import EXIT_FAILED
from scaling.launch.machine import oom_kills
from scaling.process import die_with_parent

RUNS_ARE_KILLED_FIRST = "500"
"""Added to a child's badness, so that short memory costs a run and neither its slot nor the driver."""


@dataclass(frozen=True)
class Child:
    token: str
    oom_kills: int
    """The kernel's count before it was born."""


def load_ahead() -> None:
    """Imports once what every child would."""
    import scaling.worker  # noqa: F401
    from scaling.catalog import ALGORITHMS, PROBES, SOURCES

    for table in (ALGORITHMS, PROBES, SOURCES):  # also, runs that still wait keep the code the sweep started with
        for entry in table.values():
            with suppress(ImportError, AttributeError):  # what does not load fails the runs that need it, not the slot
                entry.load()
    gc.collect()
    gc.freeze()  # no collection in a child touches, and so copies, the pages it shares


def carry_out(order: dict[str, Any]) -> int:
    """The run itself, in the child. Exit code."""
    from scaling import worker

    path, token = Path(order["path"]), order["token"]
    if order["calibrate"]:
        return worker.calibrate(path, token)
    if order["n_ranks"] > 1:
        from scaling.launch.ranks import run_ranks

        return run_ranks(path, token, order["n_ranks"])
    return worker.attempt_logged(path, token)


class Slot:
    def __init__(self, answers: int) -> None:
        self.answers = answers
        self.pid = os.getpid()
        self.children: dict[int, Child] = {}
        self._unread = b""
        self._woken, wake = os.pipe()
        for end in (self._woken, wake):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # without a handler nothing is written to `wake`
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def say(self, **answer: Any) -> None:
        os.write(self.answers, json.dumps(answer).encode() + b"\n")

    def serve(self) -> None:
        """Until the input ends."""
        self.say(ready=True)
        selector = selectors.DefaultSelector()
        selector.register(0, selectors.EVENT_READ)
        selector.register(self._woken, selectors.EVENT_READ)
        while True:
            ready = {key.fd for key, _ in selector.select()}
            if self._woken in ready:
                os.read(self._woken, 4096)
                self._reap()
            if 0 in ready and not self._listen():
                break
        for pid in self.children:
            _kill_group(pid)

    def _listen(self) -> bool:
        """Does what was asked; whether more may come."""
        chunk = os.read(0, 65536)
        *lines, self._unread = (self._unread + chunk).split(b"\n")
        for line in lines:
            order = json.loads(line)
            if "kill" in order:
                for pid, child in self.children.items():
                    if child.token == order["kill"]:
                        _kill_group(pid)
            else:
                self._start(order)
        return bool(chunk)

    def _start(self, order: dict[str, Any]) -> None:
        child = Child(order["token"], oom_kills())
        pid = os.fork()
        if pid == 0:
            self._become(order)
        with suppress(OSError):  # the child does the same: whoever comes first
            os.setpgid(pid, pid)
        self.children[pid] = child

    def _become(self, order: dict[str, Any]) -> None:
        """The child's life; never returns."""
        code = EXIT_FAILED
        try:
            die_with_parent(self.pid)
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(self.answers)
            nothing = os.open(os.devnull, os.O_RDONLY)
            log = os.open(Path(order["path"]) / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            for source, target in ((nothing, 0), (log, 1), (log, 2)):
                os.dup2(source, target)
            with suppress(OSError):
                Path("/proc/self/comm").write_text(f"run {Path(order['path']).name[:11]}")  # for `top`; 15 bytes fit
                Path("/proc/self/oom_score_adj").write_text(RUNS_ARE_KILLED_FIRST)
            os.environ.update(order["env"])
            code = carry_out(order)
        except BaseException:  # also SystemExit: this process is no interpreter of its own that would show it
            traceback.print_exc()
        finally:
            with suppress(BaseException):  # nothing may keep a child from ending here: it would go on as a second slot
                sys.stdout.flush()
                sys.stderr.flush()
                if code < 0:  # dies as its rank did
                    with suppress(OSError):  # SIGKILL has no handler to reset
                        signal.signal(-code, signal.SIG_DFL)
                    os.kill(os.getpid(), -code)
            os._exit(code if code >= 0 else EXIT_FAILED)

    def _reap(self) -> None:
        while True:
            try:
                dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if dead is None:
                return
            _kill_group(dead.si_pid)  # what the run left behind, while its number cannot be another's yet
            _, status = os.waitpid(dead.si_pid, 0)
            child = self.children.pop(dead.si_pid)
            code = os.waitstatus_to_exitcode(status)
            killed = code == -signal.SIGKILL and oom_kills() > child.oom_kills
            self.say(token=child.token, code=code, oom_killed=killed)


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def main() -> None:
    die_with_parent(int(sys.argv[1]))
    answers = os.dup(1)
    os.dup2(2, 1)  # what imports print must not mix with answers
    slot = Slot(answers)
    load_ahead()
    slot.serve()
    os._exit(0)  # an interpreter with torch takes a good part of a second to tidy up, and here is nothing to keep


if __name__ == "__main__":
    main()
