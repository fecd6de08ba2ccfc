"""Each kind of bad clinical data gives its reason or its error, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from scaling.catalog import READERS
from scaling.errors import SpecError
from scaling.importing.conversion import Target, convert
from scaling.importing.reader import Unreadable
from tests.scaling.bad_case import BadCase
from tests.scaling.bad_medical import CASES


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_bad_clinical_data_are_told(case: BadCase, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    case.make(folder)
    entry = READERS[str(case.options["reader"])]
    options = entry.options.model_validate_json(json.dumps({**case.options, "path": str(folder)}))
    if case.error is not None:
        with pytest.raises(SpecError, match=re.escape(case.error)):
            list(entry.load()(options).items())
        return
    reader = entry.load()(options)
    aside = set()
    for listed in reader.items():
        try:
            for frame in reader.frames(listed):
                if isinstance(frame, Unreadable):
                    aside.add(str(frame))
                    continue
                try:
                    convert(frame, frame.about.modality, Target(image_size=16, channels=1))
                except Unreadable as why:
                    aside.add(str(why))
        except Unreadable as why:
            aside.add(str(why))
    assert aside == {case.aside}


def test_names_are_distinct_and_each_case_expects_one_thing() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 50
    assert all((case.aside is None) != (case.error is None) for case in CASES)
