"""The command line: exit codes, what is printed, JSON that is JSON, and names that are nearly right."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scaling.cli import main
from scaling.control import Control
from scaling.housekeeping import Needless
from scaling.plan import Plan

Make = Callable[..., Plan]
Write = Callable[..., Path]


@pytest.fixture
def kept(plan_of: Make) -> Plan:
    plan = plan_of()
    plan.save()
    return plan


@pytest.fixture
def ask(kept: Plan) -> Callable[..., int]:
    """A verb about the kept sweep."""
    return lambda verb, *more: main([verb, "tiny", *more, "--root", str(kept.root)])


def test_plan_prints_every_run_and_the_totals(sweep_file: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(sweep_file())]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("vit_atto  mae" in line for line in lines) == 4
    assert any(line.startswith("tiny: 10 runs, 0 done, 10 to do (") for line in lines)
    assert any(line.startswith("machine: ") for line in lines)


def test_plan_as_json_is_one_object_and_nothing_else(sweep_file: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(sweep_file()), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert len(values["runs"]) == values["totals"]["to_do"] == 10


def test_planning_writes_nothing(sweep_file: Write) -> None:
    path = sweep_file()
    main(["plan", str(path), "--json"])
    assert [found.name for found in path.parent.iterdir()] == ["sweep.yaml"]


def test_run_refuses_at_once_what_this_machine_can_never_do(
    sweep_file: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    path = sweep_file(("probe: {", "resources: {cpus: 4096}\nprobe: {"))
    assert main(["run", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("1 problem, nothing was started:\n")
    assert "resources.cpus: 10 runs, such as vit_atto/mae/16xall/s0, want 4096 CPUs, which no node has" in said
    assert not (path.parent / "state").exists()


def test_a_sweep_by_a_wrong_name_is_told_the_nearest(kept: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("status", "failures", "logs", "pause", "report", "sync"):
        assert main([verb, "tinny", "--root", str(kept.root)]) == 2
        assert "unknown sweep 'tinny'; did you mean 'tiny'?" in capsys.readouterr().err


def test_status_says_by_its_exit_code_whether_a_run_failed(
    kept: Plan, ask: Callable[..., int], pretend: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend.done(kept.runs[0])
    assert ask("status") == 0
    assert "1/10 done, 0 running, 9 waiting" in capsys.readouterr().out
    pretend.failed(kept.runs[1], "io", "OSError: disk full")
    assert ask("status") == 3
    out = capsys.readouterr().out
    assert "failed (io)" in out
    assert f"log: {kept.runs[1].dir.path / 'log.txt'}" in out
    assert ask("status", "--json") == 3
    assert json.loads(capsys.readouterr().out)["counts"] == {"done": 1, "failed": 1, "waiting": 8}


def test_watching_ends_when_nobody_works_on_the_sweep(
    ask: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask("status", "--watch") == 0
    assert "nobody works on it" in capsys.readouterr().out


def test_failures_show_the_log_of_the_newest(
    kept: Plan, ask: Callable[..., int], pretend: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask("failures") == 0
    assert capsys.readouterr().out == "tiny: nothing failed\n"
    for run in kept.runs[:6]:
        pretend.failed(run, "error", "ValueError: no", log="Traceback\nValueError: no\n")
    assert ask("failures") == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "6 runs failed, error: ValueError: no"
    assert lines[1].endswith(" and 2 more")
    assert lines[-2:] == ["    Traceback", "    ValueError: no"]
    assert ask("failures", "--json") == 3
    (group,) = json.loads(capsys.readouterr().out)["failures"]
    assert (group["class"], group["count"], len(group["runs"])) == ("error", 6, 6)


def test_logs_are_those_of_the_newest_failure_or_of_the_run_named(
    kept: Plan, ask: Callable[..., int], pretend: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask("logs") == 2
    assert "no run has printed anything yet" in capsys.readouterr().err
    pretend.failed(kept.runs[0], "error", "a", log="one\ntwo\nthree\n")
    pretend.failed(kept.runs[1], "error", "b", log="other\n")
    long_ago = time.time() - 100
    os.utime(kept.runs[1].dir.path / "failed.json", (long_ago, long_ago))
    assert ask("logs", "-n", "2") == 0
    assert capsys.readouterr().out == "two\nthree\n"
    assert ask("logs", kept.runs[1].dir.run[:8]) == 0
    assert capsys.readouterr().out == "other\n"
    assert ask("logs", "none") == 0
    assert "it has printed nothing yet" in capsys.readouterr().err


def test_following_prints_what_comes_until_the_run_is_over(
    kept: Plan, ask: Callable[..., int], pretend: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = kept.runs[0]
    pretend.at_work(run)
    (run.dir.path / "log.txt").write_text("first\n")

    def go_on() -> None:
        time.sleep(0.3)
        with open(run.dir.path / "log.txt", "a") as log:
            log.write("second\n")
        pretend.done(run)

    worker = threading.Thread(target=go_on)
    worker.start()
    assert ask("logs", run.dir.run, "-f") == 0
    worker.join()
    assert capsys.readouterr().out == "first\nsecond\n"


def test_orders_are_kept_for_the_driver(
    kept: Plan, ask: Callable[..., int], pretend: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend.done(kept.runs[0])
    assert ask("pause") == 0
    assert Control.read(kept.folder).paused
    assert ask("cancel", "algorithm=mae") == 0
    said = capsys.readouterr().out
    assert "3 runs cancelled" in said  # the fourth is done
    assert "no `scaling run` is at work here now" in said
    cancelled = Control.read(kept.folder).cancelled
    assert set(cancelled) == {run.dir.run for run in kept.runs[1:4]}
    assert ask("resume", cancelled[0][:8]) == 0
    assert set(Control.read(kept.folder).cancelled) == set(cancelled[1:])
    assert not Control.read(kept.folder).paused
    capsys.readouterr()
    assert ask("resume") == 0  # what was paused, and no more
    assert set(Control.read(kept.folder).cancelled) == set(cancelled[1:])
    assert "2 runs stay cancelled until named, or --all" in capsys.readouterr().out
    assert ask("resume", "--all") == 0
    assert Control.read(kept.folder).cancelled == ()
    assert ask("stop", "--drain") == 0
    assert Control.read(kept.folder).stop == "drain"
    assert ask("stop") == 0
    assert Control.read(kept.folder).stop == "save"


def test_what_is_done_cannot_be_cancelled(
    kept: Plan, ask: Callable[..., int], pretend: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend.done(kept.runs[0])
    assert ask("cancel", kept.runs[0].dir.run) == 0
    assert capsys.readouterr().out == "tiny: nothing to cancel, what was named is done\n"
    assert Control.read(kept.folder).cancelled == ()


def test_a_selection_with_mistakes_orders_nothing(
    kept: Plan, ask: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask("cancel", "algorithm=mea", "xyz") == 2
    said = capsys.readouterr().err
    assert said.startswith("2 problems, nothing was done:")
    assert "unknown algorithm 'mea'; did you mean 'mae'?" in said
    assert Control.read(kept.folder).cancelled == ()


def test_export_writes_the_results_and_counts_them(
    kept: Plan, ask: Callable[..., int], pretend: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pretend.failed(kept.runs[0], "error", "ValueError: no")
    out = tmp_path / "out.csv"
    assert ask("export", str(out)) == 0
    assert capsys.readouterr().out == f"{out}: 1 rows\n"
    assert "ValueError: no" in out.read_text()
    assert ask("export", "out.xls") == 2
    assert "give one of .csv, .parquet" in capsys.readouterr().err


def test_gc_deletes_only_when_told(
    kept: Plan, ask: Callable[..., int], pretend: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend.done(kept.runs[0])
    checkpoint = kept.runs[0].dir.path / "checkpoint.pt"
    checkpoint.write_bytes(b"x" * 2048)
    assert main(["gc", "--root", str(kept.root)]) == 0
    said = capsys.readouterr().out
    assert "2 KiB" in said
    assert "`scaling gc --yes` deletes them" in said
    assert checkpoint.exists()
    assert main(["gc", "--yes", "--root", str(kept.root)]) == 0
    assert "2 KiB freed in 1 of 1 places" in capsys.readouterr().out
    assert not checkpoint.exists()


def test_gc_spares_kept_features_unless_told(
    kept: Plan, pretend: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    features = kept.runs[0].dir.path / "features-ct_lesion.npz"
    features.parent.mkdir(parents=True)
    features.write_bytes(b"x" * 2048)
    spared = Needless(path=features, bytes=2048, why="kept features")
    monkeypatch.setattr("scaling.housekeeping.spare", lambda root: [spared])
    root = ["--root", str(kept.root)]
    assert main(["gc", "--yes", *root]) == 0
    assert "2 KiB of kept features could go too; `scaling gc --features`" in capsys.readouterr().out
    assert features.exists()
    assert main(["gc", "--features", *root]) == 0
    assert "2 KiB in 1 places can go; `scaling gc --features --yes` deletes them" in capsys.readouterr().out
    assert main(["gc", "--features", "--yes", *root]) == 0
    assert not features.exists()


@pytest.mark.parametrize(
    "verb", ["plan", "run", "calibrate", "status", "logs", "cancel", "export", "ui", "doctor", "gc"]
)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: scaling {verb}")


def test_a_sweep_may_be_named_by_its_yaml(kept: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", kept.document.path]) == 0
    assert "10 waiting" in capsys.readouterr().out


def test_the_pages_of_a_root_without_a_store_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["ui", "--root", str(tmp_path / "nowhere")]) == 2
    assert "holds no MLflow store" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()
