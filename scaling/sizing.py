"""What one run is given: GPUs, ranks, micro-batches, memory. From measurements where there are any, else closed forms.

Pure: plan, nodes and measurements come in. Row of the driver, which asks for every run that it starts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scaling.calibration import Calibration
from scaling.cost import Calibrated
from scaling.launch.launcher import Node, Resources
from scaling.launch.machine import accelerator
from scaling.plan import Plan
from scaling.planned import PlannedRun

USABLE = 0.92
"""Share of a GPU's memory that runs may plan with; the rest is fragmentation and other people's."""


@dataclass(frozen=True, kw_only=True)
class Allotment:
    """What a run is given, and why."""

    resources: Resources
    n_ranks: int
    """Processes that share the run."""
    n_micro: int
    """Micro-batches per step and rank."""
    recomputed: bool
    """Whether activations are computed anew, because a single image a rank would not fit else."""
    need: int
    """Bytes: of the GPU for one rank, of the host without a GPU."""
    basis: Literal["measured", "estimated"]
    """Where `need` comes from."""
    calibrated: Calibration | None
    """The measurement behind it; None where it is estimated."""
    gpu_memory: int
    """Bytes of the smallest GPU it may get; 0 is unknown, or without a GPU."""

    @property
    def fits(self) -> bool:
        """Whether the need is within the GPU; also where nothing is known of it."""
        return self.gpu_memory == 0 or self.need <= USABLE * self.gpu_memory


class Sizer:
    """Sizes the runs of a plan for a set of nodes."""

    def __init__(self, plan: Plan, nodes: Sequence[Node], calibrations: Sequence[Calibration]) -> None:
        self.options = plan.sweep.resources
        able = [node for node in nodes if node.gpus > 0 and self.options.accelerator in (None, node.accelerator)]
        self.gpus = self._wanted(bool(able))
        known = [node.gpu_memory for node in able if node.gpu_memory] if self.gpus else []
        self.gpu_memory = min(known, default=0)
        self.memory = min((node.memory for node in nodes if node.memory), default=0)
        kinds = {node.accelerator for node in able} if self.gpus else set()
        self.calibrated = Calibrated([c for c in calibrations if _counts(c, kinds, self.options.cpus)])

    def _wanted(self, any_gpu: bool) -> float:
        """GPUs of a run before packing."""
        wanted = self.options.gpus
        if isinstance(wanted, str):
            # Whoever names a GPU type wants a GPU, and is told when there is none.
            return float(self.options.processes or 1) if any_gpu or self.options.accelerator else 0.0
        return 1 / round(1 / wanted) if 0 < wanted < 1 else wanted

    def size(self, run: PlannedRun) -> Allotment:
        gpus, trains = self.gpus, run.spec.images_seen > 0
        n_ranks = (self.options.processes or max(1, int(gpus))) if trains else 1
        if not trains and gpus > 1:
            gpus = 1.0
        n_micro, recomputed, need, calibrated = self._fit(run, n_ranks, min(1.0, gpus))
        if self.options.gpus == "packed" and calibrated is not None and self.gpu_memory and gpus == 1:
            k = int(USABLE * self.gpu_memory / need)
            gpus = 1 / k if k >= 2 else 1.0
        return Allotment(
            resources=Resources(
                cpus=self.options.cpus,
                gpus=gpus,
                memory=int((self.options.memory_gb or 0) * 2**30),
                accelerator=self.options.accelerator,
            ),
            n_ranks=n_ranks,
            n_micro=n_micro,
            recomputed=recomputed,
            need=need,
            basis="measured" if calibrated else "estimated",
            calibrated=calibrated,
            gpu_memory=int(self.gpu_memory * min(1.0, self.gpus)) if gpus else 0,
        )

    def _fit(self, run: PlannedRun, n_ranks: int, share: float) -> tuple[int, bool, int, Calibration | None]:
        """Fewest micro-batches, a power of two, with which a step fits the share of the GPU; whether it must compute
        activations anew, which micro-batches, costing no FLOPs, are tried before; and the need with both."""
        most = max(1, run.spec.batch_size // n_ranks) if run.spec.images_seen else 1
        room = USABLE * self.gpu_memory * share or math.inf
        parts = [2**i for i in range(most.bit_length())]
        ways = [(n_micro, recomputed) for recomputed in (False, run.spec.images_seen > 0) for n_micro in parts]
        for n_micro, recomputed in ways:
            need, calibrated = self._need(run, n_micro * n_ranks, recomputed, share)
            if need <= room:
                break
        return n_micro, recomputed, need, calibrated

    def _need(self, run: PlannedRun, parts: int, recomputed: bool, share: float) -> tuple[int, Calibration | None]:
        """Bytes with the batch in so many parts, and the measurement that says so."""
        found = self.calibrated.of(run.spec, parts, recomputed=recomputed)
        if found is None:
            on_gpu = self.gpus > 0
            memory = int(self.gpu_memory * share) if on_gpu else self.memory
            return run.cost.step_bytes(run.spec, parts, on_gpu=on_gpu, memory=memory, recomputed=recomputed), None
        return (found.gpu_bytes(run.spec, share) if self.gpus else found.host_bytes(run.spec)), found


def _counts(calibration: Calibration, kinds: set[str | None], cpus: int) -> bool:
    """Whether a measurement tells of these GPU types; without any, of a CPU with as many threads."""
    if kinds:
        return accelerator(calibration.device) in kinds
    return calibration.device.startswith("cpu") and calibration.device.endswith(f" {cpus} threads")


def resources_of(run: PlannedRun, plan: Plan, nodes: Sequence[Node], calibrations: Sequence[Calibration]) -> Resources:
    """Of one run; for many, keep a `Sizer`."""
    return Sizer(plan, nodes, calibrations).size(run).resources
