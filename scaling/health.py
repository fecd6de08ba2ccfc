"""Whether a representation still tells images apart while it is trained: its spread, its rank, its teacher's entropy.

A collapsed run has a falling loss and features that say nothing; a law must not be bent by it. All is measured on a
fixed batch of the run's own images by the probed encoder at rest, which changes no bit of the training.
Letters: n images, d features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scaling.cost import cost_of, shape_of
from scaling.data.rows import Stored
from scaling.data.views import normalise
from scaling.grid import RunSpec
from scaling.models.shape import encoder_flops

SHARE = 0.01
"""Of the training's FLOPs that measuring takes, where that buys the fewest images and points below."""
N_IMAGES, N_POINTS = (32, 256), (5, 20)
"""Fewest and most."""
CHUNK = 64
"""Images per forward pass."""
STD_LEFT, RANK_LEFT = 0.05, 0.1
"""Shares of their value at initialisation, for RankMe of its excess over 1, below which features count as flat.
Healthy small runs kept 0.5 (MAE) to 1.5 (DINOv2) of the deviation and 0.45 to 3 of the rank; planted collapses none."""
ENTROPY_EDGE = 1e-3
"""A teacher this near to no entropy or to ln P, as a share of ln P, tells the student nothing."""
NOT_BEFORE, HELD_FOR = 0.5, 0.3
"""Shares of the run: when the verdict may first fall, and for how long it must have held at every measurement."""
PREFIX = "health/"
Context = Callable[[], AbstractContextManager[None]]
"""Autocast as in training."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    step: int
    feature_std: float
    """Standard deviation over images of L2-normalised features times sqrt(d), mean over features: 0 is collapse, 1 is
    no direction in common (Chen & He 2021, arXiv 2011.10566, section 4.1)."""
    rankme: float
    """Effective number of dimensions: exp of the entropy of the singular values' shares, not centred (Garrido et al.
    2023, arXiv 2210.02885, equation 1); 1 to min(n, d)."""
    teacher_entropy: float | None = None
    """As a share of its bound ln P, 0-1; None without a teacher."""

    def line(self) -> dict[str, float]:
        """For metrics.jsonl; what is not finite is left out."""
        values = {k: v for k, v in vars(self).items() if k != "step" and v is not None and math.isfinite(v)}
        return {PREFIX + key: value for key, value in values.items()}

    @classmethod
    def of_line(cls, line: Mapping[str, float]) -> Reading | None:
        """None for a line without any."""
        found = {key.removeprefix(PREFIX): value for key, value in line.items() if key.startswith(PREFIX)}
        if not found:
            return None
        return cls(step=int(line["step"]), **{"feature_std": math.nan, "rankme": math.nan, **found})


def feature_std(features_ND: Tensor) -> float:
    unit = F.normalize(features_ND.double(), dim=1)
    return float(unit.std(dim=0, correction=0).mean()) * math.sqrt(features_ND.shape[1])


def rankme(features_ND: Tensor) -> float:
    """NaN for features that are not finite or all zero. By the eigenvalues of the Gram matrix, in fp64."""
    x = features_ND.double()
    gram = x @ x.T if len(x) <= x.shape[1] else x.T @ x
    if not bool(gram.isfinite().all()):
        return math.nan
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def reasons(reading: Reading, initial: Reading) -> list[str]:
    """What is wrong with it; empty when all is well. Nothing is said of what could not be measured."""
    found = []
    if reading.feature_std < STD_LEFT * initial.feature_std:
        found.append(
            f"the features' standard deviation is {reading.feature_std:.2g}, below {STD_LEFT:.0%} of the "
            f"{initial.feature_std:.2g} at initialisation"
        )
    if reading.rankme - 1 < RANK_LEFT * (initial.rankme - 1):
        found.append(
            f"RankMe is {reading.rankme:.3g}, its excess over 1 below {RANK_LEFT:.0%} of that at initialisation "
            f"({initial.rankme:.3g})"
        )
    entropy = reading.teacher_entropy
    if entropy is not None and not ENTROPY_EDGE <= entropy <= 1 - ENTROPY_EDGE:
        found.append(f"the teacher's entropy is {entropy:.4f} of its bound, so that it tells nothing")
    return found


def verdict(readings: Iterable[Reading], initial: Reading, n_steps: int) -> str:
    """Why the run counts as collapsed; empty when it does not.

    Conservative: not in the first half of the run, and only if something was wrong at every measurement of its last
    30 %, two at least. A run that recovers, or starts slowly as DINO does, is not called collapsed.
    """
    known = list(readings)
    if not known or known[-1].step < NOT_BEFORE * n_steps:
        return ""
    last = known[-1].step
    recent = [reading for reading in known if reading.step > last - HELD_FOR * n_steps]
    if len(recent) < 2 or not all(reasons(reading, initial) for reading in recent):
        return ""
    return f"{'; '.join(reasons(known[-1], initial))}; something was amiss since step {recent[0].step} of {n_steps}"


def affordable(spec: RunSpec, share: float) -> int:
    """Images that the encoder can see whole for so large a share of the training's FLOPs."""
    shape = shape_of(spec)
    return int(share * cost_of(spec).train_flops / encoder_flops(shape, shape.n_patches))


