"""AUC and accuracy against scikit-learn, MedMNIST's definitions and four points on paper; errors against theory."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from scaling.data.source import TaskKind
from scaling.probes.metrics import accuracy, auc, chance_accuracy, unlearnable


def tied(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Scores of ten different values, so that most are tied."""
    return rng.integers(0, 10, shape) / 10


def one_class_each(rng: np.random.Generator, n: int, k: int) -> NDArray[np.int64]:
    """Labels of unequal frequency, every class there."""
    return rng.permutation(np.concatenate([np.arange(k), rng.integers(0, k, n - k) % rng.integers(1, k + 1, n - k)]))


# --- AUC --------------------------------------------------------------------------------------------------------


def test_the_auc_of_four_points_is_the_share_of_pairs_in_order() -> None:
    scores, labels = np.array([0.1, 0.4, 0.35, 0.8])[:, None], np.array([0, 0, 1, 1])
    assert auc(scores, labels, "binary").value == 0.75
    assert auc(np.array([0.1, 0.4, 0.4, 0.8])[:, None], labels, "binary").value == 0.875  # a tie counts half
    assert auc(np.full((4, 1), 0.5), labels, "binary").value == 0.5


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_binary_auc_is_scikit_learns(seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    labels = one_class_each(rng, 57, 2)
    scores = tied(rng, (57, 1)) if ties else rng.random((57, 1))
    measured = auc(scores, labels, "binary").value
    assert measured == pytest.approx(roc_auc_score(labels, scores[:, 0]), abs=1e-12)


@pytest.mark.parametrize("kind", ["multi-class", "ordinal"])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_auc_of_classes_is_the_mean_of_each_against_the_rest(seed: int, ties: bool, kind: str) -> None:
    rng = np.random.default_rng(seed)
    labels = one_class_each(rng, 80, 5)
    scores = tied(rng, (80, 5)) if ties else rng.random((80, 5))
    expected = np.mean([roc_auc_score(labels == c, scores[:, c]) for c in range(5)])
    assert auc(scores, labels, kind).value == pytest.approx(expected, abs=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_auc_of_labels_is_the_mean_over_labels(seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (80, 4))
    scores = tied(rng, (80, 4)) if ties else rng.random((80, 4))
    expected = roc_auc_score(labels, scores, average="macro")
    assert auc(scores, labels, "multi-label").value == pytest.approx(expected, abs=1e-12)


def test_auc_depends_on_the_order_of_scores_alone() -> None:
    rng = np.random.default_rng(0)
    scores, labels = tied(rng, (60, 3)), one_class_each(rng, 60, 3)
    assert auc(scores, labels, "multi-class").value == auc(np.exp(3 * scores), labels, "multi-class").value


def test_auc_does_not_depend_on_the_order_of_images() -> None:
    rng = np.random.default_rng(0)
    scores, labels, order = tied(rng, (60, 3)), one_class_each(rng, 60, 3), rng.permutation(60)
    assert auc(scores, labels, "multi-class") == auc(scores[order], labels[order], "multi-class")


def test_a_class_without_test_images_leaves_the_auc_undefined_and_is_named() -> None:
    scores = np.random.default_rng(0).random((6, 4))
    metric = auc(scores, np.array([0, 0, 2, 2, 0, 2]), "multi-class", n_boot=10)
    assert metric.value is None
    assert metric.se is None
    assert metric.reason == "AUC is undefined: class 1, 3 has no or only positive test images"


@pytest.mark.parametrize("label", [0, 1])
def test_a_binary_task_of_one_class_has_no_auc(label: int) -> None:
    assert auc(np.random.default_rng(0).random((6, 1)), np.full(6, label), "binary").value is None


# --- the error of the AUC ---------------------------------------------------------------------------------------


def delong(scores: NDArray, labels: NDArray) -> float:
    """Standard error by DeLong et al. 1988: variances of each image's placement among the other class."""
    positive, negative = scores[labels == 1], scores[labels == 0]
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    return float(np.sqrt(wins.mean(axis=1).var(ddof=1) / len(positive) + wins.mean(axis=0).var(ddof=1) / len(negative)))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_bootstrap_error_is_delongs(seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    labels = (np.arange(400) % 4 == 0).astype(np.int64)
    scores = rng.normal(labels, 1.0)
    scores = scores.round(1) if ties else scores
    measured = auc(scores[:, None], labels, "binary", n_boot=2000, seed=seed).se
    # 2000 resamples know an error to 1 / sqrt(4000) = 1.6 %: three times that, and 2 % for a class's varying size.
    assert measured == pytest.approx(delong(scores, labels), rel=0.07)


def test_the_bootstrap_error_is_the_scatter_over_test_sets() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    means = np.eye(3)

    def test_set() -> NDArray:
        return rng.normal(means[labels], 1.0)

    values = [auc(test_set(), labels, "multi-class").value for _ in range(400)]
    errors = [auc(test_set(), labels, "multi-class", n_boot=200, seed=i).se for i in range(10)]
    # The scatter of 400 values is known to 1 / sqrt(800) = 3.5 %, the mean of ten errors of 5 % each to 2 %: thrice.
    assert np.mean(np.array(errors, float)) == pytest.approx(np.std(np.array(values, float), ddof=1), rel=0.13)


def test_the_error_is_the_same_again_from_the_same_seed() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.random((50, 1)), one_class_each(rng, 50, 2)
    first, second, other = (auc(scores, labels, "binary", n_boot=50, seed=seed) for seed in (1, 1, 2))
    assert first == second
    assert first.value == other.value
    assert first.se != other.se


def test_without_resamples_there_is_no_error() -> None:
    rng = np.random.default_rng(0)
    assert auc(rng.random((50, 1)), one_class_each(rng, 50, 2), "binary").se is None


def test_resamples_that_lose_a_rare_class_are_left_out() -> None:
    labels = np.array([1] + [0] * 19)  # lost by a third of the resamples
    metric = auc(np.linspace(1, 0, 20)[:, None] ** 2, labels, "binary", n_boot=200)
    assert metric.value == 1.0
    assert metric.se == 0.0


# --- accuracy ---------------------------------------------------------------------------------------------------


def test_accuracy_of_classes_counts_the_largest_score() -> None:
    scores = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.4, 0.35, 0.25], [0.2, 0.6, 0.2]])
    for kind in ("multi-class", "ordinal"):
        assert accuracy(scores, np.array([0, 2, 1, 1]), kind).value == 0.75


