"""The contract of every read-out in the catalog, then what is particular to the linear one and to neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor

from scaling.catalog import PROBES
from scaling.data.source import Split, Task, TaskInfo, TaskKind
from scaling.options import KnnOptions, LinearOptions, Options
from scaling.probes.evaluate import probe_task
from scaling.probes.features import Labelled, subset
from scaling.probes.knn import Knn
from scaling.probes.linear import Linear
from scaling.probes.metrics import auc

KINDS: list[TaskKind] = ["binary", "multi-class", "multi-label", "ordinal"]
SIZES = {"train": 300, "val": 200, "test": 1000}
Splits = dict[str, Labelled]


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
    return {
        name: Labelled(features=((raw[name] - mean) / deviation).astype(np.float32), labels=labels[name])
        for name in SIZES
    }


def predict(name: str, splits: Splits, kind: TaskKind, **options: Any) -> tuple[NDArray, dict[str, Any]]:
    entry = PROBES[name]
    scores, settings = entry.load()(entry.options(**options)).predict(splits, info_of(kind), seed=0)
    return scores, settings


def auc_of(scores: NDArray, splits: Splits, kind: TaskKind) -> float:
    value = auc(scores, splits["test"].labels, kind).value
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
def test_scores_are_probabilities(name: str, kind: TaskKind) -> None:
    scores, _ = predict(name, splits_of(kind, signal=1.0), kind)
    assert len(scores) == SIZES["test"]
    assert scores.min() >= 0
    assert scores.max() <= 1 + 1e-6
    if kind in ("multi-class", "ordinal"):
        np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)  # fp32


@pytest.mark.parametrize("name", PROBES)
def test_the_test_labels_are_not_looked_at(name: str) -> None:
    splits = splits_of("multi-class", signal=1.0)
    test = splits["test"]
    other = {**splits, "test": Labelled(features=test.features, labels=test.labels[::-1].copy())}
    scores, settings = predict(name, splits, "multi-class")
    again, unchanged = predict(name, other, "multi-class")
    assert np.array_equal(scores, again)
    assert settings == unchanged


@pytest.mark.parametrize("name", PROBES)
def test_images_are_read_one_by_one(name: str) -> None:
    splits = splits_of("multi-class", signal=1.0)
    test = splits["test"]
    few = {**splits, "test": Labelled(features=test.features[:7], labels=test.labels[:7])}
    # Another size of the matrix product: fp32 sums of eight terms in another order.
    np.testing.assert_allclose(
        predict(name, few, "multi-class")[0], predict(name, splits, "multi-class")[0][:7], atol=1e-4
    )


# --- linear -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [1e-3, 1e-1, 10.0])
@pytest.mark.parametrize("kind", ["binary", "multi-class", "multi-label"])
def test_the_linear_read_out_is_scikit_learns_logistic_regression(kind: TaskKind, c: float) -> None:
    splits = splits_of(kind, signal=1.0)
    train, test = splits["train"], splits["test"]
    scores, settings = predict("linear", splits, kind, c_min=c, c_max=c, n_c=1)
    assert settings["C"] == pytest.approx(c)

    def reference(labels: NDArray) -> NDArray:
        model = LogisticRegression(C=c, tol=1e-8, max_iter=5000)
        return np.asarray(model.fit(train.features.astype(float), labels).predict_proba(test.features.astype(float)))

    if kind == "multi-label":
        expected = np.stack([reference(train.labels[:, i])[:, 1] for i in range(3)], axis=1)
        area = roc_auc_score(test.labels, expected)
    elif kind == "binary":
        expected = reference(train.labels)[:, 1:]
        area = roc_auc_score(test.labels, expected[:, 0])
    else:
        expected = reference(train.labels)
        area = np.mean([roc_auc_score(test.labels == i, expected[:, i]) for i in range(3)])
    # Stopped at a gradient of 1e-4 per image, where the weights are still off by 1e-4 / curvature (0.1 or less).
    np.testing.assert_allclose(scores, expected, atol=0.01)
    assert abs(auc_of(scores, splits, kind) - area) <= 3e-3


def test_the_strength_is_chosen_by_the_validation_split() -> None:
    splits = splits_of("multi-class", signal=1.0)
    _, settings = predict("linear", splits, "multi-class")
    tried = np.geomspace(1e-4, 1e2, 7)
    values = []
    for c in tried:
        val_as_test = {**splits, "test": splits["val"]}
        scores, _ = predict("linear", val_as_test, "multi-class", c_min=c, c_max=c, n_c=1)
        values.append(auc_of(scores, val_as_test, "multi-class"))
    # The path starts each fit at the last one's weights, so equal only within the optimiser's tolerance.
    assert settings["val_auc"] == pytest.approx(max(values), abs=2e-3)
    assert settings["C"] in tried


def test_noise_features_ask_for_stronger_regularisation_than_few_good_ones() -> None:
    rng = np.random.default_rng(0)
    noisy = {
        name: Labelled(
            features=np.concatenate([s.features, rng.normal(size=(len(s.labels), 300))], axis=1).astype(np.float32),
            labels=s.labels,
        )
        for name, s in splits_of("binary", signal=1.0).items()
    }
    chosen = predict("linear", noisy, "binary")[1]["C"]
    assert chosen < 1e-1  # 308 features of 300 images


@pytest.mark.parametrize("kind", KINDS)
def test_more_strengths_than_one_are_tried_only_between_the_ends(kind: TaskKind) -> None:
    _, settings = predict("linear", splits_of(kind, signal=1.0), kind, c_min=0.01, c_max=0.1, n_c=3)
    assert min(abs(settings["C"] / c - 1) for c in (0.01, 0.1**1.5, 0.1)) < 1e-6


# --- neighbours -------------------------------------------------------------------------------------------------


def test_neighbours_vote_with_the_exponential_of_their_similarity() -> None:
    angles = np.deg2rad([0, 30, 90])
    bank = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32) * 5  # lengths are of no account
    train = Labelled(features=bank, labels=np.array([0, 1, 1]))
    query = Labelled(features=np.array([[2.0, 0.0]], np.float32), labels=np.array([0]))
    info = TaskInfo(name="t", modality="ct", kind="multi-class", n_classes=2, identity="0")
    scores, settings = Knn(KnnOptions(k=2, temperature=0.5)).predict({"train": train, "test": query}, info, seed=0)
    votes = np.exp(np.array([1.0, np.cos(np.pi / 6)]) / 0.5)
    np.testing.assert_allclose(scores[0], votes / votes.sum(), rtol=1e-5)  # fp32
    assert settings == {"k": 2}


def test_more_neighbours_than_images_are_all_images() -> None:
    splits = splits_of("binary", signal=1.0)
    assert predict("knn", splits, "binary", k=10_000)[1] == {"k": SIZES["train"]}


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


def probed(task: Task, scale: Tensor | None = None, **changed: Any) -> dict[str, Any]:
    factors = torch.ones(16) if scale is None else scale
    options: dict[str, Options] = {"linear": LinearOptions(), "knn": KnnOptions()}
    values: dict[str, Any] = {
        "seed": 0,
        "device": torch.device("cpu"),
        "batch_size": 64,
        "n_boot": 50,
        "max_train": 5000,
        **changed,
    }
    results = probe_task(lambda images: images.flatten(1).float() * factors, task, options, **values)
    return {result.probe: result for result in results}


def test_a_task_gives_one_result_per_probe_with_its_chance_level() -> None:
    task = task_of()
    results = probed(task)
    assert set(results) == {"linear", "knn"}
    for result in results.values():
        assert (result.task, result.modality, result.n_test, result.reason) == ("t", "ct", 1000, "")
        assert result.chance_auc == 0.5
        assert result.chance_accuracy == pytest.approx(1 / 3, abs=1e-3)
        assert result.auc is not None
        assert result.auc_se is not None
        assert result.auc > 0.5 + 4 * result.auc_se


@pytest.mark.parametrize("name", PROBES)
def test_the_scale_of_features_does_not_matter(name: str) -> None:
    scale = 2.0 ** torch.randint(-6, 7, (16,), generator=torch.Generator().manual_seed(0))
    assert probed(task_of(), scale)[name] == probed(task_of())[name]  # powers of two scale without rounding


@pytest.mark.parametrize("name", PROBES)
def test_the_batch_in_which_features_are_taken_does_not_matter(name: str) -> None:
    assert probed(task_of(), batch_size=7)[name] == probed(task_of(), batch_size=1000)[name]


@pytest.mark.parametrize("name", PROBES)
def test_a_feature_that_never_changes_is_ignored(name: str) -> None:
    scale = torch.ones(16)
    scale[15] = 0
    result = probed(task_of(), scale)[name]
    assert result.reason == ""
    assert result.auc is not None


@pytest.mark.parametrize("name", PROBES)
def test_features_that_are_not_finite_give_a_reason_and_no_number(name: str) -> None:
    scale = torch.ones(16)
    scale[3] = float("inf")
    with np.errstate(invalid="ignore", over="ignore"):
        result = probed(task_of(train=60, val=30, test=30), scale)[name]
    assert (result.auc, result.auc_se, result.accuracy, result.accuracy_se) == (None, None, None, None)
    assert result.reason == "the features are not finite"


def test_no_more_training_images_are_used_than_allowed() -> None:
    assert probed(task_of(), max_train=30)["knn"].settings == {"k": 20}
    assert probed(task_of(), max_train=12)["knn"].settings == {"k": 12}


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


def test_a_validation_split_of_one_class_still_gives_an_answer() -> None:
    splits = splits_of("binary", signal=1.0)
    val = splits["val"]
    splits["val"] = Labelled(features=val.features, labels=np.zeros_like(val.labels))
    scores, settings = Linear(LinearOptions()).predict(splits, info_of("binary"), seed=0)
    assert len(scores) == SIZES["test"]
    assert settings == {"C": pytest.approx(1e-4), "val_auc": None}
