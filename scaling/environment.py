"""With what a run computes: the words for its record and provenance, and the load it puts on its machine."""

from __future__ import annotations

import ctypes
import getpass
import importlib.metadata
import os
import platform
import re
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

NVML_SUCCESS = 0


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def environment(device: torch.device, precision: str) -> dict[str, Any]:
    """Where and with what a run was computed, for its record."""
    return {
        "host": platform.node(),
        "device": f"{device.type}: {device_name(device)}",
        "precision": precision,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def provenance(device: torch.device) -> dict[str, Any]:
    """All of `environment` but the precision, and what else may matter when a number is questioned."""
    found = {
        **environment(device, ""),
        "pid": os.getpid(),
        "user": _user(),
        "argv": sys.argv,
        "code": str(Path(__file__).resolve().parents[1]),
        "platform": platform.platform(),
        "numpy": _version("numpy"),
        "timm": _version("timm"),
        "gpu": None,
    }
    del found["precision"]
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["gpu"] = {
            "name": properties.name,
            "uuid": str(properties.uuid),
            "memory_bytes": properties.total_memory,
            "driver": _driver(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


def _version(package: str) -> str:
    """Of what is loaded; its metadata, which take ten milliseconds to read, only where it is not."""
    loaded = getattr(sys.modules.get(package), "__version__", None)
    return str(loaded or importlib.metadata.version(package))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for its user
        return str(os.getuid())


def _driver() -> str | None:
    with suppress(OSError):
        found = re.search(r"Kernel Module\D*([\d.]+)", Path("/proc/driver/nvidia/version").read_text())
        return found[1] if found else None
    return None


def resident_bytes() -> int:
    """Memory of this process now; its peak where the system does not say."""
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class _Utilisation(ctypes.Structure):
    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class Meter:
    """The load since the last reading; microseconds to read."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._at, self._cpu = time.monotonic(), time.process_time()
        self._nvml: ctypes.CDLL | None = None
        self._handle = ctypes.c_void_p()
        if device.type == "cuda":
            self._nvml, self._handle = _nvml(device)

    def read(self) -> dict[str, float]:
        """system/cpu_percent of one core, rss_gb, and on a GPU gpu_memory_gb (peak since the last reading) and
        gpu_utilization (percent, over the driver's last sample)."""
        now, cpu = time.monotonic(), time.process_time()
        percent = 100 * (cpu - self._cpu) / max(now - self._at, 1e-9)
        self._at, self._cpu = now, cpu
        load = {"system/cpu_percent": round(percent, 1), "system/rss_gb": round(resident_bytes() / 2**30, 3)}
        if self.device.type == "cuda":
            load["system/gpu_memory_gb"] = round(torch.cuda.max_memory_allocated(self.device) / 2**30, 3)
            torch.cuda.reset_peak_memory_stats(self.device)
            busy = _Utilisation()
            if self._nvml and self._nvml.nvmlDeviceGetUtilizationRates(self._handle, ctypes.byref(busy)) == 0:
                load["system/gpu_utilization"] = float(busy.gpu)
        return load


def _nvml(device: torch.device) -> tuple[ctypes.CDLL | None, ctypes.c_void_p]:
    """The driver's own library, which is there wherever a GPU is, and its handle of the device."""
    handle = ctypes.c_void_p()
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None, handle
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()
    found = nvml.nvmlInit_v2() == NVML_SUCCESS
    found = found and nvml.nvmlDeviceGetHandleByUUID(uuid, ctypes.byref(handle)) == NVML_SUCCESS
    return (nvml if found else None), handle
