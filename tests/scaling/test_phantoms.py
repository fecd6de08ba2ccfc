"""Synthetic images: the same for a seed and index wherever they are drawn, and tasks worth probing."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scaling.data.contact_sheet import contact_sheet, sample
from scaling.data.phantom_anatomy import Dice
from scaling.data.phantoms import MODALITIES, TASKS, Phantoms
from scaling.data.source import Task
from scaling.source_options import PhantomsOptions


def phantoms(**options: Any) -> Phantoms:
    return Phantoms(PhantomsOptions(**{"source": "phantoms", "pool_size": 2000, **options}))


def test_there_are_five_modalities_in_the_shares_declared() -> None:
    pool = phantoms(pool_size=20_000).pool()
    counts = np.bincount(pool.modality, minlength=len(pool.modalities))
    assert pool.modalities == ("ct", "xray", "mr", "ultrasound", "microscopy")
    for count, modality in zip(counts, MODALITIES.values(), strict=True):
        # Four standard deviations of a binomial count.
        assert abs(count - 20_000 * modality.share) < 4 * np.sqrt(20_000 * modality.share * (1 - modality.share))


def test_keys_are_distinct_and_a_larger_pool_begins_with_the_smaller() -> None:
    small, large = phantoms(pool_size=500).pool(), phantoms(pool_size=5000).pool()
    assert len(np.unique(large.keys)) == 5000
    np.testing.assert_array_equal(large.keys[:500], small.keys)
    np.testing.assert_array_equal(large.modality[:500], small.modality)


def test_an_image_does_not_depend_on_what_is_drawn_with_it() -> None:
    source = phantoms()
    together = source.read(np.arange(40))
    np.testing.assert_array_equal(together[::-1], source.read(np.arange(39, -1, -1)))
    np.testing.assert_array_equal(together[17], source.read(np.array([17]))[0])


def test_another_seed_draws_other_images() -> None:
    assert not np.array_equal(phantoms().read(np.arange(8)), phantoms(seed=1).read(np.arange(8)))


def test_images_are_the_same_bytes_on_every_machine() -> None:
    """Golden digest, written on 2026-11-24 on x86-64 with NumPy 2.4: changes only with phantoms.VERSION."""
    images = phantoms().read(np.arange(200))
    assert hashlib.sha256(images.tobytes()).hexdigest()[:16] == "4b1b01c2c3c8f083"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [16, 32, 48])
def test_images_have_the_declared_shape_and_use_the_range(size: int, channels: int) -> None:
    images = phantoms(image_size=size, channels=channels).read(np.arange(50))
    assert images.shape == (50, channels, size, size)
    assert images.dtype == np.uint8
    assert (images.reshape(50, -1).std(axis=1) > 5).all()
    assert images.max() > 200
    assert images.min() < 50


def test_modalities_look_different() -> None:
    """A linear read-out of pixels tells them apart, or they would be no mixture of anything."""
    source = phantoms()
    pool = source.pool()
    images = source.read(np.arange(1000)).reshape(1000, -1) / 255
    readout = LogisticRegression(C=0.01, max_iter=300).fit(images[:600], pool.modality[:600])
    assert readout.score(images[600:], pool.modality[600:1000]) > 0.95


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_task_deals_its_classes_evenly_into_disjoint_splits(name: str) -> None:
    task = phantoms(n_train=80, n_val=40, n_test=40).task(name)
    for split, n in ((task.train, 80), (task.val, 40), (task.test, 40)):
        assert len(split.labels) == len(split.images) == n
        shares = split.labels.mean(axis=0) if split.labels.ndim == 2 else np.bincount(split.labels) / n
        assert np.ptp(shares) <= 1 / 40
    digests = [image.tobytes() for split in (task.train, task.val, task.test) for image in split.images]
    assert len(set(digests)) == 160


def pixel_auc(task: Task) -> float:
    """Of a linear read-out of pixels, mean over classes or labels."""
    train, test = task.train, task.test
    flat = train.images.reshape(len(train.images), -1), test.images.reshape(len(test.images), -1)
    targets, truths = (
        s.labels if s.labels.ndim == 2 else s.labels[:, None] == np.arange(task.info.n_classes) for s in (train, test)
    )
    readout = make_pipeline(StandardScaler(), LogisticRegression(C=0.001, max_iter=500))
    return float(
        np.mean(
            [
                roc_auc_score(truth, readout.fit(flat[0], target).predict_proba(flat[1])[:, 1])
                for target, truth in zip(targets.T, truths.T, strict=True)
            ]
        )
    )


def test_tasks_are_graded_and_none_is_solved_by_pixels() -> None:
    """A small convolutional network trained on 6,000 images reaches .85 to .985, so what is missing can be learnt."""
    source = phantoms()
    scores = {name: pixel_auc(source.task(name)) for name in TASKS}
    assert max(scores.values()) < 0.9
    assert max(scores.values()) - min(scores.values()) > 0.15


def test_random_numbers_are_uniform_normal_and_unrelated() -> None:
    keys = phantoms(pool_size=20_000).pool().keys
    dice = Dice(keys)
    first, second = dice.uniform(), dice.uniform()
    normal = dice.normal(2, 2).reshape(len(keys), -1)
    # Five standard errors of a mean of 20,000 and of a correlation.
    assert abs(first.mean() - 0.5) < 5 / np.sqrt(12 * 20_000)
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(20_000)
    assert abs(normal.std() - 1) < 5 / np.sqrt(2 * normal.size)
    assert np.abs(np.corrcoef(normal.T) - np.eye(4)).max() < 5 / np.sqrt(20_000)


def test_the_contact_sheet_shows_every_modality_and_its_footer() -> None:
    rows = sample(phantoms())
    assert [len(images) for images in rows.values()] == [12] * 5
    png = contact_sheet(rows, "synthetic")
    assert png.startswith(b"\x89PNG")
    assert png != contact_sheet(rows, "real")


@pytest.mark.parametrize(
    ("task", "findings", "label"),
    [
        ("ct_lesion", [0.45, -60.0], [1]),
        ("ct_lesion", [0.45, 0.0], [0]),
        ("ct_lesion", [0.1, 60.0], [-1]),  # no slice through the liver
        ("mr_ventricles", [0.5 / 4.7 + 0.075, 0.0], [0]),
        ("mr_ventricles", [3.5 / 4.7 + 0.075, 0.7], [3]),
        ("mr_ventricles", [0.99, 0.0], [3]),
        ("xray_findings", [1.0, 0.0, 1.0], [1, 0, 1]),
        ("ultrasound_mass", [1.0, 0.0, 1.0], [1]),
        ("ultrasound_mass", [1.0, 1.0, 1.0], [-1]),  # a cyst has no such margin
        ("ultrasound_mass", [0.0, 0.0, 1.0], [-1]),  # nothing there
        ("smear_cells", [4.0], [4]),
    ],
)
def test_an_image_of_the_pool_is_labelled_by_what_was_drawn(task: str, findings: list[float], label: list[int]) -> None:
    assert TASKS[task].tell(np.array([findings], np.float32)).ravel().tolist() == label


def test_labels_of_the_pool_mean_what_the_tasks_mean() -> None:
    """A classifier of pixels that learns from the pool's labels finds the sign in the task's images."""
    source = phantoms()
    labels = source.labels(np.arange(2000))
    code = list(TASKS).index("smear_cells")
    mine = np.flatnonzero(labels.task == code)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(source.read(mine).reshape(len(mine), -1), labels.values[mine, 0])
    test = source.task("smear_cells").test
    scores = model.predict_proba(test.images.reshape(len(test.images), -1))
    assert roc_auc_score(test.labels, scores, multi_class="ovr") > 0.6
