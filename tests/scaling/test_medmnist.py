"""The `medmnist` source: the published files alone, each split as it is, and no more in memory than what is read."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib.util
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaling.config import load
from scaling.data.cache import cached_task
from scaling.data.medmnist import Medmnist
from scaling.data.source import Pool
from scaling.errors import DataMissing, SpecError
from scaling.medmnist_sets import IMAGES, SETS, SPLITS, address, file_name
from scaling.opening import open_source, source_of
from scaling.source_options import MedmnistOptions
from tests.scaling.medmnist_fakes import N_VOLUMES, arrays_of, publish, write_fakes

KINDS = {
    "binary-class": "binary",
    "multi-class": "multi-class",
    "multi-label, binary-class": "multi-label",
    "ordinal-regression": "ordinal",
}


def options(root: Path, *sets: str, **more: Any) -> MedmnistOptions:
    values = {"source": "medmnist", "root": str(root), "channels": 3, **({"sets": list(sets)} if sets else {}), **more}
    return MedmnistOptions.model_validate(values)


def source(root: Path, *sets: str, **more: Any) -> Medmnist:
    return Medmnist(options(root, *sets, **more))


def refusal(root: Path, *sets: str, **more: Any) -> SpecError:
    with pytest.raises(SpecError) as caught:
        source(root, *sets, **more)
    return caught.value


# --- the table --------------------------------------------------------------------------------------------------


def published() -> dict[str, Any]:
    """The table of the benchmark's own package; read, because importing it takes seconds and makes a folder."""
    spec = importlib.util.find_spec("medmnist")
    assert spec is not None
    (folder,) = spec.submodule_search_locations or []
    tree = ast.parse((Path(folder) / "info.py").read_text())
    (info,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "INFO"
    ]
    found: dict[str, Any] = ast.literal_eval(info)
    return found


def test_the_table_is_the_one_of_the_published_package() -> None:
    theirs = published()
    assert list(theirs) == list(SETS)
    for name, info in theirs.items():
        ours = SETS[name]
        assert ours.kind == KINDS[info["task"]]
        assert ours.channels == info["n_channels"]
        assert dict(zip(SPLITS, ours.n_images, strict=True)) == info["n_samples"]
        assert {str(i): text for i, text in enumerate(ours.classes)} == info["label"]
        assert ours.licence == info["license"]
        assert ours.volumes == name.endswith("3d")
        suffixes = {28: "", 64: "_64", 128: "_128", 224: "_224"}
        assert {
            size: info.get(f"MD5{suffix}") for size, suffix in suffixes.items() if f"MD5{suffix}" in info
        } == ours.md5
        assert {address(name, size) for size in ours.md5} == {info[f"url{suffixes[size]}"] for size in ours.md5}
        assert all(file_name(name, size) in info[f"url{suffixes[size]}"] for size in ours.md5)


def test_all_are_the_twelve_sets_of_images() -> None:
    assert len(IMAGES) == 12
    assert sum(SETS[name].n_images[0] for name in IMAGES) == 518_175  # what the reference study's probes train on


# --- what it offers ----------------------------------------------------------------------------------------------


def test_a_task_is_its_file_split_by_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("bloodmnist", "breastmnist", "chestmnist", "retinamnist")
    write_fakes(tmp_path, names, monkeypatch)
    opened = source(tmp_path, *names)
    for name in names:
        task, held = opened.task(name), arrays_of(name, 28)
        for split in SPLITS:
            images = held[f"{split}_images"]
            wanted = images.transpose(0, 3, 1, 2) if images.ndim == 4 else np.repeat(images[:, None], 3, axis=1)
            np.testing.assert_array_equal(getattr(task, split).images, wanted)
            labels = held[f"{split}_labels"]
            np.testing.assert_array_equal(getattr(task, split).labels, labels if name == "chestmnist" else labels[:, 0])
    kinds = {info.name: (info.kind, info.n_classes, info.modality) for info in opened.tasks()}
    assert kinds["retinamnist"] == ("ordinal", 5, "fundus")
    assert kinds["chestmnist"] == ("multi-label", 14, "xray")
    assert kinds["breastmnist"] == ("binary", 2, "ultrasound")


