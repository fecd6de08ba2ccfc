"""How fast phantoms are drawn: each modality, the usual mixture, larger images; on all cores and per core-second."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from scaling.data.phantom_designs import MODALITIES
from scaling.data.phantoms import Phantoms
from scaling.source_options import PhantomsOptions
from tests.benchmarks.rows import Benchmark, Row, wall_and_cpu

AIM = 50_000
"""Images of 32 pixels a second on two cores; of each core half, which also a machine that others use can show."""


def drawn(what: str, n: int, **options: Any) -> Row:
    source = Phantoms(PhantomsOptions(**{"source": "phantoms", "pool_size": n, **options}))
    wall, cpu = wall_and_cpu(lambda: source.read(np.arange(n)), repeats=5)
    size = source.options.image_size
    aim = AIM / 2 * (32 / size) ** 2
    return Row(
        what=f"phantoms drawn, {what}, {size} px",
        ours=f"{n / cpu:,.0f} per core-second",
        peer=f"aim {aim:,.0f}",
        ratio=n / cpu / aim,
        note=f"{n / wall:,.0f} img/s on {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}",
    )


def mixtures() -> Iterator[Row]:
    yield drawn("the five modalities of the default", 16_384)
    yield drawn("all modalities", 16_384, modalities="all")
    yield drawn("the five modalities of the default", 4_096, image_size=64)
    yield drawn("all modalities in colour", 512, modalities="all", image_size=224, channels=3)


def modalities() -> Iterator[Row]:
    for name in MODALITIES:
        yield drawn(name, 8_192, modalities=[name])


BENCHMARKS: list[Benchmark] = [mixtures, modalities]
