"""How fast frozen features are read out: whole tasks against the reference study's way, each part against its peer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from scaling.data.phantoms import Phantoms
from scaling.data.source import Task
from scaling.data.views import normalise
from scaling.models.vit import Encoder
from scaling.options import Options
from scaling.probe_options import BiovfmOptions, KnnOptions, LinearOptions
from scaling.probes import logistic
from scaling.probes.basis import principal_axes
from scaling.probes.evaluate import probe_task
from scaling.probes.features import TaskFeatures, parts_of, task_features
from scaling.probes.kept import Kept, digest_of
from scaling.probes.metrics import auc
from scaling.probes.ridge import predicted, solve_ridge
from scaling.rundir import beside
from scaling.source_options import PhantomsOptions
from scaling.worker import FEATURE_BATCH
from tests.benchmarks.numerics import DEVICE, measured, shape
from tests.benchmarks.rows import Benchmark, Row, seconds_of

EPOCHS, BATCH = 100, 128
"""Of the reference study's head (BioVFM@5fc0e0d: evaluation/MyLitModel.py)."""
SPLIT = {"n_train": 256, "n_val": 36, "n_test": 72}
"""In about the proportions of MedMNIST's twelve sets together."""


@functools.cache
def tasks() -> tuple[Task, ...]:
    source = Phantoms(PhantomsOptions(source="phantoms", image_size=32, channels=1, **SPLIT))
    return tuple(source.task(info.name) for info in source.tasks())


@functools.cache
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(shape("vit_ti", image_size=32, channels=1)).to(DEVICE).eval()


@torch.inference_mode()
def features_of(task: Task) -> TaskFeatures:
    return task_features(
        lambda images: parts_of(encoder()(normalise(images))),
        task,
        max_train=None,
        seed=0,
        batch_size=FEATURE_BATCH[DEVICE.type],
        device=DEVICE,
    )


def read(features: TaskFeatures, **probes: Options) -> None:
    probe_task(features, probes, pool="both", seed=0, device=DEVICE, n_boot=200)


def study_step(head: nn.Module, adam: torch.optim.Optimizer, images: Tensor, labels: Tensor, k: int) -> None:
    """Forward through the frozen encoder, head, backward, step; their augmentation of the images left out."""
    with torch.no_grad():
        pooled = encoder()(normalise(images))[:, 1:].mean(dim=1)
    z = head(pooled)
    loss = F.binary_cross_entropy_with_logits(z, labels.float()) if labels.ndim == 2 else F.cross_entropy(z, labels)
    adam.zero_grad(set_to_none=True)
    loss.backward()
    adam.step()


