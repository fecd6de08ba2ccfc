"""What the machine under this process has: CPUs, memory, GPUs, and how often its kernel killed for memory.

Standard library only, Linux first: inside a container it is the control group that limits, not the hardware.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from scaling.launch.launcher import Node

CGROUPS = Path("/sys/fs/cgroup")
NO_LIMIT = 2**60
"""Version 1 writes a number near 2**63 where nothing is limited."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    uuid: str
    """What CUDA_VISIBLE_DEVICES may say for it; unlike an index, the same in every enumeration."""
    name: str
    """As the driver calls it; empty where the driver does not list it, as with a MIG slice."""
    memory: int
    """Bytes; 0 is unknown."""


def cpus() -> int:
    """Cores that this process may use, by its affinity and its control group's quota."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, period = 0.0, 0.0
    if text := _cgroup("", "cpu.max"):
        first, second = text.split()
        quota, period = (0.0 if first == "max" else float(first)), float(second)
    elif text := _cgroup("cpu", "cpu.cfs_quota_us"):
        quota, period = float(text), float(_cgroup("cpu", "cpu.cfs_period_us") or 0)
    return max(1, min(usable, int(quota / period))) if quota > 0 and period > 0 else usable


def memory() -> int:
    """Bytes of memory that this process may use; 0 where nothing says so."""
    found = []
    if meminfo := _read(Path("/proc/meminfo")):
        found.append(int(meminfo.split("MemTotal:")[1].split()[0]) * 1024)
    for controller, name in (("", "memory.max"), ("memory", "memory.limit_in_bytes")):
        text = _cgroup(controller, name)
        if text and text != "max" and int(text) < NO_LIMIT:
            found.append(int(text))
    return min(found, default=0)


def oom_kills() -> int:
    """Processes the kernel has killed for memory in this control group; on the whole machine where it has none."""
    for text in (
        _cgroup("", "memory.events"),
        _cgroup("memory", "memory.oom_control"),
        _read(Path("/proc/vmstat")),
    ):
        if found := re.search(r"^oom_kill (\d+)", text, re.MULTILINE):
            return int(found[1])
    return 0


def gpus() -> tuple[Gpu, ...]:
    """GPUs that CUDA would see, asked of nvidia-smi, so that no CUDA context is opened for it."""
    command = ["nvidia-smi", "--query-gpu=uuid,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return visible(done.stdout, os.environ.get("CUDA_VISIBLE_DEVICES"))


def visible(listing: str, chosen: str | None) -> tuple[Gpu, ...]:
    """The GPUs of nvidia-smi's listing that CUDA_VISIBLE_DEVICES leaves: indices or (beginnings of) UUIDs.

    Like CUDA, stops at the first index that is not there.
    """
    there = []
    for line in listing.splitlines():
        if line.strip():
            uuid, name, mebibytes = (part.strip() for part in line.split(",", 2))
            there.append(Gpu(uuid=uuid, name=name, memory=int(mebibytes) * 2**20 if mebibytes.isdigit() else 0))
    if chosen is None:
        return tuple(there)
    found: list[Gpu] = []
    for word in filter(None, (part.strip() for part in chosen.split(","))):
        if word.lstrip("-").isdigit():
            if not 0 <= int(word) < len(there):
                break
            found.append(there[int(word)])
        else:
            known = [gpu for gpu in there if gpu.uuid.startswith(word)]
            found.append(known[0] if known else Gpu(uuid=word, name="", memory=0))
    return tuple(found)


def accelerator(name: str) -> str | None:
    """GPU type in one word, as Ray labels it where it can: `NVIDIA A100-SXM4-80GB` -> A100."""
    words = re.findall(r"[A-Za-z0-9]+", name)
    typed = [i for i, word in enumerate(words) if re.fullmatch(r"[A-Z]{0,4}\d{1,4}[A-Za-z]{0,2}", word)]
    if not typed:
        return None
    i = typed[0]
    return f"RTX{words[i]}" if i and words[i - 1] == "RTX" else words[i]


def here(name: str, found: tuple[Gpu, ...] | None = None) -> Node:
    """This machine as a launcher's node; `found` are its GPUs where they are known already."""
    found = gpus() if found is None else found
    kinds = {accelerator(gpu.name) for gpu in found}
    return Node(
        name=name,
        host=socket.gethostname(),
        cpus=cpus(),
        gpus=len(found),
        memory=memory(),
        accelerator=kinds.pop() if len(kinds) == 1 else None,
        gpu_memory=min((gpu.memory for gpu in found), default=0),  # a run must fit whichever it gets
    )


def _cgroup(controller: str, name: str) -> str:
    """A file of this process's control group: of version 1 with a controller, else of version 2; empty if not there.

    A container often sees its own group as the root of the mount, whatever path the kernel names.
    """
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            mount = CGROUPS / controller
            return _read(mount / path.lstrip("/") / name) or _read(mount / name)
    return ""


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
