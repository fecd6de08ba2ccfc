"""What every task feature owes, and each feature's own truth on examples small enough for paper."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.features import FEATURES, compute
from analysis.features.davies_bouldin import IMAGES
from analysis.features.feature import Feature, NoFeature, TaskData, choice

every_feature = pytest.mark.parametrize("feature", FEATURES.values(), ids=FEATURES.keys())


def a_task(n: int = 40, *, labels: int = 0, seed: int = 0) -> TaskData:
    """Noise of 3 x 8 x 8 pixels in three classes, or with `labels` in a multi-label task."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, 2, (n, labels)) if labels else rng.integers(0, 3, n)
    images = rng.integers(0, 256, (n, 3, 8, 8), dtype=np.uint8)
    return TaskData(images=images, labels=drawn, n_samples=2 * n, n_classes=labels or 3)


def a_pair(*classes: list[list[int]]) -> TaskData:
    """Images of 1 x 1 x 2 pixels, given by class."""
    images = np.array([pixel for members in classes for pixel in members], np.uint8).reshape(-1, 1, 1, 2)
    labels = np.repeat(np.arange(len(classes)), [len(members) for members in classes])
    return TaskData(images=images, labels=labels, n_samples=len(labels), n_classes=len(classes))


def shuffled(task: TaskData) -> TaskData:
    order = np.random.default_rng(1).permutation(len(task.images))
    return TaskData(
        images=task.images[order], labels=task.labels[order], n_samples=task.n_samples, n_classes=task.n_classes
    )


@every_feature
def test_a_feature_says_what_it_is(feature: Feature) -> None:
    assert FEATURES[feature.name] is feature
    assert feature.meaning
    assert feature.unit
    assert feature.source
    assert feature.low < feature.high


@every_feature
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("labels", [0, 5])
def test_a_feature_lies_in_its_range_or_gives_a_reason(feature: Feature, labels: int, seed: int) -> None:
    task = a_task(labels=labels, seed=seed)
    values = compute(task.images, task.labels, n_samples=task.n_samples, n_classes=task.n_classes)
    value = values[feature.name]
    if value is None:
        assert values[f"{feature.name}_reason"]
        return
    assert isinstance(value, float)
    assert feature.low <= value <= feature.high
    assert np.isfinite(value)


@every_feature
def test_a_feature_does_not_depend_on_the_order_of_images(feature: Feature) -> None:
    task = a_task()
    # Sums in another order differ in their last digits.
    assert feature.compute(shuffled(task)) == pytest.approx(feature.compute(task), rel=1e-12)


def test_a_feature_of_more_images_than_it_looks_at_does_not_depend_on_their_order() -> None:
    task = a_task(IMAGES + 50)
    feature = FEATURES["davies_bouldin"]
    assert feature.compute(shuffled(task)) == pytest.approx(feature.compute(task), rel=1e-12)


@every_feature
def test_missing_input_gives_a_named_reason_and_not_zero(feature: Feature) -> None:
    nothing = TaskData(images=np.empty((0, 1, 8, 8), np.uint8), labels=np.empty(0, np.int64), n_samples=0, n_classes=0)
    with pytest.raises(NoFeature, match=r"no |fewer"):
        feature.compute(nothing)


def test_features_of_a_task_are_numbers_or_none_with_a_reason() -> None:
    values = compute(a_task(labels=5).images, a_task(labels=5).labels, n_samples=80, n_classes=5)
    assert set(FEATURES) <= set(values)
    assert values["davies_bouldin"] is None
    assert values["davies_bouldin_reason"] == "a multi-label task has no clusters"
    assert [name for name in FEATURES if values[name] is None] == ["davies_bouldin"]


def test_davies_and_bouldins_index_is_that_of_paper_and_pencil() -> None:
    # Two classes on a line, at 0 and 51, and at 153 and 255 (0, .2, .6, 1 of the range), the second pixel 0 throughout.
    # Centres .1 and .8, mean distances to them .1 and .2: (.1 + .2) / .7 for either class, and so their mean.
    task = a_pair([[0, 0], [51, 0]], [[153, 0], [255, 0]])
    assert FEATURES["davies_bouldin"].compute(task) == pytest.approx(0.3 / 0.7, rel=1e-12)


def test_classes_that_lie_further_apart_have_a_smaller_davies_bouldin_index() -> None:
    near = a_pair([[0, 0], [50, 0]], [[60, 0], [110, 0]])
    far = a_pair([[0, 0], [50, 0]], [[200, 0], [250, 0]])
    index = FEATURES["davies_bouldin"].compute
    assert index(far) < index(near)


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (a_pair([[0, 0], [9, 0]]), "fewer than two classes"),
        (a_pair([[0, 0]], [[9, 0]]), "no class has two images"),
        # scikit-learn answers 0, no overlap at all, where classes overlap completely
        (a_pair([[0, 0], [9, 0]], [[4, 0], [5, 0]]), "two classes have the same mean image"),
    ],
)
def test_a_davies_bouldin_index_that_does_not_exist_has_a_reason(task: TaskData, reason: str) -> None:
    with pytest.raises(NoFeature, match=reason):
        FEATURES["davies_bouldin"].compute(task)


def test_constant_images_compress_better_than_noise() -> None:
    noise = a_task().images
    images = {"constant": np.full_like(noise, 7), "noise": noise}
    ratio = {
        name: FEATURES["compressibility"].compute(
            TaskData(images=these, labels=np.zeros(len(these), np.int64), n_samples=40, n_classes=1)
        )
        for name, these in images.items()
    }
    # Noise cannot be compressed: gzip adds its header of 18 bytes and 5 a block to 192; constants leave little else.
    assert ratio["noise"] == pytest.approx((192 + 23) / 192, abs=0.01)
    assert ratio["constant"] < 0.2


@pytest.mark.parametrize(
    ("labels", "n_classes", "expected"),
    [
        ([0, 1, 2, 0, 1, 2], 3, 0.0),
        ([1, 1, 1, 1], 2, 1.0),
        # shares 1/4 and 3/4: entropy .8113 bits of 1
        ([0, 1, 1, 1], 2, 1 - 0.8112781),
        # one of four classes empty, the others even: 1 - ln 3 / ln 4
        ([0, 1, 2], 4, 1 - np.log(3) / np.log(4)),
    ],
)
def test_imbalance_is_one_minus_evenness(labels: list[int], n_classes: int, expected: float) -> None:
    images = np.zeros((len(labels), 1, 2, 2), np.uint8)
    task = TaskData(images=images, labels=np.array(labels), n_samples=9, n_classes=n_classes)
    assert FEATURES["imbalance"].compute(task) == pytest.approx(expected, abs=1e-7)


def test_images_are_chosen_by_their_content() -> None:
    images = a_task(30).images
    order = np.random.default_rng(0).permutation(30)
    chosen, again = images[choice(images, 10)], images[order][choice(images[order], 10)]
    np.testing.assert_array_equal(chosen, again)
    assert len(choice(images, 30)) == len(choice(images, 99)) == 30
