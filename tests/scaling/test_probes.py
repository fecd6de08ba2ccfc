"""The contract of every read-out in the catalog, what is particular to each, then whole tasks and kept features."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from scaling.catalog import PROBES
from scaling.data.source import Split, Task, TaskInfo, TaskKind
from scaling.errors import RunFailed
from scaling.options import Options
from scaling.probe_options import BiovfmOptions, KnnOptions
from scaling.probes import logistic
from scaling.probes.basis import principal_axes
from scaling.probes.biovfm import Biovfm, Head
from scaling.probes.evaluate import probe_task
from scaling.probes.features import Labelled, Part, Splits, TaskFeatures, parts_of, subset, task_features
from scaling.probes.kept import Kept, digest_of
from scaling.probes.knn import Knn
from scaling.probes.linear import choose, targets_of
from scaling.probes.metrics import auc
from scaling.probes.ridge import predicted, ridge_auc, solve_ridge
from scaling.records import ProbeResult
from scaling.rundir import beside

KINDS: list[TaskKind] = ["binary", "multi-class", "multi-label", "ordinal"]
SIZES = {"train": 300, "val": 200, "test": 1000}
QUICK: dict[str, dict[str, Any]] = {"biovfm": {"epochs": 30, "batch_size": 32}}
"""Settings that make a read-out quick enough for a test."""
CPU = torch.device("cpu")


def info_of(kind: TaskKind) -> TaskInfo:
    return TaskInfo(name="t", modality="ct", kind=kind, n_classes=2 if kind == "binary" else 3, identity="0")


def labels_of(rng: np.random.Generator, kind: TaskKind, n: int) -> NDArray[np.int64]:
    if kind == "multi-label":
        return rng.integers(0, 2, (n, 3))
    return rng.permutation(np.arange(n) % info_of(kind).n_classes)


def splits_of(kind: TaskKind, *, signal: float, seed: int = 0, width: int = 8) -> Splits:
    """Normal features; in direction c, class (or label) c is moved by `signal`; standardised as in a task."""
    rng = np.random.default_rng(seed)
    labels = {name: labels_of(rng, kind, n) for name, n in SIZES.items()}
    raw = {name: rng.normal(size=(n, width)) for name, n in SIZES.items()}
    for name, features in raw.items():
        features[:, :3] += signal * (labels[name] if kind == "multi-label" else np.eye(3)[labels[name]])
    mean, deviation = raw["train"].mean(axis=0), raw["train"].std(axis=0)
    return Splits(**{name: labelled((raw[name] - mean) / deviation, labels[name]) for name in SIZES})


def labelled(features: NDArray, labels: NDArray) -> Labelled:
    return Labelled(features=torch.from_numpy(features.astype(np.float32)), labels=labels)


def predict(name: str, splits: Splits, kind: TaskKind, **options: Any) -> tuple[NDArray, dict[str, Any]]:
    entry = PROBES[name]
    read_out = entry.load()(entry.options(**{**QUICK.get(name, {}), **options}))
    scores, settings = read_out.predict(splits, info_of(kind), seed=0)
    return scores, settings


def auc_of(scores: NDArray, splits: Splits, kind: TaskKind) -> float:
    value = auc(scores, splits.test.labels, kind).value
    assert value is not None
    return value


# --- the contract -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PROBES)
def test_labels_without_relation_to_the_features_give_the_stated_chance(name: str, kind: TaskKind) -> None:
    splits = splits_of(kind, signal=0.0)
    scores, _ = predict(name, splits, kind)
    n = SIZES["test"]
    share = 1 / 3 if kind in ("multi-class", "ordinal") else 1 / 2
    positive, negative = n * share, n * (1 - share)
    # Of one binary problem (Hanley & McNeil 1982, at 0.5); the mean over several has none that is larger.
    standard_error = np.sqrt((n + 1) / (12 * positive * negative))
    assert abs(auc_of(scores, splits, kind) - 0.5) < 4 * standard_error


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PROBES)
def test_features_that_separate_the_classes_are_read_without_error(name: str, kind: TaskKind) -> None:
    splits = splits_of(kind, signal=20.0)  # ten deviations on either side of the middle
    scores, _ = predict(name, splits, kind)
    assert auc_of(scores, splits, kind) > 1 - 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PROBES)
def test_scores_are_probabilities_or_linear_estimates_of_them(name: str, kind: TaskKind) -> None:
    scores, _ = predict(name, splits_of(kind, signal=1.0), kind)
    assert scores.shape == (SIZES["test"], 1 if kind == "binary" and name != "knn" else info_of(kind).n_classes)
    if name != "ridge":
        assert scores.min() >= 0
        assert scores.max() <= 1 + 1e-6
    if kind in ("multi-class", "ordinal"):
        np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)  # fp32


@pytest.mark.parametrize("name", PROBES)
def test_the_test_labels_are_not_looked_at(name: str) -> None:
    splits = splits_of("multi-class", signal=1.0)
    other = replace(splits, test=replace(splits.test, labels=splits.test.labels[::-1].copy()))
    scores, settings = predict(name, splits, "multi-class")
    again, unchanged = predict(name, other, "multi-class")
    assert np.array_equal(scores, again)
    assert settings == unchanged


@pytest.mark.parametrize("name", PROBES)
def test_images_are_read_one_by_one(name: str) -> None:
    splits = splits_of("multi-class", signal=1.0)
    few = replace(splits, test=Labelled(features=splits.test.features[:7], labels=splits.test.labels[:7]))
    # Another size of the matrix product: fp32 sums of eight terms in another order.
    np.testing.assert_allclose(
        predict(name, few, "multi-class")[0], predict(name, splits, "multi-class")[0][:7], atol=1e-4
    )


@pytest.mark.parametrize("name", PROBES)
def test_features_that_are_all_the_same_say_nothing(name: str) -> None:
    splits = splits_of("multi-class", signal=1.0)
    flat = Splits(
        **{s: replace(getattr(splits, s), features=torch.zeros_like(getattr(splits, s).features)) for s in SIZES}
    )
    scores, _ = predict(name, flat, "multi-class")
    assert auc_of(scores, flat, "multi-class") == pytest.approx(0.5)


@pytest.mark.parametrize("name", PROBES)
def test_a_precision_chosen_for_training_does_not_reach_the_read_outs(name: str) -> None:
    splits = splits_of("multi-class", signal=1.0)
    scores, _ = predict(name, splits, "multi-class")
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")  # bf16 products where a CPU has units for them
        other = Splits(train=splits.train, val=splits.val, test=splits.test)
        assert np.array_equal(predict(name, other, "multi-class")[0], scores)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


# --- linear -----------------------------------------------------------------------------------------------------


def sharp_and_flat(n: int, width: int, kind: TaskKind, seed: int = 0) -> tuple[NDArray, NDArray]:
    """Standardised features of encoders' kind, a few directions strong and most weak, and labels of unequal shares."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, width)) / np.arange(1, width + 1)
    x = x @ np.linalg.qr(rng.normal(size=(width, width)))[0]
    truth = x @ rng.normal(size=(width, 3)) * 3 + 0.5 * rng.normal(size=(n, 3)) + [0.0, 0.3, -0.5]
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    if kind == "multi-label":
        return x, (truth > 0).astype(np.int64)
    return x, (truth[:, 0] > 0.5).astype(np.int64) if kind == "binary" else truth.argmax(axis=1)