def due(step: int, every: int, n_steps: int, points: int) -> bool:
    """Whether one of `points` even parts of the run ended since the logged step before, `every` steps ago.

    Depends on the step alone, so that a resumed run measures at the same ones.
    """
    return step * points // n_steps > max(0, step - every) * points // n_steps


@contextmanager
def at_rest(module: nn.Module, context: Context) -> Iterator[None]:
    """In eval mode and without gradients; afterwards each submodule is in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad(), context():  # tensors of inference mode could not be used in training if one is cached
            yield
    finally:
        for part, mode in modes:
            part.training = mode


class Watch:
    """Measures a run at a few of its logged steps. Made at initialisation, by whose values later ones are judged; in
    every attempt anew, as they follow from the seed."""

    def __init__(
        self, spec: RunSpec, encoder: nn.Module, images: Stored, device: torch.device, context: Context
    ) -> None:
        self.spec, self.context = spec, context
        images_bought = affordable(spec, SHARE)
        n = min(len(images), max(N_IMAGES[0], min(N_IMAGES[1], images_bought // (N_POINTS[1] + 1))))
        self.points = max(N_POINTS[0], min(N_POINTS[1], images_bought // n - 1))
        rows = np.linspace(0, len(images) - 1, n).round().astype(int)
        self.images = torch.from_numpy(images[rows]).to(device)
        prototypes = getattr(spec.options, "prototypes", None)
        judged = prototypes is not None and getattr(spec.options, "dino_weight", 1.0) > 0
        self.bound = math.log(prototypes) if judged and prototypes else None
        """Of the entropy of the teacher's class tokens, nats."""
        self.readings: list[Reading] = []
        self.initial = self._read(encoder, 0, None)

    def recall(self, lines: Iterable[Mapping[str, float]], until: int) -> None:
        """What earlier attempts logged up to step `until`."""
        found = (Reading.of_line(line) for line in lines if line["step"] <= until)
        self.readings = [reading for reading in found if reading is not None]

    def measure(self, encoder: nn.Module, step: int, terms: Mapping[str, Tensor]) -> dict[str, float]:
        """For metrics.jsonl. `terms` are those of the step's loss."""
        entropy = terms.get("teacher_entropy")
        share = None if entropy is None or self.bound is None else float(entropy) / self.bound
        reading = self._read(encoder, step, share)
        self.readings.append(reading)
        return reading.line()

    def verdict(self) -> str:
        """Why the run counts as collapsed; empty when it does not."""
        return verdict(self.readings, self.initial, self.spec.n_steps)

    def _read(self, encoder: nn.Module, step: int, entropy: float | None) -> Reading:
        with at_rest(encoder, self.context):
            found = [pooled(encoder(normalise(part))) for part in self.images.split(CHUNK)]
        features = torch.cat(found)
        return Reading(step=step, feature_std=feature_std(features), rankme=rankme(features), teacher_entropy=entropy)


def pooled(tokens_BND: Tensor) -> Tensor:
    """(B, 2 D) fp32: class token and mean of the patch tokens, whichever of them an objective trains."""
    tokens = tokens_BND.float()
    if tokens.shape[1] == 1:
        return tokens[:, 0]
    return torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1)