def study_seconds() -> float:
    """Of training all tasks' heads through the frozen encoder, from a few steps of each and a validation batch."""
    total = 0.0
    for task in tasks():
        width, k = encoder().shape.width, task.info.n_classes
        head = nn.Sequential(nn.BatchNorm1d(width, affine=False, eps=1e-6), nn.Linear(width, k)).to(DEVICE)
        adam = torch.optim.AdamW(head.parameters(), lr=1e-2, weight_decay=0)
        images = torch.from_numpy(task.train.images[:BATCH]).to(DEVICE)
        labels = torch.from_numpy(task.train.labels[:BATCH]).to(DEVICE)
        val = torch.from_numpy(task.val.images).to(DEVICE)
        step = functools.partial(study_step, head, adam, images, labels, k)

        @torch.no_grad()
        def validate(val: Tensor = val) -> None:
            encoder()(normalise(val))

        a, b = measured(step, validate, repeats=2)
        total += EPOCHS * (len(task.train.labels) // BATCH * a + b)
    return total


def tasks_against_the_reference_study() -> Iterator[Row]:
    """Five tasks from images to results, and from kept features, against training the study's head for 100 epochs."""
    peer = study_seconds()
    note = "theirs: 2 steps a task, scaled to 100 epochs with their validations; no augmentation on either side"
    found: list[TaskFeatures] = []
    forward = seconds_of(lambda: found.extend(map(features_of, tasks())))
    options: dict[str, Options] = {"linear": LinearOptions(), "knn": KnnOptions()}
    with TemporaryDirectory() as folder:
        kept = Kept(
            folder=Path(folder), encoder=digest_of(encoder()), max_train=None, seed=0, limit=2**30, place=beside
        )
        for features in found:
            kept.write(features)

        def again(probes: dict[str, Options]) -> Callable[[], Any]:
            return lambda: [read(f, **probes) for task in tasks() if (f := kept.read(task.info)) is not None]

        ours, study = measured(again(options), again({"biovfm": BiovfmOptions()}), repeats=3)
    what = f"5 tasks of {sum(SPLIT.values())} images, ViT-Tiny 32/4"
    named = f"study's head through the frozen encoder {peer:,.0f} s"
    for said, seconds in (
        ("forward pass, linear and kNN", forward + ours),
        ("linear and kNN from kept features", ours),
        ("forward pass, protocol biovfm", forward + study),
        ("protocol biovfm from kept features", study),
    ):
        yield Row(what=f"{what}: {said}", ours=f"{seconds:.2f} s", peer=named, ratio=peer / seconds, note=note)


def features_like_an_encoders(n: int, width: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Standardised, their spectrum falling as 1 / rank in amplitude, classes of unequal difficulty."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, width)) / np.arange(1, width + 1)
    labels = (x[:, :32] @ rng.normal(size=(32, k)) + 0.3 * rng.normal(size=(n, k))).argmax(axis=1)
    x = x @ np.linalg.qr(rng.normal(size=(width, width)))[0]
    return ((x - x.mean(axis=0)) / x.std(axis=0)).astype(np.float32), labels


STRENGTHS = np.geomspace(1e-4, 1e2, 7)
Fits = list[tuple[np.ndarray, np.ndarray]]
"""Scores of the training images and weights without intercept, of each strength."""


def our_fits(features: Tensor, targets: Tensor) -> Fits:
    axes = principal_axes(features)
    z = axes.of(features)
    solution = logistic.solve(z, axes.variance, targets, STRENGTHS, sigmoid=targets.shape[1] == 1)
    both = (logistic.logits(z, solution.weights), solution.weights[..., :-1])
    return list(zip(*(part.double().cpu().numpy() for part in both), strict=True))


def sklearn_fits(x: np.ndarray, labels: np.ndarray) -> Fits:
    model, found = LogisticRegression(max_iter=2000, warm_start=True), []
    for c in STRENGTHS:
        model.set_params(C=c).fit(x, labels)
        found.append((model.decision_function(x), model.coef_.copy()))
    return found


def path_against_sklearn() -> Iterator[Row]:
    """All strengths together against one LogisticRegression per strength, warm-started; how near each is to optimal."""
    for n, width, k in ((4000, 96, 6), (5000, 384, 9), (2000, 768, 2)):
        x, labels = features_like_an_encoders(n, width, k)
        features = torch.from_numpy(x).to(DEVICE)
        targets = torch.from_numpy(labels[:, None].astype(float) if k == 2 else np.eye(k)[labels]).to(DEVICE)
        ours, theirs = functools.partial(our_fits, features, targets), functools.partial(sklearn_fits, x, labels)
        a, b = measured(ours, theirs, repeats=3)
        gaps = [
            objective(*peer, labels, c) - objective(*mine, labels, c)
            for mine, peer, c in zip(ours(), theirs(), STRENGTHS, strict=True)
        ]
        yield Row(
            what=f"linear probe, {n} x {width}, {k} classes, 7 strengths, axes included",
            ours=f"{a:.2f} s",
            peer=f"sklearn {b:.2f} s",
            ratio=b / a,
            note=f"sklearn's mean objective is above ours by {min(gaps):.0e} to {max(gaps):.0e}",
        )


def objective(z: np.ndarray, weights: np.ndarray, labels: np.ndarray, c: float) -> float:
    z = z.reshape(len(labels), -1)
    z = np.concatenate([np.zeros_like(z), z], axis=1) if z.shape[1] == 1 else z
    penalty = float((weights**2).sum()) / (2 * c * len(labels))
    return float(-log_softmax(z, axis=1)[np.arange(len(labels)), labels].mean()) + penalty


def ridge_against_sklearn() -> Iterator[Row]:
    """Thirteen penalties from one eigenproblem against one RidgeClassifier each."""
    x, labels = features_like_an_encoders(5000, 384, 9)
    features, targets = torch.from_numpy(x).to(DEVICE), torch.from_numpy(np.eye(9)[labels]).to(DEVICE)
    penalties = np.geomspace(1e-4, 1e2, 13)

    def ours() -> None:
        axes = principal_axes(features)
        predicted(axes, features, *solve_ridge(axes, features, targets, penalties))

    def sklearn() -> None:
        for penalty in penalties:
            RidgeClassifier(alpha=penalty * len(x)).fit(x, labels).decision_function(x)

    a, b = measured(ours, sklearn, repeats=3)
    yield Row(
        what="ridge probe, 5000 x 384, 9 classes, 13 penalties",
        ours=f"{a:.2f} s",
        peer=f"sklearn {b:.2f} s",
        ratio=b / a,
    )


def bootstrap_against_sklearn() -> Iterator[Row]:
    """500 bootstrap resamples of an AUC against sklearn's AUC in a loop."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 1000)
    scores = rng.normal(size=1000) + labels

    def sklearn() -> None:
        for _ in range(500):
            drawn = rng.integers(0, 1000, 1000)
            roc_auc_score(labels[drawn], scores[drawn])

    a, b = measured(lambda: auc(scores[:, None], labels, "binary", n_boot=500), sklearn, repeats=3)
    yield Row(
        what="standard error of an AUC, 1000 images, 500 resamples",
        ours=f"{a * 1e3:.0f} ms",
        peer=f"sklearn in a loop {b * 1e3:.0f} ms",
        ratio=b / a,
    )


BENCHMARKS: tuple[Benchmark, ...] = (
    tasks_against_the_reference_study,
    path_against_sklearn,
    ridge_against_sklearn,
    bootstrap_against_sklearn,
)