def objective(logits: NDArray, weights: NDArray, labels: NDArray, c: float) -> float:
    """Mean log loss and penalty of one fit; binary columns as two classes, of which the first has no score."""
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean()) + float((weights**2).sum()) / (
        2 * c * len(labels)
    )


@pytest.mark.parametrize("width", [20, 400], ids=["more images", "more features"])
@pytest.mark.parametrize("kind", ["binary", "multi-class", "multi-label"])
def test_every_strength_is_scikit_learns_optimum(kind: TaskKind, width: int) -> None:
    x, labels = sharp_and_flat(250, width, kind)
    strengths = np.geomspace(1e-4, 1e2, 7)
    features, info = torch.from_numpy(x.astype(np.float32)), info_of(kind)
    axes = principal_axes(features)
    solution = logistic.solve(
        axes.of(features), axes.variance, targets_of(labels, info, CPU), strengths, sigmoid=kind != "multi-class"
    )
    assert solution.converged.all()
    ours = logistic.logits(axes.of(features), solution.weights).double().numpy()
    weights = solution.weights[..., :-1].double().numpy()
    columns = labels.T if kind == "multi-label" else [labels]
    for i, c in enumerate(strengths):
        for j, of in enumerate(columns):
            peer = LogisticRegression(C=c, tol=1e-10, max_iter=50_000).fit(features.double().numpy(), of)
            theirs = peer.decision_function(features.double().numpy())
            if kind == "multi-class":
                mine, own = ours[i], weights[i]
            else:
                mine, own = np.stack([0 * ours[i, :, j], ours[i, :, j]], axis=1), weights[i, j]
                theirs = np.stack([0 * theirs, theirs], axis=1)
            gap = objective(mine, own, of, c) - objective(theirs, peer.coef_, of, c)
            # Left at the end is about DECREMENT / 2, and more where the curvature has become less than at the start.
            # With its own default tolerance scikit-learn is up to 3e-4 away, and probabilities up to 0.1.
            assert abs(gap) < 2e-5, (c, j)
            np.testing.assert_allclose(softmax(mine, axis=1), softmax(theirs, axis=1), atol=0.02)


