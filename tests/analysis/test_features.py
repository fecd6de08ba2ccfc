"""What every task feature owes, and each feature's own truth on examples small enough for paper."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.metrics import roc_auc_score

from analysis.features import FEATURES, compute
from analysis.features.baseline_auc import STRENGTHS, ridge_scores, roc_areas
from analysis.features.feature import Feature, NoFeature, TaskData, choice
from analysis.features.intrinsic_dimension import dimension
from analysis.features.pixels import cells, grey
from analysis.features.pretraining_distance import inhomogeneity

every_feature = pytest.mark.parametrize("feature", FEATURES.values(), ids=FEATURES.keys())


def a_task(n: int = 40, *, labels: int = 0, seed: int = 0) -> TaskData:
    """Noise of 3 x 8 x 8 pixels in three classes, or with `labels` in a multi-label task."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, 2, (n, labels)) if labels else rng.integers(0, 3, n)
    images, pretraining = rng.integers(0, 256, (2, n, 3, 8, 8), dtype=np.uint8)
    return TaskData(
        images=images,
        labels=drawn,
        n_samples=2 * n,
        n_classes=labels or 3,
        modality_share=0.25,
        pretraining=pretraining,
    )


def of_images(images: NDArray, labels: NDArray | None = None, pretraining: NDArray | None = None) -> TaskData:
    """A task of (n, channels, height, width) images, of one class unless `labels` says more."""
    labels = np.zeros(len(images), np.int64) if labels is None else labels
    n_classes = labels.shape[1] if labels.ndim == 2 else int(labels.max(initial=0)) + 1
    return TaskData(
        images=images.astype(np.uint8),
        labels=labels,
        n_samples=len(images),
        n_classes=n_classes,
        pretraining=pretraining,
    )


def a_pair(*classes: list[list[int]]) -> TaskData:
    """Images of 1 x 1 x 2 pixels, given by class."""
    images = np.array([pixel for members in classes for pixel in members], np.uint8).reshape(-1, 1, 1, 2)
    labels = np.repeat(np.arange(len(classes)), [len(members) for members in classes])
    return TaskData(images=images, labels=labels, n_samples=len(labels), n_classes=len(classes))


def shuffled(task: TaskData) -> TaskData:
    order = np.random.default_rng(1).permutation(len(task.images))
    assert task.pretraining is not None
    return dataclasses.replace(
        task, images=task.images[order], labels=task.labels[order], pretraining=task.pretraining[order]
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
    values = compute(a_task(labels=labels, seed=seed))
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


@every_feature
def test_a_feature_of_more_images_than_it_looks_at_does_not_depend_on_their_order(feature: Feature) -> None:
    task = a_task(5050 if feature.name == "davies_bouldin" else 1050)
    assert feature.compute(shuffled(task)) == pytest.approx(feature.compute(task), rel=1e-12)


@every_feature
def test_missing_input_gives_a_named_reason_and_not_zero(feature: Feature) -> None:
    nothing = TaskData(images=np.empty((0, 1, 8, 8), np.uint8), labels=np.empty(0, np.int64), n_samples=0, n_classes=0)
    with pytest.raises(NoFeature, match=r"no |fewer"):
        feature.compute(nothing)


def test_features_of_a_task_are_numbers_or_none_with_a_reason() -> None:
    values = compute(a_task(labels=5))
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
    constant = np.broadcast_to(np.array([5, 6, 7], np.uint8).reshape(3, 1, 1), noise.shape)
    images = {"constant": constant, "noise": noise}
    ratio = {name: FEATURES["compressibility"].compute(of_images(these)) for name, these in images.items()}
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


# --- pixels --------------------------------------------------------------------------------------------------------


def test_cells_are_means_over_parts_that_differ_by_a_pixel_at_most() -> None:
    image = np.arange(15, dtype=np.uint8).reshape(1, 1, 3, 5) * 17
    # 3 rows are kept of up to 4; 5 columns fall into 4 cells: 0, 1, 2, and 3 with 4
    expected = np.column_stack([image[0, 0, :, :3], image[0, 0, :, 3:].mean(axis=1)]) / 255
    np.testing.assert_allclose(cells(image, 4)[0, 0], expected, rtol=1e-12)
    np.testing.assert_allclose(cells(image, 1, power=2)[0, 0], ((image / 255) ** 2).mean(), rtol=1e-12)


def test_cells_of_many_images_are_those_of_each() -> None:
    images = a_task(150).images
    np.testing.assert_array_equal(cells(images, 3)[140], cells(images[140:141], 3)[0])


def test_grey_is_luminance() -> None:
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]], np.uint8).reshape(4, 3, 1, 1)
    assert grey(colours).ravel().tolist() == [76, 150, 29, 9]
    assert grey(colours[:, :2]).ravel().tolist() == [128, 128, 0, 9]


