"""Each kind of bad data gives the stated error or a row of quarantine, and costs its neighbours nothing. The list:

Pictures: truncated PNG; PNG cut inside its header; truncated JPEG; truncated TIFF; TIFF cut inside its header;
  truncated BMP; damaged page of a TIFF; zero-byte file; text named .png; PostScript named .png; zeros named .jpg;
  PNG that announces 10 Gpx; larger than the user allows; blank image; 1-pixel image; NaN in a TIFF; infinity in a
  TIFF; complex TIFF; link out of the folder; link to itself; link to nothing; file name that is not UTF-8; path
  without the group; no modality for a path; empty folder; folder of hidden files and Thumbs.db; one class of two;
  class that is not named; no test split; group that is no regular expression; group without parentheses.
Packs: pickled objects; images of text; images without rows; other names; lengths that disagree; bomb; truncated
  pack; changed byte; text named .npz; NaN voxels of a pack; labels above the classes; negative labels; labels that
  are reals; too many columns of labels; group that is not in the pack; task of a file that is not there.
Tables: row of a missing file; row without a path; path with ..; absolute path; address instead of a path; path of a
  folder; path twice; file that is no image; row without its group; unknown modality in a column; path twice with
  other labels; no column of paths; no column of the group; label that is no class; label out of range; multi-label
  that is not 0 or 1; unknown split; labels of one split; labels that are all null; Latin-1; UTF-16; table without
  rows; empty table; two tables; text named .parquet.
Shards: tar member with ..; absolute tar member; Windows path in a tar; tar symlink; tar hard link; device in a tar;
  FIFO in a tar; tar member that announces 5 GB; tar in a tar; member twice; damaged image in a tar; compressed
  shard; damaged metadata; tar cut inside a member; tar cut inside a header; text named .tar.
Parquet with images: path instead of bytes; null image; empty bytes; bytes that are text; truncated Parquet; null
  group; column that holds no images; two columns of images; no column of the labels; code that is no class.
DICOM: an empty file; a text under its name; pixels cut short; a header cut short; 12 bits with missing tags; more
  bits stored than there are; no rows; an image of 16 GiB; a number of frames that is none; CT values without a
  unit; a slope of 0; a modality nobody knows; no modality; a report; a segmentation; contours; a table of contents;
  compressed pixels without a transfer syntax; a video; half a JPEG; a bad frame among good ones; a deflated file
  that never ends; a look-up table that is too short; a palette that is missing; nothing inside the scanner's
  circle; one grey all over; text burned into the pixels; a scout; a path without the group it should have; a link
  out of the folder; an empty folder.
NIfTI: an empty file; a text under its name; a text under a compressed name; voxels cut short; half a gzip file; a
  header that claims 14 TiB; voxels that begin beyond the file; a negative length; an affine of zeros; CT without
  its intercept; NaN voxels; a volume of one value; slices of nothing; complex voxels; vectors; a mask; labels of
  structures; a header without voxels; connectivity of a surface; no modality.
Labels beside clinical files: no table; a column is missing; out of range; two rows say otherwise; paths of other
  files; three classes for two.
Stores, by verify: a pixel changed; part cut short; part missing; part is a link; part that would unpickle; file
  that no card lists; byte of the manifest changed; manifest cut short; manifest of fewer rows; manifest without a
  column; image id twice; checksum of another image; key of another image; perceptual hash of another image;
  modality of another name; split nobody knows; one patient in all splits; label above its task's classes; card that
  counts another number of images; card with a path as its name; card with a key nobody knows; card that is no JSON;
  store of another version.
Imports: source with a path as its name; two sources of one name; modality that is misspelt; unknown reader; unknown
  key; path that is not there; no path; no sources; store inside what is read; code for a source; wrong type; binary
  task of columns.
Published sets, in test_medmnist.py and test_download.py: another MD5 under MedMNIST's name, missing files, transfers
  that end early or bring other bytes.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from scaling.errors import SpecError
from scaling.importing import importer
from scaling.importing.crew import Watcher
from scaling.importing.decoding import Job, Setting, make_part
from scaling.importing.importer import Imported, import_source
from scaling.importing.request import load, surveys
from scaling.store.verifying import verify
from tests.scaling import bad_medical, bad_pictures
from tests.scaling.bad_case import BadCase
from tests.scaling.bad_stores import STORES, YAMLS, BadStore, BadYaml
from tests.scaling.stores import write_example

CASES = [*bad_pictures.CASES, *bad_medical.CASES]


class Inline:
    """Decodes in this process: what has to do with others is tested with the importer, and they take a second each."""

    def __init__(self, setting: Setting, n: int, watcher: Watcher, *, too_long: float) -> None:
        self._setting, self._watcher = setting, watcher

    def run(self, jobs: Iterable[Job]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as a worker does
            for job in jobs:
                self._watcher.done(make_part(self._setting, self._setting.open(), job, lambda _, __: None))


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importer, "Crew", Inline)


def imported(folder: Path, sources: object, workers: int = 1) -> list[Imported]:
    """By a YAML, as `scaling data import` does."""
    path = folder / "import.yaml"
    path.write_text(yaml.safe_dump({"store": "store", "image_size": 16, "sources": sources}))
    request = load(path)
    return [import_source(request.store, each, workers=workers) for each in surveys(request)]


def reasons(source: Path) -> list[str]:
    """As they are counted: numbers are dots, and what a decoder says for itself is too."""
    rows = pq.read_table(source / "quarantine.parquet")["reason"].to_pylist()
    return [re.sub(r"\d[\d.,]*", "...", re.sub(r"(?<=damaged image: ).*", "...", row)) for row in rows]


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_bad_data_are_told_and_cost_their_neighbours_nothing(case: BadCase, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    case.make(folder)
    if case.aside is not None and not case.n_good:
        bad_medical.good(folder / "patient1")
    sources = {"bad": {**case.options, "path": "in"}}
    if case.error is not None:
        with pytest.raises(SpecError, match=re.escape(case.error)):
            imported(tmp_path, sources)
        assert not (tmp_path / "store" / "bad").exists()
        return
    [done] = imported(tmp_path, sources)
    found = reasons(tmp_path / "store" / "bad")
    assert set(found) == {re.sub(r"\d[\d.,]*", "...", str(case.aside))}
    assert done.card.n_quarantined == len(found)
    if case.n_good:
        assert (done.card.n_images, len(found)) == (case.n_good, 1)
    else:
        ids = pq.read_table(tmp_path / "store" / "bad" / "manifest.parquet")["image_id"].to_pylist()
        assert [each for each in ids if each.startswith("patient1/good")]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in STORES])
def test_verify_tells_what_is_wrong_with_a_store(case: BadStore, tmp_path: Path) -> None:
    store = write_example(tmp_path / "store", ["slices", "films"])
    assert not [proof for proof in verify(store) if proof.state == "wrong"]
    case.damage(store / "slices")
    try:
        said = [proof.what for proof in verify(store) if proof.state == "wrong"]
    except SpecError as error:
        said = [problem.what for problem in error.problems]
    assert any(case.said in what for what in said), said


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in YAMLS])
def test_an_import_that_cannot_be_meant_is_refused_before_anything_is_written(case: BadYaml, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    bad_pictures.good(tmp_path / "in")
    (tmp_path / "import.yaml").write_text(case.yaml)
    with pytest.raises(SpecError, match=re.escape(case.said)):
        surveys(load(tmp_path / "import.yaml"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["import.yaml", "in"]


def test_all_bad_pictures_in_one_folder_cost_none_of_the_good_ones(tmp_path: Path) -> None:
    """By processes, as the program does."""
    cases = [case for case in bad_pictures.PICTURES if case.aside is not None and case.options == bad_pictures.FOLDER]
    for number, case in enumerate(cases):
        folder = tmp_path / "in" / f"{number:02}"
        folder.mkdir(parents=True)
        case.make(folder)
    [done] = imported(tmp_path, {"all": {**bad_pictures.FOLDER, "path": "in"}}, workers=2)
    # the one file that links point to from outside their folders lies inside this one: a good image more, and its link
    assert done.card.n_quarantined == len(cases) - 1
    assert done.card.n_images == sum(case.n_good for case in cases) + 2
    assert sum(done.reasons.values()) == done.card.n_quarantined


def test_the_list_in_words_is_whole() -> None:
    groups = [[case.name for case in CASES], [case.name for case in STORES], [case.name for case in YAMLS]]
    names = [name for group in groups for name in group]
    assert len(set(names)) == len(names) >= 190
    told = " ".join(str(__doc__).split())
    assert [
        name
        for name in names
        if name.removeprefix("DICOM: ").removeprefix("NIfTI: ").removeprefix("labels: ") not in told
    ] == []
    assert all((case.aside is None) != (case.error is None) for case in CASES)