def test_all_twelve_are_tasks_of_their_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fakes(tmp_path, IMAGES, monkeypatch)
    infos = source(tmp_path).tasks()
    assert [info.name for info in infos] == list(IMAGES)
    assert [info.kind for info in infos] == [SETS[name].kind for name in IMAGES]
    assert [info.n_classes for info in infos] == [len(SETS[name].classes) for name in IMAGES]


def test_training_splits_are_the_pool_unless_others_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fakes(tmp_path, ("bloodmnist", "octmnist"), monkeypatch)
    pool = source(tmp_path, "bloodmnist", "octmnist").pool()
    assert sizes(pool) == {"microscopy": 40, "oct": 40}
    some = source(tmp_path, "bloodmnist", "octmnist", pretrain={"octmnist": ["train", "val"]})
    assert sizes(some.pool()) == {"oct": 56}
    held = arrays_of("octmnist", 28)
    wanted = {image.tobytes() for split in ("train", "val") for image in held[f"{split}_images"]}
    assert {image[0].tobytes() for image in some.read(np.arange(56))} == wanted


def sizes(pool: Pool) -> dict[str, int]:
    counts = np.bincount(pool.modality)
    return {name: int(counts[i]) for i, name in enumerate(pool.modalities)}


def test_colour_becomes_luminance_where_one_channel_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fakes(tmp_path, ("bloodmnist",), monkeypatch)
    test = source(tmp_path, "bloodmnist", channels=1).task("bloodmnist").test
    wanted = arrays_of("bloodmnist", 28)["test_images"] @ np.array([0.299, 0.587, 0.114])
    assert test.images.shape == (20, 1, 28, 28)
    assert np.abs(test.images[:, 0] - wanted).max() <= 0.501  # rounded


def test_volumes_give_every_so_many_slices_of_one_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fakes(tmp_path, ("organmnist3d",), monkeypatch)
    opened = source(tmp_path, "organmnist3d", stride=9)
    held = arrays_of("organmnist3d", 28)
    task = opened.task("organmnist3d")
    wanted = held["train_images"][:, [4, 13, 22]]  # 9 // 2, then every ninth of 28
    np.testing.assert_array_equal(task.train.images[:, 0], wanted.reshape(-1, 28, 28))
    np.testing.assert_array_equal(task.train.labels, np.repeat(held["train_labels"][:, 0], 3))
    assert task.info.n_train == 3 * N_VOLUMES["train"]
    pool = opened.pool()
    assert np.unique(pool.groups, return_counts=True)[1].tolist() == [3] * N_VOLUMES["train"]


def test_slices_on_which_nothing_is_to_be_seen_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = arrays_of("vesselmnist3d", 28)
    arrays["train_images"][:, :14] = 0
    np.savez(tmp_path / "vesselmnist3d.npz", **arrays)  # type: ignore[arg-type]
    publish(tmp_path, monkeypatch)
    task = source(tmp_path, "vesselmnist3d", stride=4).task("vesselmnist3d")
    assert task.info.n_train == 4 * N_VOLUMES["train"]  # slices 14, 18, 22 and 26 of 2, 6, ..., 26
    assert len(task.val.images) == 7 * N_VOLUMES["val"]


def test_a_size_or_a_set_that_was_not_published_is_refused(tmp_path: Path) -> None:
    for more, text in [
        ({"image_size": 32}, "MedMNIST has no 32 pixels; allowed: 28, 64, 128, 224"),
        ({"sets": ["pathmist"]}, "unknown set 'pathmist'; did you mean 'pathmnist'"),
        ({"sets": ["organmnist3d"], "image_size": 128}, "organmnist3d of volumes have no 128 pixels; allowed"),
        ({"sets": ["octmnist"], "pretrain": {"pathmnist": ["train"]}}, "pretrains on pathmnist, which `sets` leaves"),
        ({"sets": ["octmnist"], "pretrain": {"octmnist": ["test"]}}, "'train' or 'val'"),
    ]:
        with pytest.raises(ValueError, match=text):
            options(tmp_path, **more)