# --- entropy, resolution, channels ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "bits"),
    [
        (np.full(256, 9), 0.0),
        (np.arange(256), 8.0),
        (np.repeat([3, 7], 128), 1.0),
        # levels of share 1/2, 1/4, 1/8, 1/8: the textbook's 1.75 bits
        (np.repeat([0, 1, 2, 3], [128, 64, 32, 32]), 1.75),
    ],
)
def test_entropy_is_that_of_paper_and_pencil(image: NDArray, bits: float) -> None:
    one = image.reshape(1, 1, 16, 16)
    assert FEATURES["entropy"].compute(of_images(one)) == pytest.approx(bits, abs=1e-12)
    assert FEATURES["entropy"].compute(of_images(np.repeat(one, 3, axis=1))) == pytest.approx(bits, abs=1e-12)


def test_resolution_is_the_side_of_the_square_of_equal_area() -> None:
    assert FEATURES["resolution"].compute(of_images(np.zeros((2, 1, 4, 9)))) == 6
    assert FEATURES["resolution"].compute(of_images(np.zeros((2, 3, 28, 28)))) == 28


def test_grey_repeated_over_channels_is_one_channel() -> None:
    colour = np.random.default_rng(0).integers(0, 256, (600, 3, 4, 4))
    hardly_grey = np.repeat(colour[:, :1], 3, axis=1)
    hardly_grey[550, 2, 1, 1] ^= 1
    channels = FEATURES["channels"].compute
    assert channels(of_images(colour)) == channels(of_images(hardly_grey)) == 3
    assert channels(of_images(np.repeat(colour[:, :1], 3, axis=1))) == 1


@every_feature
def test_it_makes_no_difference_whether_grey_is_repeated(feature: Feature) -> None:
    task = a_task()
    grey_once, pretraining = task.images[:, :1], task.pretraining
    given = [
        dataclasses.replace(task, images=images, pretraining=pretraining)
        for images in (grey_once, np.repeat(grey_once, 3, axis=1))
    ]
    assert feature.compute(given[0]) == feature.compute(given[1])


# --- intrinsic dimension ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_the_dimension_is_that_of_the_manifold_and_not_of_its_space(d: int, seed: int) -> None:
    """A torus of d circles in 2d + 20 dimensions, turned and bent nowhere else: flat, and without an edge."""
    rng = np.random.default_rng(seed)
    angles = 2 * np.pi * rng.random((1000, d))
    torus = np.column_stack([np.cos(angles), np.sin(angles), np.zeros((1000, 20))])
    turned = torus @ np.linalg.qr(rng.normal(size=(torus.shape[1],) * 2))[0]
    # 500 of 1000 ratios count: a standard error of d / sqrt(500), 4.5 %, of which three; the rest is for curvature.
    assert dimension(turned) == pytest.approx(d, rel=0.135 + 0.01 * d)


def test_images_of_two_free_blocks_have_dimension_two() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (900, 1, 1, 2)).repeat(8, axis=2).repeat(4, axis=3)
    assert FEATURES["intrinsic_dimension"].compute(of_images(images)) == pytest.approx(2, rel=0.15)


def test_copies_do_not_change_the_dimension_and_near_copies_hardly() -> None:
    rng = np.random.default_rng(0)
    points = rng.integers(20, 230, (600, 1, 2, 3))
    intrinsic = FEATURES["intrinsic_dimension"].compute
    alone = intrinsic(of_images(points))
    assert intrinsic(of_images(np.concatenate([points, points[:100]]))) == pytest.approx(alone, rel=1e-12)
    # A fifth of the images in pairs one grey level apart: their first neighbours are far too near. Were only the
    # largest tenth of the ratios left out, the estimate would be below half.
    near = points[:60].copy()
    near[:, 0, 0, 0] += 1
    assert intrinsic(of_images(np.concatenate([points, near]))) == pytest.approx(alone, rel=0.2)


def test_a_dimension_that_does_not_exist_has_a_reason() -> None:
    intrinsic = FEATURES["intrinsic_dimension"].compute
    with pytest.raises(NoFeature, match="fewer than 40 distinct images among the 90 looked at"):
        intrinsic(of_images(np.repeat(np.arange(30), 3).reshape(90, 1, 1, 1)))
    for lattice in ((255 * np.eye(64)).reshape(64, 1, 8, 8), np.arange(200).reshape(200, 1, 1, 1)):
        with pytest.raises(NoFeature, match="no second neighbour lies further than the first"):
            intrinsic(of_images(lattice))


