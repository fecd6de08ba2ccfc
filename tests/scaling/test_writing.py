"""A source gets into a store whole, from arrays and rows, and is there as it was given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from scaling.errors import SpecError
from scaling.store.layout import SourceCard, TaskCard, part_path, sources_of
from scaling.store.writing import PartFile, Row, sha256_of, write_source

TASKS = {
    "side": TaskCard(kind="binary", classes=["left", "right"]),
    "signs": TaskCard(kind="multi-label", classes=["a", "b"]),
}


def _images(n: int = 10, channels: int = 1, size: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, channels, size, size), dtype=np.uint8)


def _rows(n: int = 10) -> list[Row]:
    return [
        Row(
            image_id=f"{i}.png",
            modality="ct" if i % 2 else "mr",
            group=f"patient-{i // 2}" if i < 8 else None,
            split=("train", "val", "test", None)[i % 4],
            height=100 + i,
            width=200,
            labels={"side": i % 2, "signs": (1, 0)} if i % 4 != 3 else {},
        )
        for i in range(n)
    ]


def test_images_and_rows_come_back_as_they_were_given(tmp_path: Path) -> None:
    images, rows = _images(), _rows()
    card = write_source(tmp_path / "store", "mine", images, rows, tasks=TASKS, part_size=4)
    folder = tmp_path / "store" / "mine"
    assert card == SourceCard.model_validate_json((folder / "source.json").read_text())
    assert [part.n_images for part in card.parts] == [4, 4, 2]
    parts = [np.load(part_path(folder, i), mmap_mode="r") for i in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts), images)
    assert [part.sha256 for part in card.parts] == [sha256_of(part_path(folder, i)) for i in range(3)]
    table = pq.read_table(folder / "manifest.parquet").to_pylist()
    assert [row["image_id"] for row in table] == [row.image_id for row in rows]
    assert [row["group"] for row in table] == [row.group or row.image_id for row in rows]
    assert [row["split"] for row in table] == [row.split for row in rows]
    assert [row["label.side"] for row in table] == [row.labels.get("side") for row in rows]
    assert [row["label.signs"] for row in table] == [[1, 0] if row.labels else None for row in rows]
    assert [(row["height"], row["width"]) for row in table] == [(row.height, row.width) for row in rows]
    assert (card.n_images, card.n_groups, card.n_by_modality) == (10, 6, {"ct": 5, "mr": 5})
    assert sources_of(tmp_path / "store") == ["mine"]
    assert {each.name for each in folder.iterdir()} == {
        "source.json", "manifest.parquet", "quarantine.parquet", *(f"images-0000{i}.npy" for i in range(3)),
    }  # fmt: skip


def test_a_part_whose_length_is_known_late_is_a_plain_npy(tmp_path: Path) -> None:
    images = _images(300, 3)
    with open(tmp_path / "part.npy", "w+b") as file:
        part = PartFile(file, images.shape[1:])
        for start in range(0, 300, 7):
            part.append(images[start : start + 7])
        part.close()
    np.save(tmp_path / "whole.npy", images)
    assert (tmp_path / "part.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_a_name_that_is_taken_is_refused_and_what_is_there_stays(tmp_path: Path) -> None:
    write_source(tmp_path / "s", "mine", _images(), _rows())
    before = (tmp_path / "s" / "mine" / "source.json").read_bytes()
    with pytest.raises(SpecError, match="is there already"):
        write_source(tmp_path / "s", "mine", _images(4), _rows(4))
    assert (tmp_path / "s" / "mine" / "source.json").read_bytes() == before
    assert write_source(tmp_path / "s", "mine", _images(4), _rows(4), replace=True).n_images == 4
    assert [each.name for each in (tmp_path / "s").iterdir() if each.name.startswith(".")] == []


@pytest.mark.parametrize("name", ["../up", "", "a/b", ".hidden", "Big", "x" * 65])
def test_a_name_that_is_no_folder_of_the_store_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match="is no name"):
        write_source(tmp_path / "store", name, _images(), _rows())
    assert not list(tmp_path.iterdir())


def test_a_store_takes_images_of_one_size(tmp_path: Path) -> None:
    write_source(tmp_path / "store", "one", _images(), _rows())
    with pytest.raises(SpecError, match="holds images of 8 pixels, not 16; give image_size: 8"):
        write_source(tmp_path / "store", "two", _images(size=16), _rows())


def test_a_folder_of_other_things_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"")
    with pytest.raises(SpecError, match="files in it but no store"):
        write_source(tmp_path, "one", _images(), _rows())


def test_a_source_without_images_is_none(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="has no image"):
        write_source(tmp_path / "store", "one", _images(0), [])
