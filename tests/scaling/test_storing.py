"""`scaling data import`: what is printed and with which exit code it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from scaling.catalog import READERS, Entry
from scaling.cli import BAD_INPUT, DONE, main
from scaling.importing import importer, listing, request
from scaling.importing.crew import Watcher
from scaling.importing.decoding import Job, Setting, make_part
from scaling.store.layout import sources_of


class Inline:
    def __init__(self, setting: Setting, n: int, watcher: Watcher, *, too_long: float) -> None:
        self._setting, self._watcher = setting, watcher

    def run(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._watcher.done(make_part(self._setting, self._setting.open(), job, lambda _, __: None))


@pytest.fixture(autouse=True)
def _scripted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Decodes in this process, files as `scripted_reader.py` has them."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    from scripted_reader import ScriptedOptions  # type: ignore[import-not-found]

    for module in (importer, request):
        monkeypatch.setattr(
            module, "READERS", {"scripted": Entry("scripted_reader:Scripted", ScriptedOptions, "says what happens")}
        )
    monkeypatch.setattr(importer, "Crew", Inline)
    monkeypatch.setattr(listing, "ITEMS", (4, 4))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """`good` with six items, one of them bad; `tasks` with labels; `bad` with nothing usable; `empty`."""
    for name, scripts in {
        "good": {"0": "images 2", "1": "none torn", "2": "images 1", "3": "blank", "4": "none torn", "5": "images 1"},
        "tasks": {f"{split}-{label}-x": "images 1" for split in ("train", "val", "test") for label in (0, 1)},
        "bad": {"0": "none torn"},
        "empty": {},
    }.items():
        (tmp_path / name).mkdir()
        for file, script in scripts.items():
            (tmp_path / name / file).write_text(script)
    return tmp_path


YAML = """\
store: store
image_size: 16
sources:
  good: {reader: scripted, path: good, modality: ct}
  tasks: {reader: scripted, path: tasks, modality: fundus, task: true}
"""


def test_a_yaml_is_imported_and_told_in_numbers_that_add_up(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folders / "import.yaml").write_text(YAML)
    assert main(["data", "import", "import.yaml"]) == DONE
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("good: 4 images (4 ct) of 6 items in ")
    assert said[0].endswith("; 4 groups")
    assert said[1] == (
        "  3 set aside: 2 torn, 1 blank: every pixel is the same; "
        f"see {folders / 'store' / 'good' / 'quarantine.parquet'}"
    )
    assert said[2].startswith("tasks: 6 images (6 fundus) of 6 items in ")
    assert len(said) == 3
    assert sources_of(folders / "store") == ["good", "tasks"]
    assert main(["data", "import", "import.yaml"]) == DONE
    for line, n in zip(capsys.readouterr().out.splitlines(), (4, 6), strict=True):
        assert f": nothing to do, all {n} images are there since 20" in line


def test_a_dry_run_says_what_would_be_read_and_writes_nothing(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folders / "import.yaml").write_text(YAML)
    assert main(["data", "import", "import.yaml", "--dry-run"]) == DONE
    assert capsys.readouterr().out.splitlines() == [
        "good: 6 items, 47 B, by scripted",
        "  modalities: 6 ct",
        "  stored as: 1 x 16 x 16 pixels",
        "tasks: 6 items, 48 B, by scripted",
        "  modalities: 6 fundus",
        "  stored as: 3 x 16 x 16 pixels",
        "  task side: binary, 2 classes (left, right); 2 test, 2 train, 2 val",
    ]
    assert not (folders / "store").exists()


def test_one_source_needs_no_yaml(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "import", "good", "--store", "s", "--name", "x", "--reader", "scripted", "--image-size", "16"]
    assert main([*words, "--modality", "mr", "--set", "keep=[blank]", "--set", "fit=pad"]) == DONE
    assert "x: 5 images (5 mr) of 6 items" in capsys.readouterr().out
    assert main([*words, "--modality", "mr"]) == BAD_INPUT
    assert "x: is there already, and it was made with another fit, keep; --replace" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["good"], ["--store: is missing; give it, or a YAML", "--name: is missing; give it, or a YAML"]),
        (["import.yaml", "--store", "s"], ["--store: is part of the YAML; set it there"]),
        (["good", "--store", "s", "--name", "x", "--set", "fit"], ["--set fit: is no KEY=VALUE"]),
        (["good", "--store", "s", "--name", "x", "--workers", "0"], ["--workers: 0 is none; give 1 or more"]),
        (["good", "--store", "s", "--name", "../x", "--reader", "scripted"], ["--name: '../x' is no name"]),
        (["no", "--store", "s", "--name", "x"], ["path: "]),
        (["bad", "--store", "s", "--name", "x", "--reader", "scripted", "--modality", "ct"], ["none of its 1 items"]),
        (["empty", "--store", "s", "--name", "x", "--reader", "scripted"], ["path: nothing to import is there"]),
        (["good", "--store", "s", "--name", "x"], ["--reader: none of the 6 files looked at is of a kind"]),
    ],
)
def test_what_cannot_be_is_told_at_once_and_leaves_nothing(
    folders: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: list[str]
) -> None:
    (folders / "import.yaml").write_text(YAML)
    before = sorted(folders.iterdir())
    assert main(["data", "import", *words]) == BAD_INPUT
    heading, *problems = capsys.readouterr().err.splitlines()
    assert heading == f"{len(said)} problem{'s' * (len(said) > 1)}, nothing was imported:"
    for problem, wanted in zip(problems, said, strict=True):
        assert wanted in problem
    assert sorted(folders.iterdir()) == before


def test_problems_of_several_sources_are_told_together_before_anything_is_read(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folders / "tasks" / "train-9-y").write_text("images 1")
    text = YAML + "  empty: {reader: scripted, path: empty, modality: ct}\n"
    (folders / "import.yaml").write_text(text)
    assert main(["data", "import", "import.yaml"]) == BAD_INPUT
    assert capsys.readouterr().err.splitlines() == [
        "2 problems, nothing was imported:",
        "  import.yaml:5: sources.tasks.path: train-9-y: label 9 of task 'side'; 0 to 1 are allowed",
        "  import.yaml:6: sources.empty.path: nothing to import is there",
    ]
    assert not (folders / "store").exists()


def test_what_was_imported_before_a_problem_is_not_denied(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folders / "import.yaml").write_text(YAML + "  bad: {reader: scripted, path: bad, modality: ct}\n")
    assert main(["data", "import", "import.yaml"]) == BAD_INPUT
    assert capsys.readouterr().err.splitlines()[0] == "1 problem, nothing was imported beyond that:"
    assert sources_of(folders / "store") == ["good", "tasks"]


TABLE = """\
store: store
sources:
  chest:
    reader: table
    path: t.csv
    modality: xray
    tasks:
      grade: {kind: binary, columns: [grade]}