@pytest.mark.parametrize("c", [1e-3, 1e-1, 10.0])
@pytest.mark.parametrize("kind", ["binary", "multi-class", "multi-label"])
def test_the_linear_read_out_has_scikit_learns_auc(kind: TaskKind, c: float) -> None:
    splits = splits_of(kind, signal=1.0)
    scores, settings = predict("linear", splits, kind, c_min=c, c_max=c, n_c=1)
    assert settings["C"] == pytest.approx(c)
    x, test = splits.train.features.double().numpy(), splits.test.features.double().numpy()

    def reference(labels: NDArray) -> NDArray:
        return np.asarray(LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(x, labels).predict_proba(test))

    labels, truth = splits.train.labels, splits.test.labels
    if kind == "multi-label":
        areas = [roc_auc_score(truth[:, i], reference(labels[:, i])[:, 1]) for i in range(3)]
    elif kind == "binary":
        areas = [roc_auc_score(truth, reference(labels)[:, 1])]
    else:
        areas = [roc_auc_score(truth == i, reference(labels)[:, i]) for i in range(3)]
    # Scores that differ by 1e-3 swap the few of 1000 images that stand so close.
    assert auc_of(scores, splits, kind) == pytest.approx(np.mean(areas), abs=2e-4)


def test_a_strength_has_the_same_answer_alone_and_among_others() -> None:
    x, labels = sharp_and_flat(250, 20, "multi-class")
    features = torch.from_numpy(x.astype(np.float32))
    axes, targets = principal_axes(features), targets_of(labels, info_of("multi-class"), CPU)
    strengths = np.geomspace(1e-4, 1e2, 7)
    both = logistic.solve(axes.of(features), axes.variance, targets, strengths, sigmoid=False)
    for i, c in enumerate(strengths):
        alone = logistic.solve(axes.of(features), axes.variance, targets, np.array([c]), sigmoid=False)
        of = [logistic.logits(axes.of(features), w)[0].softmax(dim=1) for w in (both.weights[i : i + 1], alone.weights)]
        torch.testing.assert_close(*of, atol=0.01, rtol=0)  # both within the tolerance of the optimum


def test_the_strength_is_chosen_by_the_validation_split() -> None:
    splits = splits_of("multi-class", signal=1.0)
    _, settings = predict("linear", splits, "multi-class")
    tried = np.geomspace(1e-4, 1e2, 7)
    values = []
    for c in tried:
        val_as_test = replace(splits, test=splits.val)
        scores, _ = predict("linear", val_as_test, "multi-class", c_min=c, c_max=c, n_c=1)
        values.append(auc_of(scores, val_as_test, "multi-class"))
    assert settings["val_auc"] == pytest.approx(max(values), abs=2e-4)  # PLATEAU, and the optimiser's tolerance
    assert settings["C"] in tried


