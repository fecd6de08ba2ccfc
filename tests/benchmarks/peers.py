"""Programs of others that do the same, each run in an interpreter of its own; the last line they print is seconds."""

from __future__ import annotations

import os
import subprocess
import sys

RAY = """
import os, sys, time
import ray
ray.init(address="local", include_dashboard=False, object_store_memory=100 * 2**20, num_cpus={cpus},
         log_to_driver=False, logging_level="ERROR")
"""
TASKS = (
    RAY
    + """
def trivial(i):
    return os.getpid()

task = ray.remote(num_cpus=1, max_calls=1, max_retries=0)(trivial)
ray.get(task.remote(0))
started = time.perf_counter()
pids = ray.get([task.remote(i) for i in range({n})])
seconds = time.perf_counter() - started
assert len(set(pids)) == {n}, "a process served two tasks"
print(seconds)
"""
)
"""Ray tasks that each have a process of their own, once a first one was there."""
TUNE = (
    RAY
    + """
from ray import tune

def trivial(config):
    return {{"score": config["x"]}}

tuner = tune.Tuner(
    tune.with_resources(trivial, {{"cpu": 0.5}}),
    param_space={{"x": tune.grid_search(list(range({n})))}},
    run_config=tune.RunConfig(storage_path={folder!r}),
)
started = time.perf_counter()
results = tuner.fit()
seconds = time.perf_counter() - started
assert len(results) == {n} and not results.errors
print(seconds)
"""
)
"""Ray Tune as it comes, half a CPU a trial."""
READ = """
import json, sys, time
from pathlib import Path
started = time.perf_counter()
for run in Path({runs!r}).iterdir():
    for name in ("result.json", "failed.json", "lease.json", "heartbeat.json"):
        if (run / name).exists():
            json.loads((run / name).read_text())
    if {probes}:
        for probe in (run / "probes").iterdir():
            json.loads(probe.read_text())
print(time.perf_counter() - started)
"""
"""The files of runs read and parsed, and nothing made of them: what any status or table has to do."""


def seconds_of(program: str, **values: object) -> float:
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-W", "ignore", "-c", program.format(**values)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the peer failed with exit code {done.returncode}:\n{done.stderr[-4000:]}")
    return float(done.stdout.strip().splitlines()[-1])
