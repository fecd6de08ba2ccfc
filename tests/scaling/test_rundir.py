"""A run's directory: files appear whole, one attempt writes at a time, crashes leave nothing that misleads."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from scaling.records import ProbeResult, RunRecord
from scaling.rundir import LeaseLost, RunDir, read_json, write_json, write_whole


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    path = tmp_path / "0123456789ab"
    path.mkdir()
    return RunDir(path)


def full_disk(_: int) -> None:
    raise OSError(28, "No space left on device")


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    write_whole(tmp_path / "a" / "b.txt", "text")
    write_whole(tmp_path / "a" / "c.bin", b"\x00\x01")
    assert (tmp_path / "a" / "b.txt").read_text() == "text"
    assert (tmp_path / "a" / "c.bin").read_bytes() == b"\x00\x01"
    assert sorted(os.listdir(tmp_path / "a")) == ["b.txt", "c.bin"]


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_whole(path, "before")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "after")
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "new.txt", "after")
    assert path.read_text() == "before"
    assert not (tmp_path / "new.txt").exists()


def test_a_write_that_fails_leaves_nothing_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a.txt", "x")
    assert os.listdir(tmp_path) == []


def test_json_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert read_json(tmp_path / "a.json") is None
    write_json(tmp_path / "a.json", {"a": [1, None]})
    assert read_json(tmp_path / "a.json") == {"a": [1, None]}


def test_json_refuses_values_without_a_standard_form(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert not (tmp_path / "a.json").exists()


# --- leases -----------------------------------------------------------------------------------------------------


def test_only_the_newest_lease_may_write(run: RunDir) -> None:
    run.lease("first")
    run.guard("first")
    run.lease("second")
    run.guard("second")
    with pytest.raises(LeaseLost, match="run 0123456789ab belongs to another attempt"):
        run.guard("first")


def test_a_run_without_a_lease_belongs_to_nobody(run: RunDir) -> None:
    with pytest.raises(LeaseLost):
        run.guard("any")


def test_asking_for_the_lease_writes_nothing(run: RunDir) -> None:
    run.lease("second")
    before = {path.name: path.stat().st_mtime_ns for path in run.path.iterdir()}
    with pytest.raises(LeaseLost):
        run.guard("first")
    assert {path.name: path.stat().st_mtime_ns for path in run.path.iterdir()} == before


def test_a_new_lease_forgets_the_last_failure(run: RunDir) -> None:
    run.fail("ValueError", "ValueError: no")
    failure = run.failure()
    assert failure is not None
    assert (failure["kind"], failure["error"]) == ("ValueError", "ValueError: no")
    run.lease("next")
    assert run.failure() is None


# --- records ----------------------------------------------------------------------------------------------------

RECORD = RunRecord(
    run="0123456789ab",
    status="done",
    n_params=10,
    n_params_total=12,
    images_seen=64,
    train_flops=1.5e9,
    train_seconds=2.0,
    train_loss=0.25,
    n_params_by_part={"encoder": 10, "decoder": 2},
)
RESULT = ProbeResult(
    task="t",
    modality="ct",
    probe="linear",
    auc=None,
    auc_se=None,
    accuracy=0.5,
    accuracy_se=0.1,
    chance_auc=0.5,
    chance_accuracy=0.4,
    n_test=9,
    reason="one-sided",
)


def test_a_record_survives_being_written(run: RunDir) -> None:
    assert run.record() is None
    write_json(run.path / "result.json", RECORD.to_json())
    assert run.record() == RECORD


def test_read_outs_survive_being_written(run: RunDir) -> None:
    assert run.probes("f") is None
    write_json(run.path / "probes" / "f.json", [vars(RESULT)])
    assert run.probes("f") == [RESULT]


# --- logs -------------------------------------------------------------------------------------------------------


def write_metrics(run: RunDir, steps: range, torn: str = "") -> None:
    lines = [json.dumps({"step": step, "loss": step / 10}) + "\n" for step in steps]
    (run.path / "metrics.jsonl").write_text("".join(lines) + torn)


def test_a_line_cut_off_by_a_crash_is_left_out(run: RunDir) -> None:
    write_metrics(run, range(1, 4), torn='{"step": 4, "lo')
    assert [line["step"] for line in run.metrics()] == [1, 2, 3]
    assert run.last_metrics() == {"step": 3, "loss": 0.3}


def test_the_newest_step_of_a_long_log_is_found(run: RunDir) -> None:
    write_metrics(run, range(1, 2001))
    assert (run.path / "metrics.jsonl").stat().st_size > 4096
    assert run.last_metrics() == {"step": 2000, "loss": 200.0}


def test_a_run_that_logged_nothing_has_no_metrics(run: RunDir) -> None:
    assert list(run.metrics()) == []
    assert run.last_metrics() is None
    assert run.log_tail() == ""


def test_lines_after_the_checkpoint_are_dropped_and_the_torn_one_with_them(run: RunDir) -> None:
    write_metrics(run, range(1, 10), torn='{"step": 10')
    run.keep_metrics_until(6)
    assert (run.path / "metrics.jsonl").read_text().endswith('{"step": 6, "loss": 0.6}\n')
    assert [line["step"] for line in run.metrics()] == [1, 2, 3, 4, 5, 6]


def test_the_logs_tail_is_its_last_lines(run: RunDir) -> None:
    (run.path / "log.txt").write_bytes(b"".join(b"line %d \xff\n" % i for i in range(30)))
    tail = run.log_tail(lines=2).splitlines()
    assert [line.split()[1] for line in tail] == ["28", "29"]
