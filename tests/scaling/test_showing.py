"""scaling data list, stats, show, verify: what they print, what verify proves, and what it notices."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from scaling.cli import main
from scaling.store.describing import quarantined, sheet, sheet_rows
from scaling.store.layout import SourceCard
from scaling.store.opened import open_sources
from scaling.store.verifying import verify
from scaling.store.writing import Row, sha256_of, write_source
from tests.scaling.stores import SIZE, SLICES, pictures, plain_rows, slice_rows, write_example


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = write_example(tmp_path_factory.mktemp("stores") / "store")
    aside = [("a.png", "truncated PNG"), ("b.png", "truncated PNG"), ("c.png", "of one grey all over")]
    write_source(store, "scans", pictures(20, seed=7), plain_rows(20, modality="mr"), quarantine=aside)
    return store


def asked(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    code = main(["data", *map(str, words)])
    return code, capsys.readouterr().out


# --- looking -----------------------------------------------------------------------------------------------------


def test_list_has_a_row_for_each_source(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = asked(capsys, "list", example)
    assert code == 0
    assert "286 images of 28 pixels" in text
    for words in (("slices", "120", "ct 120", "side (binary, 2)"), ("cells", "96", "3", "signs (multi-label, 3)")):
        assert any(all(word in line for word in words) for line in text.splitlines())


def test_list_as_json_adds_up(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = json.loads(asked(capsys, "list", example, "--json")[1])
    assert {each["name"]: each["n_images"] for each in listed["sources"]} == {
        "cells": 96, "films": 50, "scans": 20, "slices": 120,
    }  # fmt: skip
    for each in listed["sources"]:
        assert each["n_bytes"] == sum(path.stat().st_size for path in (example / each["name"]).iterdir())
        assert sum(each["n_by_modality"].values()) == each["n_images"]


def test_stats_count_what_is_there(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = json.loads(asked(capsys, "stats", example, "slices", "--json")[1])["sources"]
    rows, images = slice_rows(120), pictures(120, seed=0)
    splits = {name: sum(row.split == (None if name == "none" else name) for row in rows) for name in found["by_split"]}
    assert found["by_split"] == splits
    assert (found["height"], found["width"], found["n_groups"]) == ([100] * 3, [120] * 3, 40)
    assert found["mean"] == pytest.approx(images.mean(), abs=0.01)
    assert found["sd"] == pytest.approx(images.std(), abs=0.01)
    of_split = {
        split: [i % 2 for i, row in enumerate(rows) if row.split == split] for split in ("train", "val", "test")
    }
    assert found["tasks"]["side"] == {
        split: {"left": labels.count(0), "right": labels.count(1)} for split, labels in of_split.items()
    }


def test_stats_say_in_words_what_was_set_aside(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = asked(capsys, "stats", example)
    assert code == 0
    assert "set aside: 2 x truncated PNG" in text
    assert "slices: 120 images (120 ct), 40 groups" in text
    assert "task side" in text


def test_reasons_that_differ_in_numbers_are_one_and_those_beyond_the_commonest_are_counted_together(
    tmp_path: Path,
) -> None:
    aside = [(f"{i}.png", f"reason {chr(97 + i)}") for i in range(20)] + [("x.png", "reason d")] * 4
    aside += [(f"{i}.nii", f"{i} of 300 pixels are NaN") for i in range(8)]
    write_source(tmp_path / "s", "a", pictures(1, seed=0), plain_rows(1), quarantine=aside)
    found = quarantined(tmp_path / "s" / "a")
    assert list(found.items())[:2] == [("... of ... pixels are NaN", 8), ("reason d", 5)]
    assert sum(found.values()) == len(aside)
    assert found["other reasons"] == 9


def test_a_sheet_shows_images_of_each_modality_as_they_are(example: Path, tmp_path: Path) -> None:
    card, sources = open_sources(example)
    rows = [row for source in sources.values() for row in sheet_rows(source, card.image_size)]
    assert [row.title.splitlines()[0] for row in rows] == [
        "cells: microscopy", "films: xray", "scans: mr", "slices: ct",
    ]  # fmt: skip
    (tmp_path / "sheet.png").write_bytes(sheet(rows, ["below"]))
    with Image.open(tmp_path / "sheet.png") as file:
        picture = np.asarray(file)
    films = next(row for row in rows if row.title.startswith("films"))
    tile = films.images[0][0].repeat(3, 0).repeat(3, 1)
    corner = np.lib.stride_tricks.sliding_window_view(picture[..., 0], tile.shape)
    assert (corner[:, 150] == tile).all((1, 2)).any()  # enlarged three times, unsmoothed


def test_captions_say_split_and_label_of_the_image_above(example: Path) -> None:
    _, sources = open_sources(example, ["slices"])
    (row,) = sheet_rows(sources["slices"], SIZE)
    images, rows = pictures(120, seed=0), slice_rows(120)
    known = {image.tobytes(): i for i, image in enumerate(images)}
    for image, caption in zip(row.images, row.captions, strict=True):
        i = known[image.tobytes()]
        side = ["left", "right"][i % 2]
        assert caption == (f"{rows[i].split}\n{side}" if rows[i].split else "no split")


def test_show_writes_a_png(example: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = asked(capsys, "show", example, "scans", "--out", tmp_path / "look.png")
    assert (code, text) == (0, f"{tmp_path / 'look.png'}: 12 images of 1 sources\n")
    assert (tmp_path / "look.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("word", ["list", "stats", "verify"])
def test_a_folder_that_is_no_store_is_refused(tmp_path: Path, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", word, str(tmp_path)]) == 2
    assert "is no store: it has no store.json" in capsys.readouterr().err


def test_an_unknown_source_is_answered_with_the_known_ones(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "stats", str(example), "slice"]) == 2
    assert "unknown source 'slice'; did you mean 'slices'" in capsys.readouterr().err


# --- verify ------------------------------------------------------------------------------------------------------


def test_a_store_as_it_was_written_is_proved(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = asked(capsys, "verify", example)
    assert code == 0
    assert "wrong" not in text
    for what in (
        "slices: the manifest is the one that was written",
        "slices: no group stands in two splits: 45 train, 15 val, 15 test, 45 of none",
        "slices: 4 parts: each file and each image is as it was written",
        "store: no image to pretrain on is of a group in a validation or test split",
        "store: smaller sets are part of larger ones; 10 %: ",
        "store: 208 images to pretrain on are no copies of what tasks test",
    ):
        assert f"proved  {what}" in text


def test_quick_reads_no_pixels(example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaling.store.verifying.checksums", None)
    monkeypatch.setattr("scaling.store.verifying.perceptual_hash", None)
    assert all(proof.state == "proved" for proof in verify(example, quick=True))


def test_copies_of_tested_images_are_noted_and_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, rows = pictures(120, seed=0), slice_rows(120)
    write_source(tmp_path / "s", "slices", images, rows, tasks=SLICES)
    tested = [i for i, row in enumerate(rows) if row.split == "test"][:2]
    write_source(tmp_path / "s", "films", images[tested] + np.uint8(20), plain_rows(2))
    code, text = asked(capsys, "verify", tmp_path / "s", "--json")
    proofs = json.loads(text)["proofs"]
    assert code == 0
    (noted,) = [proof["what"] for proof in proofs if proof["state"] == "noted"]
    assert noted.startswith("2 images are copies, exact or nearly, of 2 in the test split of side")


def test_what_is_no_source_is_noted(tmp_path: Path) -> None:
    store = write_example(tmp_path / "store", ["slices"])
    (store / "half").mkdir()
    (store / "half" / "manifest.parquet").write_bytes(b"")
    (noted,) = [proof.what for proof in verify(store, quick=True) if proof.state == "noted"]
    assert noted == "what is no finished source, so that nothing reads it: half"


@pytest.mark.parametrize("word", ["list", "stats", "verify"])
def test_a_file_where_a_store_should_be_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str
) -> None:
    (tmp_path / "import.yaml").write_text("store: s\n")
    assert main(["data", word, str(tmp_path / "import.yaml")]) == 2
    assert "import.yaml: is no store that can be read: Not a directory" in capsys.readouterr().err


def test_a_source_that_may_not_be_looked_into_is_no_absent_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = write_example(tmp_path / "store", ["slices", "films"])
    monkeypatch.setattr("os.access", lambda path, _: Path(path).name != "films")  # root may look everywhere
    assert main(["data", "list", str(store)]) == 2
    assert f"{store / 'films'}: cannot be looked into: Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["stats", "show"])
def test_a_damaged_part_is_a_problem_of_whoever_looks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str
) -> None:
    store = write_example(tmp_path / "store", ["slices"])
    (path,) = (store / "slices").glob("images-00000.npy")
    size = path.stat().st_size
    path.write_bytes(b"no array".ljust(size, b"x"))
    out = ["--out", str(tmp_path / "sheet.png")] if word == "show" else []
    assert main(["data", word, str(store), *out]) == 2
    assert "images-00000.npy is no readable part" in capsys.readouterr().err
    assert not (tmp_path / "sheet.png").exists()


def test_a_sheet_that_cannot_be_written_is_one_problem(
    example: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["data", "show", str(example), "--out", str(tmp_path / "file" / "sheet.png")]) == 2
    assert "cannot be read or written: " in capsys.readouterr().err


def test_a_sheet_is_written_as_png_alone(example: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = example / "slices" / "manifest.parquet"
    before = manifest.read_bytes()
    assert main(["data", "show", str(example), "--out", str(manifest)]) == 2
    assert "--out: " in capsys.readouterr().err
    assert manifest.read_bytes() == before


def _changed(store: Path, column: str, change: Callable[[list], list]) -> None:
    """A column of the manifest, with the card's hash of it as if it had been written so."""
    manifest = store / "slices" / "manifest.parquet"
    table = pq.read_table(manifest)
    at, kind = table.column_names.index(column), table.schema.field(column)
    named = pa.types.is_dictionary(kind.type)
    values = pa.array(change(table[column].to_pylist()), kind.type.value_type if named else kind.type)
    values = values.dictionary_encode().cast(kind.type) if named else values
    pq.write_table(table.set_column(at, kind, values), manifest)
    _card(store, manifest_sha256=sha256_of(manifest))


