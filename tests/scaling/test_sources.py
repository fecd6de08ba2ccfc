"""The contract of a source, over the whole table: a new source gives one example here and is tested on arrival."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaling.catalog import SOURCES
from scaling.data.cache import cached
from scaling.data.mixture import select
from scaling.data.source import Source
from tests.scaling.medmnist_fakes import write_fakes
from tests.scaling.stores import write_example

EXAMPLES: dict[str, dict[str, Any]] = {
    "phantoms": {"image_size": 32, "pool_size": 300, "n_train": 40, "n_val": 24, "n_test": 24},
    "npz": {
        "image_size": 28,
        "files": {
            "shapes.npz": {
                "modality": {"slice": "ct", "film": "xray"},
                "pretrain": ["train"],
                "task": {"kind": "binary", "modality": "mixed"},
            },
            "cells.npz": {"modality": "microscopy", "pretrain": ["train"], "task": {"kind": "multi-class"}},
        },
    },
    "store": {"image_size": 28},
    "medmnist": {"sets": ["bloodmnist", "breastmnist", "chestmnist", "organmnist3d"], "stride": 7},
}
SIZES = {"medmnist": (28, 64), "store": (28, 14)}
"""Of a source that does not have any: two that it has."""


class Open:
    """Opens the example of a source, with other options if wanted."""

    def __init__(self, name: str, root: Path) -> None:
        self.name, self.root = name, root
        self.sizes = SIZES.get(name, (28, 48))

    def __call__(self, **changed: Any) -> Source:
        where = {key: str(self.root) for key in ("root", "path") if key in SOURCES[self.name].options.model_fields}
        values = {"source": self.name, "channels": 3, **EXAMPLES[self.name], **where, **changed}
        source: Source = SOURCES[self.name].load()(SOURCES[self.name].options.model_validate(values))
        return source


@pytest.fixture(params=sorted(SOURCES))
def open_source(request: pytest.FixtureRequest, packs: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    if request.param == "medmnist":
        write_fakes(packs, EXAMPLES["medmnist"]["sets"], monkeypatch, sizes=SIZES["medmnist"])
    if request.param == "store":
        return Open("store", write_example(packs.parent / "store"))
    return Open(request.param, packs)


def test_every_source_has_an_example() -> None:
    assert set(EXAMPLES) == set(SOURCES)


def test_two_openings_offer_the_same_images(open_source: Open) -> None:
    one, other = open_source(), open_source()
    np.testing.assert_array_equal(one.pool().keys, other.pool().keys)
    np.testing.assert_array_equal(one.pool().modality, other.pool().modality)
    some = np.arange(0, len(one.pool().keys), 7)
    np.testing.assert_array_equal(one.read(some), other.read(some))


def test_keys_are_distinct_and_every_image_has_a_named_modality(open_source: Open) -> None:
    pool = open_source().pool()
    assert len(np.unique(pool.keys)) == len(pool.keys) == len(pool.groups) == len(pool.modality)
    assert set(np.unique(pool.modality)) == set(range(len(pool.modalities)))


def test_images_come_in_the_order_asked_for(open_source: Open) -> None:
    source = open_source()
    asked = np.random.default_rng(0).permutation(len(source.pool().keys))[:50]
    np.testing.assert_array_equal(source.read(asked)[::-1], source.read(asked[::-1]))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("which", [0, 1], ids=["one size", "another"])
def test_images_have_the_size_and_channels_asked_for(open_source: Open, which: int, channels: int) -> None:
    image_size = open_source.sizes[which]
    source = open_source(image_size=image_size, channels=channels)
    task = source.task(source.tasks()[0].name)
    for images in (source.read(np.arange(5)), task.train.images, task.val.images, task.test.images):
        assert images.dtype == np.uint8
        assert images.shape[1:] == (channels, image_size, image_size)


def test_a_smaller_set_is_part_of_a_larger_one(open_source: Open) -> None:
    pool = open_source().pool()
    small, large = (set(select(pool, "natural", n).indices.tolist()) for n in (20, 60))
    assert small < large


def test_labels_are_of_the_tasks_kind_and_come_in_the_order_asked_for(open_source: Open) -> None:
    source = open_source()
    asked = np.random.default_rng(0).permutation(len(source.pool().keys))
    labels, backwards = source.labels(asked), source.labels(asked[::-1])
    assert labels.tasks == source.tasks()
    assert labels.task.shape == asked.shape
    assert set(np.unique(labels.task)) - {-1} == set(range(len(labels.tasks)))
    for code, info in enumerate(labels.tasks):
        values = labels.values[labels.task == code]
        width = info.n_classes if info.kind == "multi-label" else 1
        assert set(np.unique(values[:, :width])) <= set(range(2 if info.kind == "multi-label" else info.n_classes))
        assert not values[:, width:].any()
    np.testing.assert_array_equal(backwards.task[::-1], labels.task)
    np.testing.assert_array_equal(backwards.values[::-1], labels.values)


def test_no_image_that_a_task_is_judged_by_carries_a_label(open_source: Open) -> None:
    source = open_source()
    labelled = np.flatnonzero(source.labels(np.arange(len(source.pool().keys))).task >= 0)
    known = {image.tobytes() for image in source.read(labelled)}
    for info in source.tasks():
        task = source.task(info.name)
        for split in (task.val, task.test):
            assert not known & {image.tobytes() for image in split.images}


def test_tasks_are_what_they_announce(open_source: Open) -> None:
    source = open_source()
    for info in source.tasks():
        task = source.task(info.name)
        assert task.info == info
        assert info.n_train == len(task.train.images)
        assert info.n_other == len(task.val.images) + len(task.test.images)
        for split in (task.train, task.val, task.test):
            assert len(split.images) == len(split.labels) > 0
            if info.kind == "multi-label":
                assert split.labels.shape[1] == info.n_classes
                assert set(np.unique(split.labels)) <= {0, 1}
            else:
                assert set(np.unique(split.labels)) <= set(range(info.n_classes))


def test_no_image_of_a_task_stands_in_two_splits(open_source: Open) -> None:
    source = open_source()
    for info in source.tasks():
        task = source.task(info.name)
        seen = [{image.tobytes() for image in split.images} for split in (task.train, task.val, task.test)]
        assert len(set.union(*seen)) == sum(map(len, seen))


def test_a_task_at_another_size_has_another_identity(open_source: Open) -> None:
    one, other = (open_source(image_size=size) for size in open_source.sizes)
    assert not {info.identity for info in one.tasks()} & {info.identity for info in other.tasks()}


def test_an_unknown_task_is_answered_with_the_known_ones(open_source: Open) -> None:
    source = open_source()
    with pytest.raises(KeyError, match=source.tasks()[0].name):
        source.task("nosuch")


@pytest.mark.parametrize("harm", [b"junk", b"PK\x03\x04 cut short", b""], ids=["no archive", "torn", "empty"])
def test_a_damaged_cache_is_made_again(tmp_path: Path, harm: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    path, made = tmp_path / "a.npz", list[int]()

    def make() -> dict[str, Any]:
        made.append(1)
        return {"x": np.arange(3)}

    cached(path, make)
    path.write_bytes(harm)
    assert cached(path, make)["x"].tolist() == [0, 1, 2]
    assert cached(path, make)["x"].tolist() == [0, 1, 2]
    assert len(made) == 2
    assert f"{path} is damaged" in capsys.readouterr().err
