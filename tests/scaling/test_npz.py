"""The `npz` source: packs in MedMNIST's layout, and a clear word for whatever is wrong with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from scaling.data.npz import Npz
from scaling.errors import SpecError
from scaling.source_options import NpzOptions

SHAPES = {"modality": {"slice": "ct", "film": "xray"}, "pretrain": ["train"]}
CELLS = {"modality": "microscopy", "pretrain": ["train", "val"], "task": {"kind": "multi-class"}}


def source(packs: Path, *, image_size: int = 28, channels: int = 1, **files: dict[str, Any]) -> Npz:
    named = {f"{name}.npz": pack for name, pack in files.items()}
    values = {"source": "npz", "root": str(packs), "image_size": image_size, "channels": channels, "files": named}
    return Npz(NpzOptions.model_validate(values))


def edit(packs: Path, name: str, **arrays: NDArray | None) -> None:
    """Writes a pack again with other arrays; None leaves one out."""
    path = packs / f"{name}.npz"
    with np.load(path) as file:
        held = {key: file[key] for key in file.files}
    np.savez(path, **{key: value for key, value in {**held, **arrays}.items() if value is not None})


def arrays_of(packs: Path, name: str) -> dict[str, NDArray]:
    with np.load(packs / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def problems(packs: Path, **files: Any) -> str:
    with pytest.raises(SpecError) as caught:
        source(packs, **files)
    return str(caught.value)


# --- the pool ---------------------------------------------------------------------------------------------------


def test_the_pool_holds_the_splits_that_are_pretrained_on_and_no_others(packs: Path) -> None:
    opened = source(packs, cells=CELLS, channels=3)
    images = opened.read(np.arange(len(opened.pool().keys)))
    held = arrays_of(packs, "cells")
    wanted = np.concatenate([held["train_images"], held["val_images"]]).transpose(0, 3, 1, 2)
    assert len(images) == 90
    assert {image.tobytes() for image in images} == {image.tobytes() for image in wanted}


def test_each_class_can_be_of_a_modality_of_its_own(packs: Path) -> None:
    opened = source(packs, shapes=SHAPES)
    pool, held = opened.pool(), arrays_of(packs, "shapes")
    assert pool.modalities == ("ct", "xray")
    of_image = {
        image.tobytes(): int(label)
        for image, label in zip(held["train_images"], held["train_labels"][:, 0], strict=True)
    }
    for image, code in zip(opened.read(np.arange(60)), pool.modality.tolist(), strict=True):
        assert of_image[image[0].tobytes()] == code


def test_images_of_a_training_split_have_their_labels_and_others_none(packs: Path) -> None:
    opened = source(packs, shapes=SHAPES, cells=CELLS, channels=3)  # shapes are no task
    labels = opened.labels(np.arange(150))
    assert [task.name for task in labels.tasks] == ["cells"]
    held = arrays_of(packs, "cells")
    of_image = {
        image.tobytes(): int(label)
        for image, label in zip(held["train_images"].transpose(0, 3, 1, 2), held["train_labels"][:, 0], strict=True)
    }
    found = [
        (of_image.get(image.tobytes()), int(value) if task == 0 else None)
        for image, task, value in zip(opened.read(np.arange(150)), labels.task, labels.values[:, 0], strict=True)
    ]
    assert sum(wanted is not None for wanted, _ in found) == 60
    assert all(wanted == label for wanted, label in found)


def test_an_image_that_is_also_tested_has_no_label_in_any_pack(packs: Path) -> None:
    shapes, cells = arrays_of(packs, "shapes"), arrays_of(packs, "cells")
    tested = np.repeat(shapes["train_images"][:2, ..., None], 3, axis=3)  # grey, as the other pack's colour images
    edit(packs, "cells", test_images=np.concatenate([tested, cells["test_images"][2:]]))
    task = {"kind": "binary", "modality": "mixed"}
    opened = source(packs, shapes={**SHAPES, "task": task}, cells=CELLS, channels=3)
    labels = opened.labels(np.arange(150))
    assert np.bincount(labels.task + 1).tolist() == [30 + 2, 60 - 2, 60]


def test_packs_together_give_one_pool_of_all_modalities(packs: Path) -> None:
    pool = source(packs, shapes=SHAPES, cells=CELLS).pool()
    assert pool.modalities == ("ct", "microscopy", "xray")
    assert np.bincount(pool.modality).tolist() == [30, 90, 30]


def test_an_image_that_stands_twice_counts_once(packs: Path) -> None:
    train = arrays_of(packs, "shapes")["train_images"]
    train[1] = train[3]
    edit(packs, "shapes", train_images=train)
    pool = source(packs, shapes=SHAPES).pool()
    assert len(pool.keys) == len(np.unique(pool.keys)) == 59


def test_keys_follow_from_the_image_and_not_from_its_place(packs: Path) -> None:
    before = source(packs, shapes=SHAPES).pool()
    held = arrays_of(packs, "shapes")
    edit(packs, "shapes", train_images=held["train_images"][::-1], train_labels=held["train_labels"][::-1])
    after = source(packs, shapes=SHAPES).pool()
    assert np.array_equal(before.keys, after.keys)
    assert np.array_equal(before.modality, after.modality)


def test_images_are_read_in_the_order_asked(packs: Path) -> None:
    opened = source(packs, shapes=SHAPES)
    order = np.array([5, 0, 17, 5])
    assert np.array_equal(opened.read(order), opened.read(np.arange(60))[order])


def test_without_a_pack_to_pretrain_on_there_is_no_pool(packs: Path) -> None:
    opened = source(packs, cells={"modality": "microscopy", "task": {"kind": "multi-class"}})
    with pytest.raises(SpecError, match=r"data\.files: no pack is pretrained on; give one `pretrain: \[train\]`"):
        opened.pool()


# --- pixels -----------------------------------------------------------------------------------------------------


def test_grey_images_are_repeated_for_three_channels(packs: Path) -> None:
    opened = source(packs, shapes=SHAPES, channels=3)
    images = opened.read(np.arange(60))
    assert images.shape == (60, 3, 28, 28)
    assert np.array_equal(images[:, 0], images[:, 1])
    assert np.array_equal(images[:, 0], images[:, 2])


def test_colour_images_keep_their_channels_or_become_luminance(packs: Path) -> None:
    held = arrays_of(packs, "cells")["test_images"]
    colour = source(packs, cells=CELLS, channels=3).task("cells").test.images
    assert np.array_equal(colour, held.transpose(0, 3, 1, 2))
    grey = source(packs, cells=CELLS).task("cells").test.images
    exact = held @ np.array([0.299, 0.587, 0.114])
    assert grey.shape == (30, 1, 28, 28)
    assert np.abs(grey[:, 0] - exact).max() <= 0.5 + 1e-3  # rounded to whole grey values


@pytest.mark.parametrize("size", [14, 28, 56])
def test_images_come_in_the_size_asked(packs: Path, size: int) -> None:
    images = source(packs, cells=CELLS, channels=3, image_size=size).task("cells").val.images
    assert images.shape == (30, 3, size, size)
    assert images.dtype == np.uint8


def test_shrinking_averages_areas(packs: Path) -> None:
    held = arrays_of(packs, "shapes")["train_images"].astype(float)
    small = source(packs, shapes={**SHAPES, "task": {"kind": "binary", "modality": "ct"}}, image_size=14)
    exact = held.reshape(60, 14, 2, 14, 2).mean(axis=(2, 4))
    # Pillow averages along rows, then along columns, and rounds to whole grey values each time.
    assert np.abs(small.task("shapes").train.images[:, 0] - exact).max() <= 1


def test_enlarging_is_pillows_bicubic(packs: Path) -> None:
    held = arrays_of(packs, "shapes")["test_images"]
    large = source(packs, shapes={**SHAPES, "task": {"kind": "binary", "modality": "ct"}}, image_size=56)
    expected = np.asarray(Image.fromarray(held[0]).resize((56, 56), Image.Resampling.BICUBIC))
    assert np.array_equal(large.task("shapes").test.images[0, 0], expected)


# --- tasks ------------------------------------------------------------------------------------------------------


def test_a_task_has_its_packs_splits_labels_and_description(packs: Path) -> None:
    opened = source(packs, cells=CELLS)
    (info,) = opened.tasks()
    assert (info.name, info.modality, info.kind, info.n_classes) == ("cells", "microscopy", "multi-class", 3)
    task = opened.task("cells")
    assert task.info == info
    for split in ("train", "val", "test"):
        assert getattr(task, split).labels.tolist() == arrays_of(packs, "cells")[f"{split}_labels"][:, 0].tolist()


def test_a_task_can_have_a_name_and_a_modality_of_its_own(packs: Path) -> None:
    pack = {**SHAPES, "task": {"kind": "binary", "name": "outlines", "modality": "xray"}}
    (info,) = source(packs, shapes=pack).tasks()
    assert (info.name, info.modality, info.n_classes) == ("outlines", "xray", 2)


def test_several_labels_an_image_are_several_columns(packs: Path) -> None:
    rng = np.random.default_rng(0)
    labels = {f"{split}_labels": rng.integers(0, 2, (n, 4)) for split, n in (("train", 60), ("val", 30), ("test", 30))}
    edit(packs, "cells", **labels)
    opened = source(packs, cells={**CELLS, "task": {"kind": "multi-label"}})
    assert opened.tasks()[0].n_classes == 4
    assert np.array_equal(opened.task("cells").test.labels, labels["test_labels"])


def test_a_tasks_identity_changes_with_its_images_labels_size_and_channels_and_else_not(packs: Path) -> None:
    def identity(**options: Any) -> str:
        return source(packs, cells=CELLS, **options).tasks()[0].identity

    first = identity()
    assert identity() == first
    assert len({first, identity(image_size=14), identity(channels=3)}) == 3
    held = arrays_of(packs, "cells")
    flipped = held["test_labels"].copy()
    flipped[0] = (flipped[0] + 1) % 3
    edit(packs, "cells", test_labels=flipped)
    assert identity() != first
    edit(packs, "cells", test_labels=held["test_labels"])
    assert identity() == first
    darker = held["val_images"].copy()
    darker[0, 0, 0, 0] ^= 1
    edit(packs, "cells", val_images=darker)
    assert identity() != first


def test_an_unknown_task_is_named_with_the_nearest(packs: Path) -> None:
    with pytest.raises(KeyError, match="unknown task 'cell'; did you mean 'cells'"):
        source(packs, cells=CELLS).task("cell")


# --- mistakes ---------------------------------------------------------------------------------------------------


def test_a_missing_file_is_named_with_those_that_are_there(packs: Path) -> None:
    text = problems(packs, shape=SHAPES)
    assert text == f"data.files.shape.npz: no file {packs / 'shape.npz'}; the folder holds cells.npz, shapes.npz"


def test_a_folder_without_packs_says_so(tmp_path: Path) -> None:
    assert problems(tmp_path, shapes=SHAPES).endswith("the folder holds no .npz files")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # NumPy leaves the cut-off file open
@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_archive_says_so(packs: Path, content: bytes) -> None:
    (packs / "shapes.npz").write_bytes(content)
    assert f"{packs / 'shapes.npz'} is no readable .npz: " in problems(packs, shapes=SHAPES)


def test_a_single_array_under_the_name_of_an_archive_says_so(packs: Path) -> None:
    with open(packs / "shapes.npz", "wb") as file:
        np.save(file, np.zeros(3))
    assert f"{packs / 'shapes.npz'} is no readable .npz: " in problems(packs, shapes=SHAPES)


def test_arrays_that_are_missing_are_named_with_those_that_are_there(packs: Path) -> None:
    edit(packs, "cells", val_images=None, test_labels=None)
    text = problems(packs, cells=CELLS)
    assert "lacks test_labels, val_images; it holds test_images, train_images, train_labels, val_labels" in text


def test_splits_that_nobody_uses_may_be_missing(packs: Path) -> None:
    edit(packs, "shapes", test_images=None, test_labels=None)
    assert len(source(packs, shapes=SHAPES).pool().keys) == 60


@pytest.mark.parametrize(
    ("images", "shown"),
    [
        (np.zeros((60, 28, 28), np.float32), r"float32 (60, 28, 28)"),
        (np.zeros((60, 28, 28, 4), np.uint8), r"uint8 (60, 28, 28, 4)"),
        (np.zeros((60, 784), np.uint8), r"uint8 (60, 784)"),
    ],
)
def test_images_of_another_kind_are_refused(packs: Path, images: NDArray, shown: str) -> None:
    edit(packs, "shapes", train_images=images)
    text = problems(packs, shapes=SHAPES)
    assert f"train_images are {shown}; uint8 (n, h, w) or (n, h, w, 3) wanted" in text


def test_as_many_labels_as_images_are_wanted(packs: Path) -> None:
    edit(packs, "shapes", train_labels=np.zeros((59, 1), np.int64))
    assert "train has 60 images and 59 labels" in problems(packs, shapes=SHAPES)


def test_a_class_that_the_pack_does_not_have_is_named_with_the_nearest(packs: Path) -> None:
    text = problems(packs, shapes={**SHAPES, "modality": {"slise": "ct", "film": "xray"}})
    assert (
        "data.files.shapes.npz.modality.slise: unknown class 'slise'; did you mean 'slice'? known: film, slice" in text
    )
    assert "data.files.shapes.npz.modality: class 'slice' has no modality; add it" in text


def test_classes_without_names_go_by_their_number(packs: Path) -> None:
    pack = {"modality": {"0": "ct", "1": "mr", "2": "ct"}, "pretrain": ["train"]}
    assert source(packs, cells=pack).pool().modalities == ("ct", "mr")
    assert "class '2' has no modality; add it" in problems(packs, cells={**pack, "modality": {"0": "ct", "1": "mr"}})


def test_a_task_of_classes_of_several_modalities_has_to_name_one(packs: Path) -> None:
    text = problems(packs, shapes={**SHAPES, "task": {"kind": "binary"}})
    assert "data.files.shapes.npz.task.modality: is missing; the classes are of several modalities" in text


def test_all_mistakes_of_all_packs_are_reported_at_once(packs: Path) -> None:
    edit(packs, "cells", val_images=None)
    with pytest.raises(SpecError) as caught:
        source(packs, cells=CELLS, shape=SHAPES)
    assert len(caught.value.problems) == 2


def test_a_pack_that_is_used_for_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="is neither pretrained on nor a task"):
        NpzOptions.model_validate({"source": "npz", "image_size": 28, "files": {"a.npz": {"modality": "ct"}}})


def test_pretraining_on_the_test_split_of_ones_own_task_is_refused() -> None:
    pack = {"modality": "ct", "pretrain": ["train", "test"], "task": {"kind": "binary"}}
    with pytest.raises(ValidationError, match="pretrains on the test split of its own task; allowed: train, val"):
        NpzOptions.model_validate({"source": "npz", "image_size": 28, "files": {"a.npz": pack}})


@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        pytest.param("binary", np.arange(60) % 3, id="binary with three classes"),
        pytest.param("multi-label", np.arange(60) % 2, id="multi-label with one column"),
        pytest.param("multi-label", np.full((60, 2), 2), id="multi-label with a 2"),
        pytest.param("multi-class", np.zeros((60, 2), np.int64), id="multi-class with two columns"),
        pytest.param("multi-class", np.arange(60) % 3 - 1, id="negative class"),
        pytest.param("multi-class", np.arange(60) % 3 + 0.5, id="class and a half"),
    ],
)
def test_labels_that_do_not_fit_the_kind_of_task_are_refused(packs: Path, kind: str, labels: NDArray) -> None:
    held = {f"{split}_labels": labels[:n] for split, n in (("train", 60), ("val", 30), ("test", 30))}
    edit(packs, "cells", **held)
    assert "labels" in problems(packs, cells={**CELLS, "task": {"kind": kind}})
