"""The load that a run puts on its machine, and the words for where it computes."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch

from scaling.environment import Meter, provenance, resident_bytes

CPU = torch.device("cpu")


def test_a_busy_process_shows_its_load_and_an_idle_one_none() -> None:
    meter = Meter(CPU)
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    busy = meter.read()["system/cpu_percent"]
    time.sleep(0.3)
    idle = meter.read()["system/cpu_percent"]
    assert busy > 3 * idle  # both of this process alone, so other load on the machine lowers them together
    assert 0 <= idle < 50


def test_memory_in_use_is_seen() -> None:
    before = resident_bytes()
    held = np.ones(50 * 2**20, np.uint8)
    assert resident_bytes() - before > 40 * 2**20
    assert held.all()


def test_provenance_is_plain_json_without_a_gpu() -> None:
    said = provenance(CPU)
    assert json.loads(json.dumps(said)) == said
    assert said["gpu"] is None


@pytest.mark.gpu
def test_a_gpu_is_told_with_its_driver_and_its_load() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    device = torch.device("cuda", 0)
    said = provenance(device)["gpu"]
    assert said["name"] == torch.cuda.get_device_name(0)
    assert len(said["uuid"]) == 36
    held = torch.ones(2**28, dtype=torch.uint8, device=device)
    load = Meter(device).read()
    assert load["system/gpu_memory_gb"] >= held.numel() / 2**30
    assert 0 <= load["system/gpu_utilization"] <= 100
