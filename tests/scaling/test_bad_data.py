"""Each kind of bad data gives the stated error or a row of quarantine, and costs its neighbours nothing.

PLACEHOLDER
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
from tests.scaling import bad_medical, bad_pictures
from tests.scaling.bad_case import BadCase

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


def imported(folder: Path, sources: object, image_size: int = 16) -> list[Imported]:
    """By a YAML, as `scaling data import` does."""
    path = folder / "import.yaml"
    path.write_text(yaml.safe_dump({"store": "store", "image_size": image_size, "sources": sources}))
    request = load(path)
    return [import_source(request.store, each, workers=1) for each in surveys(request)]


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


def test_every_kind_has_a_name_of_its_own_and_one_outcome() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 140
    assert all((case.aside is None) != (case.error is None) for case in CASES)
