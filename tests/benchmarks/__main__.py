"""`make bench`: each number as a ratio to a peer or a limit, both measured in one run, because machines are noisy.

Prints a Markdown table for results/benchmarks.md; `python -m tests.benchmarks orchestration` only that module's rows.
Ours and the peer's repeats alternate where they are short; the ratio is that of medians.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
from collections.abc import Iterable
from datetime import date
from pathlib import Path

import torch

MODULES = ("numerics", "ssl", "probes", "orchestration", "laws", "phantoms", "data", "contamination", "importing")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(MODULES)} (default: all)")
    parser.add_argument("--only", default="", help="benchmarks whose name contains this")
    given = parser.parse_args()
    if wrong := set(given.modules) - set(MODULES):
        parser.error(f"no such module: {', '.join(sorted(wrong))}; there are {', '.join(MODULES)}")
    torch.set_num_threads(1)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "one CPU thread"
    cpu = next((x.split(":")[1].strip() for x in _lines("/proc/cpuinfo") if x.startswith("model name")), "")
    where = f"{device}; {os.cpu_count()} x {cpu or platform.machine()}; torch {torch.__version__}"
    command = " ".join(["make bench" if not given.modules else "python -m tests.benchmarks", *given.modules])
    print(f"{date.today()}, `{command}`, {where}\n")
    print("| what | ours | peer or limit | ratio | |\n|---|---|---|---|---|")
    for name in given.modules or MODULES:
        for benchmark in importlib.import_module(f"tests.benchmarks.{name}").BENCHMARKS:
            if given.only in getattr(benchmark, "__name__", ""):
                for row in benchmark():
                    print(row, flush=True)


def _lines(path: str) -> Iterable[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


if __name__ == "__main__":
    main()