# --- baseline AUC ----------------------------------------------------------------------------------------------------


def test_labels_that_have_nothing_to_do_with_pixels_give_half() -> None:
    areas = [FEATURES["baseline_auc"].compute(a_task(200, seed=seed)) for seed in range(12)]
    # The standard deviation of one is .045 (40 seeds), of the mean of twelve .013.
    assert np.mean(areas) == pytest.approx(0.5, abs=0.04)


def test_the_baseline_is_the_auc_of_the_optimal_line() -> None:
    """One normal pixel, moved by a standard deviation between the classes: AUC = Phi(1 / sqrt(2)) = .7602."""
    rng = np.random.default_rng(0)
    labels = np.arange(1000) % 2
    images = np.full((1000, 1, 4, 4), 100)
    images[:, 0, 1, 1] = np.clip(np.rint(rng.normal(110 + 25 * labels, 25)), 0, 255)
    images[:, 0, 3] = rng.integers(0, 60, (1000, 4))  # distinct images, and something to learn to leave alone
    # The standard error of an AUC of .76 from 500 and 500 is .015 (Hanley and McNeil 1982).
    assert FEATURES["baseline_auc"].compute(of_images(images, labels)) == pytest.approx(0.7602, abs=0.045)


def test_classes_that_one_pixel_tells_apart_leave_nothing_to_gain() -> None:
    task = a_task(200)
    task.images[:, 0, 0, 0] = 100 * task.labels
    labels = np.stack([task.labels == 1, task.labels == 2], axis=1).astype(np.int64)
    task.images[:, 0, 0, 1:3] = 255 * labels
    for these in (task.labels, labels):
        assert FEATURES["baseline_auc"].compute(of_images(task.images, these)) > 0.99


def test_a_copy_in_another_fold_gives_nothing_away() -> None:
    """Each image of noise comes twice with its random label: whoever keeps the copies finds them again."""
    tasks = [a_task(100, seed=seed) for seed in range(12)]
    doubled = [of_images(np.tile(t.images, (2, 1, 1, 1)), np.tile(t.labels, 2)) for t in tasks]
    assert np.mean([FEATURES["baseline_auc"].compute(task) for task in doubled]) == pytest.approx(0.5, abs=0.06)


def test_a_baseline_without_enough_images_of_two_classes_has_a_reason() -> None:
    images = a_task(44).images
    for labels in (np.repeat([0, 1], [40, 4]), np.zeros(44, np.int64), np.ones((44, 2), np.int64)):
        with pytest.raises(NoFeature, match="fewer than two classes with 5 distinct images among the 44 looked at"):
            FEATURES["baseline_auc"].compute(of_images(images, labels))


def test_the_area_is_that_of_a_trusted_implementation_ties_included() -> None:
    rng = np.random.default_rng(0)
    scores, answers = rng.integers(0, 9, (60, 4)).astype(float), rng.integers(0, 2, (60, 4)).astype(float)
    expected = [roc_auc_score(answers[:, c], scores[:, c]) for c in range(4)]
    np.testing.assert_allclose(roc_areas(scores, answers), expected, rtol=1e-12)
    assert np.isnan(roc_areas(scores, np.ones((60, 4)))).all()


@pytest.mark.parametrize("n_pixels", [12, 200])
def test_the_read_out_is_that_of_a_trusted_implementation(n_pixels: int) -> None:
    rng = np.random.default_rng(0)
    x, new = rng.normal(size=(80, n_pixels)) + 3, rng.normal(size=(20, n_pixels)) + 3
    y = x[:, :2] + rng.normal(size=(80, 2))
    ridge = RidgeCV(80 * x.var(axis=0).sum() * STRENGTHS).fit(x, y)
    np.testing.assert_allclose(ridge_scores(x @ x.T, new @ x.T, y), ridge.predict(new) - y.mean(axis=0), rtol=1e-6)


def test_classes_of_too_few_images_are_left_out_of_the_mean() -> None:
    task = a_task(100)
    labels = np.where(np.arange(100) < 3, 2, np.arange(100) % 2)
    task.images[:, 0, 0, 0] = np.array([0, 255, 128])[labels]
    assert FEATURES["baseline_auc"].compute(of_images(task.images, labels)) > 0.99


# --- pretraining -----------------------------------------------------------------------------------------------------


def test_what_is_not_known_of_the_pretraining_has_a_reason() -> None:
    values = compute(dataclasses.replace(a_task(), modality_share=None, pretraining=None))
    assert values["modality_share_reason"] == "no mixture of pretraining images is known"
    assert values["pretraining_distance_reason"] == "no pretraining images are known"
    assert values["modality_share"] is values["pretraining_distance"] is None