def test_accuracy_of_a_binary_task_asks_for_more_than_a_half() -> None:
    scores = np.array([[0.2], [0.5], [0.6], [0.9]])
    assert accuracy(scores, np.array([0, 1, 1, 1]), "binary").value == 0.75  # exactly a half is a no


def test_accuracy_of_labels_is_the_mean_over_labels_each_at_a_half() -> None:
    scores = np.array([[0.9, 0.2, 0.5], [0.6, 0.7, 0.1]])
    labels = np.array([[1, 1, 1], [0, 1, 0]])
    assert accuracy(scores, labels, "multi-label").value == pytest.approx((1 / 2 + 1 / 2 + 1 / 2) / 3)


def test_the_error_of_an_accuracy_is_that_of_a_share() -> None:
    scores = np.array([[0.9]] * 30 + [[0.1]] * 70)
    metric = accuracy(scores, np.ones(100, np.int64), "binary", n_boot=200)
    assert metric.value == pytest.approx(0.3)
    assert metric.se == pytest.approx(np.sqrt(0.3 * 0.7 / 100))
    assert accuracy(scores, np.ones(100, np.int64), "binary").se is None


def test_chance_is_to_answer_the_most_frequent_training_class() -> None:
    train, test = np.array([0, 2, 2, 1, 2]), np.array([2, 0, 1, 2])
    assert chance_accuracy(train, test, "multi-class") == 0.5
    labels = np.array([[1, 0], [1, 0], [0, 1]])
    assert chance_accuracy(labels, np.array([[1, 1], [1, 0]]), "multi-label") == 0.75


# --- MedMNIST's own evaluator -----------------------------------------------------------------------------------

TASKS: dict[TaskKind, str] = {
    "binary": "binary-class",
    "multi-class": "multi-class",
    "ordinal": "ordinal-regression",
    "multi-label": "multi-label, binary-class",
}
"""Our kinds of task -> MedMNIST's names (medmnist/info.py)."""


@pytest.fixture
def evaluator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Its module without its package, whose import loads torchvision and more and makes a folder in the user's home."""
    found = importlib.util.find_spec("medmnist")
    if found is None or not found.submodule_search_locations:
        pytest.skip("medmnist is not installed")
    monkeypatch.setenv("HOME", str(tmp_path))
    package = ModuleType("medmnist")
    package.__path__ = list(found.submodule_search_locations)
    for name in [name for name in sys.modules if name.split(".")[0] == "medmnist"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "medmnist", package)
    loaded = importlib.import_module("medmnist.evaluator")
    yield loaded
    for name in ("medmnist.evaluator", "medmnist.info"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", TASKS)
def test_both_metrics_are_those_of_medmnists_evaluator(evaluator: Any, kind: TaskKind, seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(30, 300)), int(rng.integers(3, 9))
    if kind == "multi-label":
        labels = rng.integers(0, 2, (n, k))
        labels[0], labels[1] = 0, 1
    else:
        labels = one_class_each(rng, n, 2 if kind == "binary" else k)
    shape = (n, int(rng.integers(1, 3))) if kind == "binary" else (n, k)
    scores = tied(rng, shape) if ties else rng.random(shape)
    if kind in ("multi-class", "ordinal") and not ties:
        scores /= scores.sum(axis=1, keepdims=True)
    theirs = labels if kind == "multi-label" else labels[:, None]  # as its files have them
    assert auc(scores, labels, kind).value == pytest.approx(evaluator.getAUC(theirs, scores, TASKS[kind]), abs=1e-12)
    assert accuracy(scores, labels, kind).value == pytest.approx(
        evaluator.getACC(theirs, scores, TASKS[kind]), abs=1e-12
    )


def test_where_medmnists_evaluator_has_no_number_we_have_a_reason(evaluator: Any) -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 3, 50), rng.random((50, 4))  # no image of class 3
    with pytest.warns(UserWarning, match="Only one class"):
        theirs = evaluator.getAUC(labels[:, None], scores, "multi-class")
    assert np.isnan(theirs)
    metric = auc(scores, labels, "multi-class")
    assert (metric.value, "class 3" in metric.reason) == (None, True)


# --- classes that are not there ---------------------------------------------------------------------------------


def test_labels_that_lack_a_class_cannot_be_learnt_from() -> None:
    assert unlearnable(np.array([0, 1, 2, 2]), "multi-class", 3) == ""
    assert unlearnable(np.array([0, 2]), "ordinal", 4) == "class 1, 3 has no or only positive training images"
    assert unlearnable(np.zeros(4, np.int64), "binary", 2) == "class 0, 1 has no or only positive training images"
    both = np.array([[0, 1, 1], [1, 1, 0]])
    assert unlearnable(both, "multi-label", 3) == "class 1 has no or only positive training images"
    assert unlearnable(np.empty(0, np.int64), "binary", 2) != ""