def _card(store: Path, **changed: object) -> None:
    path = store / "slices" / "source.json"
    card = SourceCard.model_validate_json(path.read_text())
    path.write_text(card.model_copy(update=changed).model_dump_json())


def _flip(store: Path, *, at: int, hide: bool = False) -> None:
    """One bit of a pixel; with `hide`, with the part's new checksum in the card."""
    path = store / "slices" / "images-00001.npy"
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    if hide:
        card = SourceCard.model_validate_json((store / "slices" / "source.json").read_text())
        parts = [
            part.model_copy(update={"sha256": sha256_of(path)}) if i == 1 else part for i, part in enumerate(card.parts)
        ]
        _card(store, parts=parts)


HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit of a pixel is turned": (
        lambda s: _flip(s, at=128 + 784 * 3 + 5),
        "images-00001.npy: 1 images are not as they were written, the first slices/0035.png; import it again",
    ),
    "a pixel and its part's checksum": (lambda s: _flip(s, at=200, hide=True), "the first slices/0032.png"),
    "a bit of a header": (lambda s: _flip(s, at=126), "images-00001.npy is no readable part"),
    "a bit of a header that says nothing": (lambda s: _flip(s, at=7), "images-00001.npy is no readable part"),
    "a byte of the manifest": (
        lambda s: pq.write_table(
            pq.read_table(s / "slices" / "manifest.parquet"), s / "slices" / "manifest.parquet", compression="gzip"
        ),
        "manifest.parquet was changed since it was written",
    ),
    "an image id stands twice": (
        lambda s: _changed(s, "image_id", lambda ids: [ids[1], *ids[1:]]),
        "1 rows have an image id of another row",
    ),
    "keys are others": (
        lambda s: _changed(s, "key", lambda keys: [keys[0] ^ 1, *keys[1:]]),
        "keys are not the beginnings of checksums",
    ),
    "hashes are others": (
        lambda s: _changed(s, "phash", lambda hashes: [hashes[0] ^ 1, *hashes[1:]]),
        "perceptual hashes are not those of its images",
    ),
    "a modality is another": (
        lambda s: _changed(s, "modality", lambda names: ["mr", *names[1:]]),
        "images by modality are not those of the card",
    ),
    "groups are renamed": (
        lambda s: _changed(s, "group", lambda groups: [f"{group}x" for group in groups]),
        "hashes of groups are not those of their names",
    ),
    "a patient is on both sides": (
        lambda s: _changed(s, "split", lambda splits: [*splits[:3], "test", *splits[4:]]),
        "1 groups stand in several splits, such as 'patient-1'; give each patient one split",
    ),
    "a file that no card lists": (
        lambda s: (s / "slices" / "images-00009.npy").write_bytes(b""),
        "files that no card lists, which nothing reads: images-00009.npy",
    ),
}


