"""Frozen features of a task: one forward pass per checkpoint gives all read-outs both pools, standardised, in fp16."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scaling.data.source import Images, Split, Task, TaskInfo
from scaling.probes.basis import Axes, principal_axes

Part = Literal["cls", "mean"]
Pool = Literal["cls", "mean", "both"]
Encode = Callable[[Tensor], Mapping[Part, Tensor]]
"""uint8 images (b, c, h, w) -> class token and mean of the patch tokens, (b, d) each; the second if there are any."""
SPLITS = ("train", "val", "test")
CONSTANT = 1e-6
"""A feature that varies less than this share of its mean is rounding, and becomes 0."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    features: Tensor
    """(n, d) fp32 on the device of the read-outs, standardised by the training split."""
    labels: NDArray[np.int64]
    """(n,), or (n, n_labels) of 0/1 for multi-label."""


@dataclass(frozen=True, kw_only=True)
class Splits:
    train: Labelled
    val: Labelled
    test: Labelled

    @functools.cached_property
    def axes(self) -> Axes:
        """Of the training features, once for all read-outs that want them."""
        return principal_axes(self.train.features)

    @property
    def finite(self) -> bool:
        return all(bool(s.features.isfinite().all()) for s in (self.train, self.val, self.test))


@dataclass(frozen=True, kw_only=True)
class TaskFeatures:
    """What a checkpoint says of a task's images, and their labels: all that any read-out needs."""

    info: TaskInfo
    parts: Mapping[str, Mapping[Part, NDArray[np.float16]]]
    """Split -> pool -> (n, d), standardised by the training split."""
    labels: Mapping[str, NDArray[np.int64]]

    def pooled(self, pool: Pool, device: torch.device) -> Splits:
        """The features of a pool on the device; where there are no patches, the class token is all there is."""

        def split(name: str) -> Labelled:
            there = self.parts[name]
            wanted: list[Part] = ["cls", "mean"] if pool == "both" else [pool]
            chosen = [there[part] for part in wanted if part in there] or [there["cls"]]
            moved = [torch.from_numpy(part).to(device).float() for part in chosen]
            return Labelled(features=torch.cat(moved, dim=1), labels=self.labels[name])

        return Splits(train=split("train"), val=split("val"), test=split("test"))


def parts_of(tokens_BND: Tensor) -> dict[Part, Tensor]:
    """Class token first, as an encoder gives them -> what can be read of each image."""
    cls, patches = tokens_BND[:, 0], tokens_BND[:, 1:]
    return {"cls": cls, "mean": patches.mean(dim=1)} if patches.shape[1] else {"cls": cls}


@torch.inference_mode()
def extract(encode: Encode, images: Images, *, batch_size: int, device: torch.device) -> dict[Part, Tensor]:
    """(n, d) fp32 on the device, for each pool there is."""
    found: dict[Part, list[Tensor]] = {}
    for start in range(0, len(images), batch_size):
        for part, values in encode(torch.from_numpy(images[start : start + batch_size]).to(device)).items():
            found.setdefault(part, []).append(values.float())
    return {part: torch.cat(values) for part, values in found.items()}


def subset(labels: NDArray[np.int64], largest: int | None, seed: int) -> NDArray[np.int64]:
    """At most `largest` positions, the classes in proportion and each at least once; all where they are fewer."""
    if largest is None or len(labels) <= largest:
        return np.arange(len(labels))
    generator = np.random.default_rng(seed)
    if labels.ndim == 2:
        return np.sort(generator.permutation(len(labels))[:largest])
    turns = np.empty(len(labels))  # the smallest win: Sainte-Lague's apportionment, after one image of each class
    for c in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == c))
        turns[members] = (np.arange(len(members)) + 0.5) / len(members)
        turns[members[0]] = -1
    return np.sort(np.argsort(turns, kind="stable")[:largest])


def task_features(
    encode: Encode, task: Task, *, max_train: int | None, seed: int, batch_size: int, device: torch.device
) -> TaskFeatures:
    """One forward pass over the task. fp16 after standardising, so that neither scale nor offset costs precision."""
    chosen = subset(task.train.labels, max_train, seed)
    train = task.train
    if len(chosen) < len(train.labels):  # else no copy: the images may be a mapped file larger than memory
        train = Split(images=train.images[chosen], labels=train.labels[chosen])
    splits = {"train": train, "val": task.val, "test": task.test}
    raw = {name: extract(encode, s.images, batch_size=batch_size, device=device) for name, s in splits.items()}
    centres = {part: moments(values) for part, values in raw["train"].items()}
    parts = {
        name: {part: _halved(standardise(values, *centres[part])) for part, values in found.items()}
        for name, found in raw.items()
    }
    return TaskFeatures(info=task.info, parts=parts, labels={name: s.labels for name, s in splits.items()})


def moments(train_ND: Tensor) -> tuple[Tensor, Tensor]:
    """(d,) mean and inverse deviation in fp64; 0 for a feature that never changes."""
    values = train_ND.double()
    mean, deviation = values.mean(dim=0), values.std(dim=0, correction=0)
    varies = (deviation > CONSTANT * mean.abs()) | ~deviation.isfinite()
    return mean, torch.where(varies, 1 / deviation, 0.0)


def standardise(values_ND: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """fp32. What is not finite stays so, also where a constant feature would be 0."""
    moved = (values_ND.double() - mean) * scale
    return torch.where(values_ND.isfinite(), moved, torch.nan).float()


def _halved(values: Tensor) -> NDArray[np.float16]:
    largest = torch.finfo(torch.float16).max  # a value so far out stays far out; fp16 would make it infinite
    bounded = torch.where(values.isfinite(), values.clamp(-largest, largest), values)
    return bounded.half().cpu().numpy()
