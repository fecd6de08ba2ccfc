"""What an import may ask for: a YAML or a command line, every mistake at once and each with its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scaling.catalog import READERS, Entry
from scaling.errors import SpecError
from scaling.importing import request
from scaling.importing.guessing import READER_OF, guess
from scaling.importing.request import Request, load, of_one
from scaling.reader_options import ReaderOptions


class AnyOptions(ReaderOptions):
    reader: Literal["any"]
    stride: int = 1


@pytest.fixture(autouse=True)
def _table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "READERS", {"any": Entry("nowhere:Any", AnyOptions, "of these tests")})


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str], Request]:
    (tmp_path / "images").mkdir()

    def written(text: str) -> Request:
        (tmp_path / "import.yaml").write_text(text)
        return load(tmp_path / "import.yaml")

    return written


def problems(read: Callable[..., Any], *given: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        read(*given)
    return [str(problem).split("import.yaml:")[-1] for problem in caught.value.problems]


def test_paths_are_relative_to_the_yaml(read: Callable[[str], Request], tmp_path: Path) -> None:
    found = read("store: mine\nsources:\n  chest: {reader: any, path: images, modality: xray, stride: 3}\n")
    assert found.store == tmp_path / "mine"
    assert found.image_size == 64
    options = found.sources["chest"]
    assert isinstance(options, AnyOptions)
    assert (options.path, options.modality, options.stride) == (str(tmp_path / "images"), "xray", 3)


def test_every_mistake_is_told_at_once_with_its_line(read: Callable[[str], Request]) -> None:
    text = """\
store: mine
image_size: 4
soruces: {}
sources:
  Chest: {reader: any, path: images}
  a: {reader: anny, path: images}
  b: {reader: any, path: nowhere}
  c:
    reader: any
    path: images
    strid: 3
    modality: xry
    window: [1]
    fit: squeeze
  d: {reader: any, path: images, modality: {left: ct, right: mrt}}
  e: {reader: any}
  f: images
"""
    found = problems(read, text)
    expected = [
        "2: image_size: should be greater than or equal to 8 (got 4)",
        "3: soruces: unknown key 'soruces'; did you mean 'sources'? known: image_size, sources, store",
        "5: sources.Chest: 'Chest' is no name: small letters",
        "6: sources.a.reader: unknown reader 'anny'; did you mean 'any'? known: any",
        "/nowhere is not there",
        "11: sources.c.strid: unknown key 'strid'; did you mean 'stride'?",
        "12: sources.c.modality: unknown modality 'xry'; did you mean 'xray'?",
        "13: sources.c.window",
        "14: sources.c.fit: should be 'crop', 'pad' or 'stretch' (got \"squeeze\")",
        "15: sources.d.modality.right: unknown modality 'mrt'; did you mean 'mr'?",
        "16: sources.e.path: is missing; add the folder or file to read",
        "17: sources.f: is no mapping; give `reader:` and `path:`",
    ]
    assert len(found) == len(expected), found
    for said, wanted in zip(found, expected, strict=True):
        assert wanted in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty; an import is `key: value` lines, first `store:`"),
        ("[1, 2]", "is not a mapping; an import"),
        ("store: x\n", "1: sources: is missing; add it"),
        ("store: x\nsources: {}\n", "2: sources: dictionary should have at least 1 item"),
        ("store: x\nsources: 3\n", "2: sources: should be an object (got 3)"),
        ("store: x\nstore: y\nsources: {a: {reader: any, path: images}}\n", "2: store: stands twice, first in line 1"),
        ("store: images/store\nsources: {a: {reader: any, path: images}}\n", "1: store: "),
        ("store: {\n", "no valid YAML"),
    ],
)
def test_what_is_no_import_is_refused(read: Callable[[str], Request], text: str, said: str) -> None:
    [found] = problems(read, text)
    assert said in found


def test_a_store_inside_what_is_read_is_refused(read: Callable[[str], Request]) -> None:
    [found] = problems(read, "store: images/store\nsources: {a: {reader: any, path: images}}\n")
    assert "lies inside" in found
    assert "put the store beside it" in found


def test_a_yaml_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no\.yaml: cannot be read: No such file or directory; give an import's YAML"):
        load(tmp_path / "no.yaml")


def test_one_source_from_a_command_line_is_the_same_request(
    read: Callable[[str], Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_yaml = read("store: mine\nimage_size: 32\nsources: {chest: {reader: any, path: images, modality: ct}}\n")
    monkeypatch.chdir(tmp_path)
    assert of_one("mine", 32, "chest", {"reader": "any", "path": "images", "modality": "ct"}) == by_yaml


def test_mistakes_of_a_command_line_name_its_flags(tmp_path: Path) -> None:
    values = {"path": str(tmp_path), "reader": "any", "modality": "xry", "strid": 2}
    found = problems(of_one, "store", 4, "Chest", values)
    flags = [said.split(":")[0] for said in found]
    assert flags == ["--image-size", "--name", "--set strid", "--modality"]
    assert problems(of_one, "store", 64, "chest", {"path": str(tmp_path / "no")}) == [
        f"path: {tmp_path / 'no'} is not there"
    ]


# --- guessing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", sorted(READER_OF))
def test_a_folder_is_guessed_by_what_most_of_its_files_are(tmp_path: Path, suffix: str) -> None:
    for i in range(3):
        (tmp_path / "deep").mkdir(exist_ok=True)
        (tmp_path / "deep" / f"{i}{suffix}").touch()
    (tmp_path / "README.txt").touch()
    reader, why = guess(tmp_path)
    assert reader == READER_OF[suffix]
    assert why == f"3 of the 4 files looked at are for it ({suffix})"
    assert guess(tmp_path / "deep" / f"0{suffix}") == (reader, f"0{suffix} is {suffix}")


def test_dicom_without_an_ending_is_known_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "IM0002").write_bytes(bytes(200))
    assert guess(tmp_path)[0] == "dicom"


def test_parquet_with_images_inside_is_of_hugging_face_and_with_paths_a_table(tmp_path: Path) -> None:
    images = pa.array([{"bytes": b"", "path": "a"}])
    for name, table in (
        ("inside", {"image": images}),
        ("paths", {"image": ["a.png"], "label": np.arange(1)}),
    ):
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
    assert guess(tmp_path / "inside.parquet")[0] == "huggingface"
    assert guess(tmp_path / "paths.parquet")[0] == "table"


def test_what_cannot_be_guessed_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="the folder is empty; name one of dicom, folder, "):
        guess(tmp_path)
    (tmp_path / "a.txt").touch()
    with pytest.raises(SpecError, match="none of the 1 files looked at is of a kind that is known"):
        guess(tmp_path)
    with pytest.raises(SpecError, match=r"no reader is known for a\.txt"):
        guess(tmp_path / "a.txt")


def test_what_is_guessed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.dcm").touch()
    monkeypatch.setattr(request, "READERS", READERS)
    found = of_one(str(tmp_path / "store"), 64, "a", {"path": str(tmp_path / "in")})
    assert found.guessed == {"a": "1 of the 1 files looked at are for it (.dcm)"}
    assert getattr(found.sources["a"], "reader") == "dicom"  # noqa: B009