@pytest.mark.parametrize("name", HARM)
def test_what_was_changed_is_noticed_and_is_one_fault(
    example: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    shutil.copytree(example / "slices", store / "slices")
    shutil.copy(example / "store.json", store)
    harm, message = HARM[name]
    harm(store)
    code, text = asked(capsys, "verify", store)
    assert code == 2
    wrong = [line for line in text.splitlines() if line.startswith("wrong")]
    assert message in wrong[0]
    assert len(wrong) == 2  # and the pool is not looked at
    assert "nesting and copies were not looked at" in wrong[1]


def test_harm_of_one_source_does_not_hide_that_of_another(example: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(example, store)
    _flip(store, at=500)
    (store / "films" / "left-over").write_bytes(b"")
    assert {proof.of for proof in verify(store) if proof.state == "wrong"} == {"slices", "films", "store"}


def test_an_import_under_way_is_not_looked_at(example: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(example, store)
    (store / ".more.importing").mkdir()
    (store / ".more.importing" / "part-00000.npy").write_bytes(b"half")
    assert all(proof.state == "proved" for proof in verify(store, quick=True))


def test_a_store_without_tasks_has_nothing_to_be_contaminated(tmp_path: Path) -> None:
    rows = [Row(image_id="1", modality="ct", height=2, width=2)]
    write_source(tmp_path / "s", "a", pictures(1, seed=0), rows)
    assert [proof.what for proof in verify(tmp_path / "s")][-1] == "no task, so that nothing can be contaminated"