"""


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        (TABLE, "import.yaml:8: sources.chest.tasks.grade: 3 classes (high, low, mid); a binary task has 2"),
        (TABLE.replace("modality:", "root: imgs\n    modality:"), "import.yaml:6: sources.chest.root: no folder "),
        (
            TABLE.replace("modality:", "image: file\n    modality:"),
            "import.yaml:5: sources.chest.path: t.csv: no column",
        ),
    ],
)
def test_what_a_reader_does_not_like_stands_at_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, yaml: str, said: str
) -> None:
    for module in (importer, request):
        monkeypatch.setattr(module, "READERS", READERS)
    (tmp_path / "t.csv").write_text("path,grade\na.png,low\nb.png,mid\nc.png,high\n")
    (tmp_path / "import.yaml").write_text(yaml)
    assert main(["data", "import", "import.yaml"]) == BAD_INPUT
    heading, problem = capsys.readouterr().err.splitlines()
    assert heading == "1 problem, nothing was imported:"
    assert problem.strip().startswith(said)


def test_other_options_of_one_source_are_named_as_they_are_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (importer, request):
        monkeypatch.setattr(module, "READERS", READERS)
    (tmp_path / "t.csv").write_text("path\na.png\n")
    words = ["t.csv", "--store", "s", "--name", "x", "--reader", "table", "--set", "root=imgs"]
    assert main(["data", "import", *words]) == BAD_INPUT
    assert "  --set root: no folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("reader: folder, window: [9, 1]", "sources.x.window: the value that becomes 0 is below the one that becomes"),
        ("reader: dicom, window: [.nan, 1]", "sources.x.window[0]: should be a finite number"),
        ("reader: nifti, percentiles: [99, 1]", "sources.x.percentiles: the one that becomes 0 is below the one that"),
        ("reader: [folder]", "sources.x.reader: unknown reader '['folder']'; did you mean 'folder'?"),
        ("reader: {a: b}", "sources.x.reader: unknown reader "),
    ],
)
def test_options_that_cannot_be_meant_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, given: str, said: str
) -> None:
    for module in (importer, request):
        monkeypatch.setattr(module, "READERS", READERS)
    (tmp_path / "in").mkdir()
    (tmp_path / "import.yaml").write_text(f"store: s\nsources:\n  x: {{path: in, modality: ct, {given}}}\n")
    assert main(["data", "import", "import.yaml"]) == BAD_INPUT
    heading, problem = capsys.readouterr().err.splitlines()
    assert heading == "1 problem, nothing was imported:"
    assert f"import.yaml:3: {said}" in problem


def test_a_dry_run_tells_what_the_listing_knows_to_be_unusable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (importer, request):
        monkeypatch.setattr(module, "READERS", READERS)
    (tmp_path / "there.png").write_bytes(b"")
    (tmp_path / "t.csv").write_text("path\nthere.png\na.png\nb.png\n../c.png\n")
    words = ["t.csv", "--store", "s", "--name", "x", "--reader", "table", "--modality", "ct", "--dry-run"]
    assert main(["data", "import", *words]) == DONE
    assert "  to be set aside: 2 missing file, 1 path outside the folder" in capsys.readouterr().out.splitlines()
    assert not (tmp_path / "s").exists()