def test_noise_features_ask_for_stronger_regularisation_than_few_good_ones() -> None:
    rng = np.random.default_rng(0)
    good = splits_of("binary", signal=1.0)
    noisy = Splits(
        **{
            name: labelled(
                np.concatenate([s.features.numpy(), rng.normal(size=(len(s.labels), 300))], axis=1), s.labels
            )
            for name, s in ((name, getattr(good, name)) for name in SIZES)
        }
    )
    chosen = predict("linear", noisy, "binary")[1]["C"]
    assert chosen < 1e-1  # 308 features of 300 images


@pytest.mark.parametrize("kind", KINDS)
def test_more_strengths_than_one_are_tried_only_between_the_ends(kind: TaskKind) -> None:
    _, settings = predict("linear", splits_of(kind, signal=1.0), kind, c_min=0.01, c_max=0.1, n_c=3)
    assert min(abs(settings["C"] / c - 1) for c in (0.01, 0.1**1.5, 0.1)) < 1e-6


@pytest.mark.parametrize("name", ["linear", "ridge"])
def test_where_validation_lacks_a_class_the_loss_chooses_and_says_so(name: str) -> None:
    splits = splits_of("multi-class", signal=1.0)
    kept = splits.val.labels != 2
    short = replace(splits, val=Labelled(features=splits.val.features[kept], labels=splits.val.labels[kept]))
    scores, settings = predict(name, short, "multi-class")
    assert settings["val_auc"] is None
    assert "class 2 has no or only positive validation images" in settings["chosen_by"]
    assert auc_of(scores, splits, "multi-class") > 0.7


def test_the_loss_chooses_what_it_says() -> None:
    sure, unsure = np.array([[9.0], [9.0]]), np.array([[1.0], [1.0]])
    best, settings = choose(np.stack([unsure, sure]), np.array([1, 1]), "binary")
    assert (best, settings["val_auc"]) == (1, None)
    best, _ = choose(np.stack([sure, unsure]), np.array([0, 0]), "binary")
    assert best == 1


def test_a_strength_that_does_not_converge_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = splits_of("multi-class", signal=1.0)
    monkeypatch.setattr(logistic, "STEPS", 5)
    _, settings = predict("linear", splits, "multi-class")
    assert settings["not_converged"]
    assert settings["C"] not in settings["not_converged"]
    monkeypatch.setattr(logistic, "STEPS", 1)
    with pytest.raises(RunFailed, match=r"t: no logistic regression comes to a gradient of 1e-05; narrow probe"):
        predict("linear", splits, "multi-class")


# --- ridge ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [20, 400], ids=["more images", "more features"])
def test_every_penalty_of_the_ridge_is_scikit_learns(width: int) -> None:
    x, labels = sharp_and_flat(250, width, "multi-class")
    features, info = torch.from_numpy(x.astype(np.float32)), info_of("multi-class")
    axes, targets = principal_axes(features), targets_of(labels, info, CPU)
    penalties = np.geomspace(1e-4, 1e2, 5)
    ours = predicted(axes, features, *solve_ridge(axes, features, targets, penalties))
    for scores, penalty in zip(ours, penalties, strict=True):
        peer = SklearnRidge(alpha=penalty * len(x)).fit(features.double().numpy(), targets.numpy())
        # fp32 coordinates, whose error of 1e-6 weighs by 1 / penalty where the variance is below it
        np.testing.assert_allclose(scores, peer.predict(features.double().numpy()), atol=1e-4)


def test_the_online_ridge_is_the_read_out_on_the_validation_images() -> None:
    splits = splits_of("multi-class", signal=1.0)
    _, settings = predict("ridge", splits, "multi-class")
    values = (splits.train.features * 3 + 7, splits.train.labels, splits.val.features * 3 + 7, splits.val.labels)
    online = ridge_auc(*values, kind="multi-class", n_classes=3)
    assert online.value == pytest.approx(
        settings["val_auc"], abs=1.1e-4
    )  # PLATEAU: the read-out prefers a stronger one
    assert ridge_auc(*values, kind="multi-class", n_classes=3) == online


def test_the_online_ridge_has_a_reason_where_it_has_no_value() -> None:
    splits = splits_of("multi-class", signal=1.0)
    x, labels = splits.train.features, splits.train.labels
    asked = {"kind": "multi-class", "n_classes": 3}
    assert ridge_auc(x * torch.nan, labels, x, labels, **asked).reason == "the features are not finite"
    assert "class 2" in ridge_auc(x[labels < 2], labels[labels < 2], x, labels, **asked).reason
    without = ridge_auc(x, labels, x[labels < 2], labels[labels < 2], **asked)
    assert (without.value, "class 2" in without.reason) == (None, True)