def test_training_images_that_another_set_is_judged_by_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smooth = np.random.default_rng(0).integers(0, 256, (40, 4, 4), dtype=np.uint8).repeat(7, axis=1).repeat(7, axis=2)
    train, test = arrays_of("organamnist", 28), arrays_of("organcmnist", 28)
    train["train_images"] = smooth
    test["test_images"][:5] = smooth[:5]
    np.savez(tmp_path / "organamnist.npz", **train)  # type: ignore[arg-type]
    np.savez(tmp_path / "organcmnist.npz", **test)  # type: ignore[arg-type]
    publish(tmp_path, monkeypatch)
    for contaminated, n in (("exclude", 75), ("keep", 80)):
        chosen = options(tmp_path, "organamnist", "organcmnist", contaminated=contaminated)
        assert len(source_of(chosen).pool().keys) == n


def test_a_task_is_read_where_it_lies_and_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fakes(tmp_path / "data", ("octmnist",), monkeypatch)
    opened = source(tmp_path / "data", "octmnist")
    task = cached_task(tmp_path / "cache", opened.tasks()[0], lambda: opened)
    np.testing.assert_array_equal(task.test.images, opened.task("octmnist").test.images)
    assert not (tmp_path / "cache").exists()


def test_probes_read_a_whole_training_split_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from scaling.probes.features import task_features

    write_fakes(tmp_path, ("octmnist",), monkeypatch)
    task, seen = source(tmp_path, "octmnist").task("octmnist"), list[int]()

    class Mapped(np.ndarray):
        def __getitem__(self, rows: Any) -> Any:
            assert isinstance(rows, slice), "a choice of rows is a copy of them"
            return super().__getitem__(rows)

    def encode(images: torch.Tensor) -> dict[Any, torch.Tensor]:
        seen.append(len(images))
        return {"cls": images.flatten(1)[:, :4].float()}

    whole = dataclasses.replace(task, train=dataclasses.replace(task.train, images=task.train.images.view(Mapped)))
    device = torch.device("cpu")
    found = task_features(encode, whole, max_train=None, seed=0, batch_size=16, device=device)  # type: ignore[arg-type]
    assert seen == [16, 16, 8, 16, 16, 4]  # 40 train, 16 val, 20 test
    assert found.parts["train"]["cls"].shape == (40, 4)


# --- files -------------------------------------------------------------------------------------------------------


def test_missing_files_are_one_problem_with_address_name_and_md5(tmp_path: Path) -> None:
    error = refusal(tmp_path)
    assert isinstance(error, DataMissing)
    assert len(error.problems) == 1
    text = str(error)
    assert f"`scaling data download medmnist --size 28 --to {tmp_path}`" in text
    for name in IMAGES:
        assert f"{name}.npz  MD5 {SETS[name].md5[28]}  {address(name, 28)}" in text
    assert list(tmp_path.iterdir()) == []  # looking makes nothing
    some = str(refusal(tmp_path, "octmnist", "pathmnist", image_size=224))
    assert f"--size 224 --sets octmnist pathmnist --to {tmp_path}`" in some
    assert "pathmnist_224.npz  MD5 2c51a510bcdc9cf8ddb2af93af1eadec" in some


def test_a_file_with_another_md5_is_refused_under_that_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "octmnist.npz", **arrays_of("octmnist", 28))  # type: ignore[arg-type]
    found = hashlib.md5((tmp_path / "octmnist.npz").read_bytes(), usedforsecurity=False).hexdigest()
    error = refusal(tmp_path, "octmnist")
    assert not isinstance(error, DataMissing)
    for part in (f"its MD5 is {found}", f"the published file's {SETS['octmnist'].md5[28]}", "`source: npz`"):
        assert part in str(error)


def test_packs_of_the_same_content_are_refused_under_the_benchmarks_name(tmp_path: Path, shared: Path) -> None:
    for name in ("breastmnist", "pneumoniamnist"):
        (tmp_path / f"{name}.npz").symlink_to(shared / "data" / f"{name}.npz")
    problems = refusal(tmp_path, "breastmnist", "pneumoniamnist").problems
    assert len(problems) == 2
    assert all("is not MedMNIST's" in problem.what and "`source: npz`" in problem.what for problem in problems)


