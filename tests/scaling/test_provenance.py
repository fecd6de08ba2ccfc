"""The code of a sweep is kept beside it, once per state, and says where it came from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scaling import provenance
from scaling.provenance import PACKAGE, freeze


def test_the_snapshot_is_the_package_and_is_made_once(tmp_path: Path) -> None:
    code = freeze(tmp_path)
    kept = {path.relative_to(code / "scaling"): path.read_bytes() for path in (code / "scaling").rglob("*.py")}
    assert kept == {path.relative_to(PACKAGE): path.read_bytes() for path in PACKAGE.rglob("*.py")}
    before = {path: path.stat().st_mtime_ns for path in code.rglob("*")}
    assert freeze(tmp_path) == code
    assert {path: path.stat().st_mtime_ns for path in code.rglob("*")} == before
    assert [path.name for path in (tmp_path / "code").iterdir()] == [code.name]


def test_an_edit_makes_another_snapshot_and_leaves_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "edited" / "scaling"
    package.mkdir(parents=True)
    (package / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(provenance, "PACKAGE", package)
    first = freeze(tmp_path)
    (package / "a.py").write_text("x = 2\n")
    second = freeze(tmp_path)
    assert first != second
    assert (first / "scaling" / "a.py").read_text() == "x = 1\n"


def test_a_process_told_to_use_the_snapshot_does(tmp_path: Path) -> None:
    code = freeze(tmp_path)
    asked = "import scaling.rundir; print(scaling.rundir.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", asked]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert Path(done.stdout.strip()).is_relative_to(code)


def test_it_says_commit_versions_command_and_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = tmp_path / "checkout"
    package = checkout / "scaling"
    package.mkdir(parents=True)
    (package / "a.py").write_text("x = 1\n")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *arguments], cwd=checkout, check=True)
    monkeypatch.setattr(provenance, "PACKAGE", package)
    clean = json.loads((freeze(tmp_path) / "provenance.json").read_text())
    assert clean["dirty"] is False
    assert len(clean["commit"]) == 40
    assert clean["versions"]["torch"]
    assert clean["argv"] == sys.argv
    (package / "a.py").write_text("x = 2\n")
    dirty = freeze(tmp_path)
    assert json.loads((dirty / "provenance.json").read_text())["dirty"] is True
    assert "+x = 2" in (dirty / "changes.diff").read_text()


def test_outside_a_checkout_the_commit_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "installed" / "scaling"
    package.mkdir(parents=True)
    (package / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(provenance, "PACKAGE", package)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert json.loads((freeze(tmp_path) / "provenance.json").read_text())["commit"] == "unknown"