# --- neighbours -------------------------------------------------------------------------------------------------


def test_neighbours_vote_with_the_exponential_of_their_similarity() -> None:
    angles = np.deg2rad([0, 30, 90])
    bank = np.stack([np.cos(angles), np.sin(angles)], axis=1) * 5  # lengths are of no account
    train, query = labelled(bank, np.array([0, 1, 1])), labelled(np.array([[2.0, 0.0]]), np.array([0]))
    info = TaskInfo(name="t", modality="ct", kind="multi-class", n_classes=2, identity="0")
    splits = Splits(train=train, val=query, test=query)
    scores, settings = Knn(KnnOptions(k=2, temperature=0.5)).predict(splits, info, seed=0)
    votes = np.exp(np.array([1.0, np.cos(np.pi / 6)]) / 0.5)
    np.testing.assert_allclose(scores[0], votes / votes.sum(), rtol=1e-5)  # fp32
    assert settings == {"k": 2}


def test_more_neighbours_than_images_are_all_images() -> None:
    splits = splits_of("binary", signal=1.0)
    assert predict("knn", splits, "binary", k=10_000)[1] == {"k": SIZES["train"]}


# --- the reference study's head ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["multi-class", "multi-label"])
def test_the_studys_head_is_that_of_pytorch_step_by_step(kind: TaskKind) -> None:
    """BatchNorm1d, Linear, AdamW and CosineAnnealingLR as the study puts them together, on the same batches."""
    splits, options = splits_of(kind, signal=1.0), BiovfmOptions(epochs=4, batch_size=64, weight_decay=0.1)
    targets = splits.train.labels if kind == "multi-label" else np.eye(3)[splits.train.labels]
    x, t = splits.train.features, torch.from_numpy(targets).float()
    ours, draws = Head(8, 3, options, 0, CPU), torch.Generator()
    draws.set_state(ours.draws.get_state())
    norm, line = nn.BatchNorm1d(8, affine=False, eps=1e-6), nn.Linear(8, 3)
    with torch.no_grad():
        line.weight.copy_(ours.weights[:, :-1])
        line.bias.zero_()
    peer = nn.Sequential(norm, line)
    adam = torch.optim.AdamW(line.parameters(), lr=options.lr, weight_decay=options.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=options.epochs)
    for epoch in range(options.epochs):
        ours.epoch(epoch, x, t, sigmoid=kind == "multi-label")
        peer.train()
        order = torch.randperm(len(x), generator=draws)
        for chosen in order[: len(x) // 64 * 64].split(64):  # drop_last
            z = peer(x[chosen])
            loss = (
                nn.functional.binary_cross_entropy_with_logits if kind == "multi-label" else nn.functional.cross_entropy
            )
            adam.zero_grad()
            loss(z, t[chosen]).backward()
            adam.step()
        schedule.step()
        # Adam divides by a root of squares: rounding of a small gradient is a change of up to 1e-5 here.
        torch.testing.assert_close(ours.logits(x), peer.eval()(x).detach(), atol=1e-4, rtol=0)


def test_the_studys_head_keeps_the_epoch_of_the_lowest_validation_loss() -> None:
    splits = splits_of("multi-class", signal=1.0)
    losses = []
    for epochs in (1, 60):
        _, settings = predict("biovfm", splits, "multi-class", epochs=epochs)
        losses.append(settings["val_loss"])
        assert 1 <= settings["epoch"] <= epochs
    assert losses[1] < losses[0]
    wrong = replace(splits, val=replace(splits.val, labels=(splits.val.labels + 1) % 3))
    assert (
        predict("biovfm", wrong, "multi-class", epochs=20)[1]["epoch"] == 1
    )  # each epoch is worse than the one before


def test_the_studys_head_reads_the_mean_of_the_patches_whatever_the_sweep_reads() -> None:
    features = features_of(task_of())
    options = {"biovfm": BiovfmOptions(epochs=3)}
    asked: dict[str, Any] = {"seed": 0, "device": CPU, "n_boot": 0}
    assert Biovfm.pool == "mean"
    assert probe_task(features, options, pool="cls", **asked) == probe_task(features, options, pool="both", **asked)


# --- a whole task -----------------------------------------------------------------------------------------------


def task_of(kind: TaskKind = "multi-class", seed: int = 0, **sizes: int) -> Task:
    """4 x 4 images whose first pixels tell the class, through noise."""
    rng = np.random.default_rng(seed)
    splits = {}
    for name, n in {**SIZES, **sizes}.items():
        labels = labels_of(rng, kind, n)
        images = rng.integers(0, 200, (n, 1, 4, 4), dtype=np.uint8)
        images[:, 0, 0, :3] += (50 * (labels if kind == "multi-label" else np.eye(3)[labels])).astype(np.uint8)
        splits[name] = Split(images=images, labels=labels)
    return Task(info=info_of(kind), **splits)


def features_of(task: Task, scale: Tensor | None = None, **changed: Any) -> TaskFeatures:
    """Class token: the pixels; one patch: their squares."""
    factors = torch.ones(16) if scale is None else scale

    def encode(images: Tensor) -> dict[Part, Tensor]:
        flat = images.flatten(1).float() * factors
        return parts_of(torch.stack([flat, flat.square()], dim=1))

    values: dict[str, Any] = {"max_train": 5000, "seed": 0, "batch_size": 64, "device": CPU, **changed}
    return task_features(encode, task, **values)


def results_of(features: TaskFeatures, **changed: Any) -> dict[str, ProbeResult]:
    options: dict[str, Options] = {name: entry.options(**QUICK.get(name, {})) for name, entry in PROBES.items()}
    values: dict[str, Any] = {"pool": "cls", "seed": 0, "device": CPU, "n_boot": 50, **changed}
    return {result.probe: result for result in probe_task(features, options, **values)}


@pytest.fixture(scope="module")
def usual() -> dict[str, ProbeResult]:
    return results_of(features_of(task_of()))


def test_a_task_gives_one_result_per_probe_with_its_chance_level(usual: dict[str, ProbeResult]) -> None:
    assert set(usual) == set(PROBES)
    for result in usual.values():
        assert (result.task, result.modality, result.n_test, result.reason) == ("t", "ct", 1000, "")
        assert result.chance_auc == 0.5
        assert result.chance_accuracy == pytest.approx(1 / 3, abs=1e-3)
        assert result.auc is not None
        assert result.auc_se is not None
        assert result.auc > 0.5 + 4 * result.auc_se


def test_the_same_features_give_the_same_bits_whatever_was_probed_before(usual: dict[str, ProbeResult]) -> None:
    results_of(features_of(task_of("multi-label", seed=1)))
    assert results_of(features_of(task_of())) == usual


def test_the_scale_of_features_does_not_matter(usual: dict[str, ProbeResult]) -> None:
    scale = 2.0 ** torch.randint(-6, 7, (16,), generator=torch.Generator().manual_seed(0))
    assert results_of(features_of(task_of(), scale)) == usual  # powers of two scale without rounding


def test_the_batch_in_which_features_are_taken_does_not_matter(usual: dict[str, ProbeResult]) -> None:
    assert results_of(features_of(task_of(), batch_size=7)) == usual


def test_a_feature_that_never_changes_is_ignored() -> None:
    scale = torch.ones(16)
    scale[15] = 0
    for result in results_of(features_of(task_of(), scale)).values():
        assert result.reason == ""
        assert result.auc is not None


def test_features_that_are_not_finite_give_a_reason_and_no_number() -> None:
    scale = torch.ones(16)
    scale[3] = float("inf")
    for result in results_of(features_of(task_of(train=60, val=30, test=30), scale)).values():
        assert (result.auc, result.auc_se, result.accuracy, result.accuracy_se) == (None, None, None, None)
        assert result.reason == "the features are not finite"


def test_a_feature_that_is_not_finite_in_one_test_image_is_found_even_where_it_is_constant_otherwise() -> None:
    task = task_of(train=60, val=30, test=30)

    def encode(images: Tensor) -> dict[Part, Tensor]:
        flat = images.flatten(1).float()
        flat[:, 5] = torch.where(flat[:, 5] == float(task.test.images[0, 0, 1, 1]), torch.inf, 1.0)
        return {"cls": flat}

    features = task_features(encode, task, max_train=None, seed=0, batch_size=64, device=CPU)
    assert {result.reason for result in results_of(features).values()} == {"the features are not finite"}


def test_features_keep_their_precision_whatever_their_offset() -> None:
    offset = 1000.0

    def encode(images: Tensor) -> dict[Part, Tensor]:
        return {"cls": images.flatten(1).float() / 256 + offset}

    features = task_features(encode, task_of(), max_train=None, seed=0, batch_size=64, device=CPU)
    pixels = task_of().train.images.reshape(300, -1) / 256
    expected = (pixels - pixels.mean(axis=0)) / pixels.std(axis=0)
    # fp16 has 11 bits, so 5e-4 of values up to 2; fp32 of the offset alone is 6e-5 / 0.25.
    np.testing.assert_allclose(features.parts["train"]["cls"], expected, atol=2e-3)


def without(task: Task, split: str, drop: NDArray[np.bool_]) -> Task:
    old: Split = getattr(task, split)
    return replace(task, **{split: Split(images=old.images[~drop], labels=old.labels[~drop])})


def test_a_class_without_a_test_image_is_a_gap_of_the_auc_with_its_reason() -> None:
    task = task_of()
    for result in results_of(features_of(without(task, "test", task.test.labels == 1))).values():
        assert (result.auc, result.auc_se) == (None, None)
        assert result.reason == "AUC is undefined: class 1 has no or only positive test images"
        assert result.accuracy is not None


def test_a_class_without_a_training_image_is_a_gap_with_its_reason() -> None:
    task = task_of()
    for result in results_of(features_of(without(task, "train", task.train.labels == 1))).values():
        assert (result.auc, result.auc_se, result.accuracy, result.accuracy_se) == (None, None, None, None)
        assert result.reason == "class 1 has no or only positive training images"


def test_a_label_that_all_training_images_have_is_a_gap_too() -> None:
    task = task_of("multi-label")
    for result in results_of(features_of(without(task, "train", task.train.labels[:, 2] == 0))).values():
        assert result.auc is None
        assert result.reason == "class 2 has no or only positive training images"


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_without_a_validation_image_is_no_gap(kind: TaskKind) -> None:
    task = task_of(kind)
    labels = task.val.labels
    drop = labels[:, 1] == 1 if kind == "multi-label" else labels == 1
    for result in results_of(features_of(without(task, "val", drop))).values():
        assert result.auc is not None
        assert result.reason == ""


def test_pools_are_read_from_the_same_features() -> None:
    features = features_of(task_of())
    by_pool = {pool: features.pooled(pool, CPU).train.features for pool in ("cls", "mean", "both")}
    assert torch.equal(torch.cat([by_pool["cls"], by_pool["mean"]], dim=1), by_pool["both"])
    assert not torch.equal(by_pool["cls"], by_pool["mean"])


def test_without_patches_every_pool_is_the_one_token() -> None:
    features = task_features(
        lambda images: parts_of(images.flatten(1).float()[:, None]),
        task_of(),
        max_train=None,
        seed=0,
        batch_size=64,
        device=CPU,
    )
    pools = [features.pooled(pool, CPU).test.features for pool in ("cls", "mean", "both")]
    assert all(torch.equal(one, other) for one, other in itertools.pairwise(pools))


def test_no_more_training_images_are_used_than_allowed() -> None:
    for n, k in ((30, 20), (12, 12)):
        assert results_of(features_of(task_of(), max_train=n))["knn"].settings == {"k": k}
    assert len(features_of(task_of(), max_train=None).labels["train"]) == SIZES["train"]


def test_a_choice_of_training_images_keeps_every_class_in_proportion() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [800, 190, 10]))
    chosen = subset(labels, 100, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [80, 19, 1]
    assert len(set(chosen.tolist())) == 100
    assert np.array_equal(chosen, subset(labels, 100, seed=0))
    assert not np.array_equal(chosen, subset(labels, 100, seed=1))
    assert np.array_equal(subset(labels, 1000, seed=0), np.arange(1000))


def test_a_choice_of_training_images_is_never_larger_than_asked() -> None:
    labels = np.repeat(np.arange(11), [501, *[100] * 10])
    assert len(subset(labels, 100, seed=0)) <= 100


def test_a_choice_of_training_images_with_several_labels_has_the_size_asked() -> None:
    labels = np.random.default_rng(0).integers(0, 2, (500, 3))
    assert len(np.unique(subset(labels, 100, seed=0))) == 100


# --- kept features ----------------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path: Path) -> Callable[..., Kept]:
    def make(**changed: Any) -> Kept:
        values = {"encoder": "e", "max_train": 5000, "seed": 0, "limit": 2**20, "place": beside, **changed}
        return Kept(folder=tmp_path, **values)

    return make


def same(one: TaskFeatures | None, other: TaskFeatures) -> bool:
    return (
        one is not None
        and one.info == other.info
        and all(np.array_equal(one.labels[s], other.labels[s]) for s in SIZES)
        and all(np.array_equal(values, one.parts[s][p]) for s, of in other.parts.items() for p, values in of.items())
        and {s: set(of) for s, of in one.parts.items()} == {s: set(of) for s, of in other.parts.items()}
    )


def test_kept_features_come_back_as_they_were(kept: Callable[..., Kept]) -> None:
    features = features_of(task_of())
    assert kept().read(features.info) is None
    kept().write(features)
    again = kept().read(features.info)
    assert same(again, features)
    assert again is not None
    assert again.parts["test"]["mean"].dtype == np.float16


@pytest.mark.parametrize("changed", [{"encoder": "f"}, {"max_train": 100}, {"max_train": None}, {"seed": 1}])
def test_features_of_another_encoder_or_choice_do_not_count(kept: Callable[..., Kept], changed: dict[str, Any]) -> None:
    features = features_of(task_of())
    kept().write(features)
    assert kept(**changed).read(features.info) is None
    assert kept().read(replace(features.info, identity="1")) is None


@pytest.mark.parametrize("at", [0.001, 0.3, 0.6, 0.999], ids=["first", "early", "late", "directory"])
def test_a_damaged_file_is_computed_again(
    kept: Callable[..., Kept], at: float, capsys: pytest.CaptureFixture[str]
) -> None:
    features = features_of(task_of())
    kept().write(features)
    (path,) = kept().folder.glob("features-*.npz")
    whole = path.read_bytes()
    place = int(at * len(whole))
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
    assert not same(kept().read(features.info), features)
    assert kept().read(features.info) is None
    assert "is damaged" in capsys.readouterr().err
    path.write_bytes(whole[:place])
    assert kept().read(features.info) is None


def test_a_file_that_would_run_code_is_not_read(kept: Callable[..., Kept]) -> None:
    features = features_of(task_of())
    kept().write(features)
    (path,) = kept().folder.glob("features-*.npz")
    with np.load(path) as arrays:
        held = dict(arrays)
    held["train/cls"] = np.array([{"an": "object"}], dtype=object)
    np.savez(path, **held)
    assert kept().read(features.info) is None


def test_features_beyond_the_limit_are_not_kept(kept: Callable[..., Kept], capsys: pytest.CaptureFixture[str]) -> None:
    features = features_of(task_of())
    other = replace(features, info=replace(features.info, name="u"))
    kept().write(features)
    (path,) = kept().folder.glob("features-*.npz")
    size = path.stat().st_size
    kept(limit=2 * size - 10_000).write(other)
    assert "features of u are not kept: 0 MB would pass the 0 MB of probe.keep_mb" in capsys.readouterr().err
    assert list(kept().folder.iterdir()) == [path]
    kept(limit=size).write(features)  # takes its own place
    assert same(kept().read(features.info), features)


def test_a_disk_that_refuses_features_is_not_the_end(
    kept: Callable[..., Kept], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    kept().write(features_of(task_of()))
    assert "are not kept: [Errno 28] No space left on device" in capsys.readouterr().err
    assert list(kept().folder.iterdir()) == []


def test_an_encoder_is_known_by_its_weights() -> None:
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    before = digest_of(one)
    assert digest_of(one) == before
    with torch.no_grad():
        one[0].bias[2] = torch.nextafter(one[0].bias[2], torch.tensor(9.0))
    assert digest_of(one) != before
    assert digest_of(one.half()) != before