def test_what_is_missing_and_what_is_another_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "octmnist.npz").write_bytes(b"junk")
    error = refusal(tmp_path, "octmnist", "pathmnist")
    assert not isinstance(error, DataMissing)
    assert len(error.problems) == 2


def test_problems_name_the_line_of_the_yaml(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    lines = ["name: a", "grid: {model: vit_atto, algorithm: mae, n_images: 8}", "data: {source: medmnist, channels: 3}"]
    sweep.write_text("\n".join([*lines, "pretrain: {images_seen: 8, batch_size: 8}"]))
    with pytest.raises(DataMissing, match=r"sweep.yaml:3: data: 12 of 12 files of MedMNIST are not in "):
        open_source(*load(sweep), data_root=str(tmp_path))


def test_an_md5_is_made_once_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fakes(tmp_path, ("octmnist",), monkeypatch)
    made = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *args: made.append(1) or digest(*args))
    source(tmp_path, "octmnist")
    source(tmp_path, "octmnist")
    assert len(made) == 1
    with open(tmp_path / "octmnist.npz", "ab") as file:
        file.write(b"more")
    refusal(tmp_path, "octmnist")
    refusal(tmp_path, "octmnist")
    assert len(made) == 2


def test_a_file_that_was_taken_apart_may_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fakes(tmp_path, ("octmnist",), monkeypatch)
    opened = source(tmp_path, "octmnist")
    opened.pool()
    (tmp_path / "octmnist.npz").rename(tmp_path / "kept")
    assert isinstance(refusal(tmp_path, "octmnist"), DataMissing)  # only some of it was read so far
    (tmp_path / "kept").rename(tmp_path / "octmnist.npz")
    held = opened.task("octmnist").val.images
    (tmp_path / "octmnist.npz").unlink()
    np.testing.assert_array_equal(source(tmp_path, "octmnist").task("octmnist").val.images, held)


def test_arrays_go_to_a_folder_of_ones_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fakes(tmp_path / "data", ("octmnist",), monkeypatch)
    source(tmp_path / "data", "octmnist", cache=str(tmp_path / "arrays")).pool()
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["octmnist.npz"]
    assert list((tmp_path / "arrays").rglob("train_images.npy"))


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fakes(tmp_path, ("octmnist",), monkeypatch)
    (tmp_path / "unpacked").write_text("in the way")
    text = str(refusal(tmp_path, "octmnist"))
    assert "data.cache: " in text
    assert "give a folder that can be written as data.cache" in text


@pytest.mark.parametrize("channels", [1, 3])
def test_images_stay_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int) -> None:
    n_images = {"train": 600, "val": 300, "test": 300}
    monkeypatch.setattr("scaling.data.npz_members.CHUNK_BYTES", 2**18)
    monkeypatch.setattr("scaling.data.medmnist_files.CHUNK", 16)
    write_fakes(tmp_path, ("bloodmnist", "octmnist"), monkeypatch, sizes=(64,), n_images=n_images)
    tracemalloc.start()
    try:
        opened = source(tmp_path, "bloodmnist", "octmnist", image_size=64, channels=channels)
        pool = opened.pool()
        tasks = [opened.task(info.name) for info in opened.tasks()]
        opened.labels(np.arange(5))
        opened.read(np.arange(16))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(pool.keys) == 1200
    in_all = sum(split.images.nbytes for task in tasks for split in (task.train, task.val, task.test))
    assert in_all > 9e6 * channels
    assert peak < 2.5e6  # chunks of 256 KiB, their copies, keys and labels; nothing of the size of a split's images


def test_repeated_channels_are_the_same_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fakes(tmp_path, ("octmnist",), monkeypatch)
    images = source(tmp_path, "octmnist").task("octmnist").test.images
    assert images.shape == (20, 3, 28, 28)
    assert images.strides[1] == 0