def test_a_modality_that_is_not_in_the_mixture_has_a_share_of_zero() -> None:
    assert FEATURES["modality_share"].compute(dataclasses.replace(a_task(), modality_share=0.0)) == 0.0


def test_the_energy_coefficient_is_that_of_paper_and_pencil() -> None:
    # 0 and 2 against 1 and 5: between 1, 5, 1, 3, mean 2.5; within 2 and 4. (5 - 2 - 4) / 5 < 0, so 0.
    assert inhomogeneity(np.array([[0.0], [2.0]]), np.array([[1.0], [5.0]])) == 0
    # 0 and 2 against 11 and 15: mean 12; (24 - 2 - 4) / 24
    assert inhomogeneity(np.array([[0.0], [2.0]]), np.array([[11.0], [15.0]])) == pytest.approx(0.75)
    assert inhomogeneity(np.zeros((3, 2)), np.zeros((2, 2))) == 0
    assert inhomogeneity(np.zeros((3, 2)), np.ones((2, 2))) == 1


def blobs(n: int, level: float, seed: int, *, size: int = 16, spread: float = 20) -> NDArray[np.uint8]:
    """Noise about a level of grey, each image a little brighter or darker."""
    rng = np.random.default_rng(seed)
    noise = level + rng.normal(0, 15, (n, 1, 1, 1)) + rng.normal(0, spread, (n, 1, size, size))
    return np.clip(noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("n", [20, 200])
def test_images_like_those_pretrained_on_are_at_no_distance_however_few(n: int) -> None:
    pretraining = blobs(400, 100, 999)
    found = [
        FEATURES["pretraining_distance"].compute(of_images(blobs(n, 100, seed), pretraining=pretraining))
        for seed in range(10)
    ]
    # Unbiased but for the cut at 0; the standard deviation at 20 images is .03.
    assert np.mean(found) < 0.03


def test_the_distance_grows_with_brightness_with_texture_and_with_share() -> None:
    pretraining, distance = blobs(300, 80, 0), FEATURES["pretraining_distance"].compute

    def to(images: NDArray[np.uint8]) -> float:
        return distance(of_images(images, pretraining=pretraining))

    brighter = [to(blobs(300, 80 + shift, 1)) for shift in (0, 10, 20, 40, 80)]
    rougher = [to(blobs(300, 80, 2, spread=spread)) for spread in (20, 30, 40)]
    mixed = [to(np.concatenate([blobs(300 - k, 80, 3), blobs(k, 160, 4)])) for k in (0, 75, 150, 300)]
    for rising in (brighter, rougher, mixed):
        assert rising == sorted(rising)
        assert rising[0] < 0.01
        assert rising[-1] > 0.1


def test_the_distance_does_not_ask_for_equal_sizes_and_takes_grey_for_colour() -> None:
    images = blobs(200, 100, 0)
    large = images.repeat(2, axis=2).repeat(2, axis=3)
    distance = FEATURES["pretraining_distance"].compute
    assert distance(of_images(images, pretraining=large)) == 0
    assert distance(of_images(images, pretraining=np.repeat(large, 3, axis=1))) == 0
    with pytest.raises(NoFeature, match="no common channels: 2 here, 3 pretrained on"):
        distance(of_images(np.concatenate([images, 255 - images], axis=1), pretraining=np.repeat(large, 3, axis=1)))
    with pytest.raises(NoFeature, match="fewer than two images"):
        distance(of_images(images, pretraining=large[:1]))


# --- real images -----------------------------------------------------------------------------------------------------


def test_on_real_images_the_features_see_what_is_known_of_them(shared: Path) -> None:
    def pack(name: str) -> TaskData:
        with np.load(shared / "data" / f"{name}.npz") as file:
            return of_images(file["train_images"][:, None], file["train_labels"][:, 0].astype(np.int64))

    breast, pneumonia = pack("breastmnist"), pack("pneumoniamnist")
    half = np.arange(len(pneumonia.images)) % 2 == 0
    like, unlike = (dataclasses.replace(t, pretraining=pneumonia.images[half]) for t in (pneumonia, breast))
    distance = FEATURES["pretraining_distance"].compute
    assert distance(dataclasses.replace(like, images=pneumonia.images[~half])) < 0.01
    assert distance(unlike) > 0.2
    # A quarter of the ultrasound images are near copies of another: with a tenth of the ratios left out they say 1.8.
    assert FEATURES["intrinsic_dimension"].compute(breast) > 8
    # The packs' own account of a simple read-out: pneumonia is easier than breast, neither is solved.
    areas = [FEATURES["baseline_auc"].compute(task) for task in (breast, pneumonia)]
    assert 0.65 < areas[0] < areas[1] < 0.999
