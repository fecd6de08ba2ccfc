"""The plan of a sweep whose data is not on this machine, and the machine its price is for."""

from __future__ import annotations

import math
from pathlib import Path

from scaling.accelerators import ACCELERATORS
from scaling.choice import tuned_options
from scaling.config import load
from scaling.errors import DataMissing
from scaling.expected import Expected
from scaling.launch.launcher import Node
from scaling.plan import Plan, make_plan


def price(path: Path, missing: DataMissing) -> Plan:
    """Of what is expected of the data. Raises SpecError for a sweep that could not be run if the data were here."""
    sweep, document = load(path)
    expected = Expected(sweep.data, missing.problems)
    return make_plan(sweep, document, expected, tuned_options(sweep, Path(sweep.root).resolve()))


def stated(plan: Plan) -> Node | None:
    """A machine with the GPUs that the YAML names, for a plan that cannot be carried out here anyway."""
    wanted = plan.sweep.resources
    known = ACCELERATORS.get(wanted.accelerator or "")
    if not plan.missing or known is None or wanted.accelerator is None:
        return None
    gpus = wanted.gpus if isinstance(wanted.gpus, float) else float(wanted.processes or 1)
    return Node(
        name="stated",
        host=f"not here: what the YAML's resources name, {wanted.accelerator}",
        cpus=wanted.cpus,
        gpus=max(1, math.ceil(gpus)),
        accelerator=wanted.accelerator,
        gpu_memory=known.memory_gb * 2**30,
    )
