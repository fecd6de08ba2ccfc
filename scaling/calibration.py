"""What was measured about the memory and the speed of a shape on a device, one small file per measurement.

`scaling/calibrate.py` measures; everything that plans reads. No torch here, so that a plan needs none.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from scaling.catalog import ALGORITHMS
from scaling.grid import RunSpec, fingerprint
from scaling.options import Recipe
from scaling.rundir import write_json

SCHEMA = 1
"""Raised when the meaning of a measurement changes; older ones are then found no more."""
NO_MATTER = set(Recipe.model_fields) - {"drop_path"} | {"labels"}
"""Options that change neither memory nor speed: how fast the optimiser moves, and what a few small heads learn."""

RESIDENT = 0.4
"""Share of a device's free memory that images may take for a whole run; the rest is the step's."""
STREAMED = 2
"""Batches that images beyond it are held of: the one that is trained on and the next."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A few real steps of one shape on one device."""

    device: str
    """As torch names it, e.g. `NVIDIA H100 80GB HBM3`; `cpu: x86_64, 2 threads` without a GPU."""
    device_memory_bytes: int
    """All of one GPU; of the machine without a GPU."""
    shape_key: str
    model: str
    algorithm: str
    batch_size: int
    """Images per optimiser step."""
    n_micro: int
    precision: str
    """As the device resolves it: bf16 or fp32."""
    memory_bytes: int
    """Of the device, without the resident images of a run: peak reserved and an estimate of CUDA's context; the peak
    growth of the process without a GPU."""
    host_memory_bytes: int
    """Peak resident set of the whole process, without the images of a run."""
    images_per_second: float
    """Median over the measured steps."""
    seconds: float
    """The measurement took, set-up included."""
    recomputed: bool = False
    """As `Job` has it."""

    def gpu_bytes(self, spec: RunSpec, share: float = 1.0) -> int:
        """GPU memory a run of this shape takes with its own images, on so much of a GPU."""
        return self.memory_bytes + image_bytes(spec, int(self.device_memory_bytes * share))

    def host_bytes(self, spec: RunSpec) -> int:
        """Host memory a run of this shape takes with its own images, without a GPU."""
        return self.host_memory_bytes + image_bytes(spec, self.device_memory_bytes)


def image_bytes(spec: RunSpec, memory: int = 0) -> int:
    """uint8 pretraining images on a device with so much memory, 0 is unknown: all of them where `feed_of` keeps them
    there, else the batches that it streams."""
    one = spec.channels * spec.image_size**2
    resident = memory == 0 or spec.n_unique * one <= RESIDENT * memory
    return (spec.n_unique if resident else min(spec.n_unique, STREAMED * spec.batch_size)) * one


def shape_key(spec: RunSpec, n_micro: int, *, recomputed: bool = False) -> str:
    """12 hex digits of all that decides memory and speed: not the seed, the images, the length, the learning rate.

    A rank of several has the key of `n_micro` x ranks: it holds as many images at a time.
    """
    identity = {
        "schema": SCHEMA,
        "algorithm": spec.algorithm,
        "algorithm_version": ALGORITHMS[spec.algorithm].version,
        "options": spec.options.model_dump(mode="json", exclude=NO_MATTER),
        "n_micro": n_micro,
    }
    if recomputed:  # not written out where it is not so: older measurements still hold
        identity["recomputed"] = True
    for field in ("width", "depth", "heads", "image_size", "channels", "patch_size", "batch_size", "precision"):
        identity[field] = getattr(spec, field)
    return fingerprint(identity)


def save(root: Path, calibration: Calibration) -> Path:
    """Keeps the newest measurement of a shape on a device."""
    slug = re.sub(r"[^a-z0-9]+", "-", calibration.device.lower()).strip("-")
    path = root / "calibration" / slug / f"{calibration.shape_key}.json"
    write_json(path, asdict(calibration))
    return path


def load_calibrations(root: Path) -> list[Calibration]:
    """All measurements under `root`, in a fixed order; files of another version of this program are left out."""
    found = []
    for path in sorted((root / "calibration").glob("*/*.json")):
        with suppress(TypeError, FileNotFoundError):  # other fields; taken away meanwhile
            found.append(Calibration(**json.loads(path.read_text())))
    return found
