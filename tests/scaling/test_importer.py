"""An import ends with the same bytes whatever happens on the way, and accounts for every item it was given."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from scaling.catalog import Entry
from scaling.errors import RunFailed, SpecError
from scaling.importing import importer, listing
from scaling.importing.crew import Crew, Watcher
from scaling.importing.decoding import Job, Setting, make_part
from scaling.importing.importer import Imported, import_source, surveyed
from scaling.store.layout import SourceCard, part_path
from scaling.store.writing import draft_of

HERE = str(Path(__file__).parent)
Import = Callable[..., Imported]


@pytest.fixture(autouse=True)
def _scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader of `scripted_reader.py`, here and in the processes that decode; parts small enough to be several."""
    monkeypatch.syspath_prepend(HERE)
    from scripted_reader import ScriptedOptions  # type: ignore[import-not-found]

    table = {"scripted": Entry("scripted_reader:Scripted", ScriptedOptions, "says what happens")}
    monkeypatch.setattr(importer, "READERS", table)
    monkeypatch.setattr(listing, "ITEMS", (4, 4))
    monkeypatch.setattr(importer, "Crew", Inline)


class Inline:
    """Decodes in this process, for tests of what has nothing to do with others: they take a second to start."""

    def __init__(self, setting: Setting, n: int, watcher: Watcher, *, too_long: float) -> None:
        self._setting, self._watcher = setting, watcher

    def run(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self._watcher.done(make_part(self._setting, self._setting.open(), job, lambda _, __: None))


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch, _scripted: None) -> None:
    """Decodes in processes, as the program does."""
    monkeypatch.setattr(importer, "Crew", Crew)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for i in range(14):
        (folder / f"{i:02}.txt").write_text("images 1\n" if i % 3 else "images 2\n")
    return folder


@pytest.fixture
def run(tmp_path: Path, files: Path, _scripted: None) -> Import:
    def imported(name: str = "mine", store: str = "store", workers: int = 2, **changed: Any) -> Imported:
        from scripted_reader import ScriptedOptions

        how = {key: changed.pop(key) for key in ("replace", "too_long") if key in changed}
        values = {"reader": "scripted", "path": str(files), "modality": "ct", **changed}
        survey = surveyed(name, ScriptedOptions.model_validate(values), 16)
        return import_source(tmp_path / store, survey, workers=workers, **how)

    return imported


def content(source: Path) -> dict[str, bytes]:
    """Every file, but for the time of the import."""
    found = {path.name: path.read_bytes() for path in source.iterdir()}
    card = SourceCard.model_validate_json(found.pop("source.json"))
    return {**found, "card": card.model_copy(update={"imported": ""}).model_dump_json().encode()}


def quarantine(source: Path) -> list[tuple[str, str]]:
    return [(row["item"], row["reason"]) for row in pq.read_table(source / "quarantine.parquet").to_pylist()]


def image_ids(source: Path) -> list[str]:
    return pq.read_table(source / "manifest.parquet")["image_id"].to_pylist()


def test_images_are_stored_in_the_order_of_the_listing_with_their_rows(run: Import, tmp_path: Path) -> None:
    card = run().card
    assert card.n_images == 19
    assert [part.n_images for part in card.parts] == [6, 5, 5, 3]
    expected = [n for i in range(14) for n in ([f"{i:02}.txt"] if i % 3 else [f"{i:02}.txt#0", f"{i:02}.txt#1"])]
    assert image_ids(tmp_path / "store" / "mine") == expected
    assert {len(np.load(part_path(tmp_path / "store" / "mine", i))) for i in range(4)} == {6, 5, 3}
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["mine", "store.json"]


@pytest.mark.usefixtures("apart")
def test_three_workers_write_the_bytes_of_one(run: Import, tmp_path: Path) -> None:
    run(store="one", workers=1)
    run(store="three", workers=3)
    assert content(tmp_path / "one" / "mine") == content(tmp_path / "three" / "mine")


def test_the_same_import_again_has_nothing_to_do(run: Import, tmp_path: Path) -> None:
    first = run().card
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*")}
    again = run()
    assert (again.seconds, again.card) == (None, first)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*")} == before


def test_changed_files_are_refused_and_imported_anew_when_asked_to(run: Import, files: Path, tmp_path: Path) -> None:
    run()
    before = content(tmp_path / "store" / "mine")
    (files / "03.txt").write_text("images 5\n")
    with pytest.raises(SpecError, match="its files have changed since; --replace makes it anew"):
        run()
    assert content(tmp_path / "store" / "mine") == before
    assert run(replace=True).card.n_images == 22
    assert run().seconds is None
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["mine", "store.json"]


def test_other_options_are_named(run: Import) -> None:
    run()
    with pytest.raises(SpecError, match="it was made with another channels, fit, modality; --replace"):
        run(fit="pad", channels=3, modality="mr")


def test_what_stands_beside_the_images_is_part_of_an_import(run: Import, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("a,0")
    run(key_file="../labels.csv")
    assert run(key_file="../labels.csv").seconds is None
    (tmp_path / "labels.csv").write_text("a,1")
    with pytest.raises(SpecError, match="its files have changed since"):
        run(key_file="../labels.csv")


def test_files_that_were_moved_are_the_same_import(run: Import, files: Path, tmp_path: Path) -> None:
    run()
    files.rename(tmp_path / "elsewhere")
    assert run(path=str(tmp_path / "elsewhere")).seconds is None


# --- what goes wrong with items ----------------------------------------------------------------------------------


def test_bad_items_are_set_aside_with_their_reason_and_everything_adds_up(
    run: Import, files: Path, tmp_path: Path
) -> None:
    scripts = {
        "01.txt": "none truncated image",
        "02.txt": "bug",
        "04.txt": "images 1\nbad slice is torn\nimages 1",
        "05.txt": "blank",
        "07.txt": "nan",
        "08.txt": "images 3\nnone ends too early",
        "10.txt": "",
    }
    for name, script in scripts.items():
        (files / name).write_text(script)
    done = run()
    aside = quarantine(tmp_path / "store" / "mine")
    assert aside == [
        ("01.txt", "truncated image"),
        ("02.txt", "ZeroDivisionError: by the decoder"),
        ("04.txt#1", "slice is torn"),
        ("05.txt", "blank: every pixel is the same"),
        ("07.txt", f"{24 * 24} of {24 * 24} pixels are NaN or infinite"),
        ("08.txt", "ends too early"),
        ("10.txt", "holds no image"),
    ]
    assert done.card.n_quarantined == len(aside) == sum(done.reasons.values())
    whole = {name.split("#")[0] for name in image_ids(tmp_path / "store" / "mine")}
    assert whole | {item for item, _ in aside if "#" not in item} == {f"{i:02}.txt" for i in range(14)}
    assert not whole & {item for item, _ in aside if "#" not in item}


@pytest.mark.usefixtures("apart")
def test_an_item_that_ends_its_process_costs_only_itself(run: Import, files: Path, tmp_path: Path) -> None:
    (files / "01.txt").write_text("kill")
    (files / "02.txt").write_text("crash")
    (files / "09.txt").write_text("images 1\nkill")
    assert run(workers=1).card.n_images == 15
    assert quarantine(tmp_path / "store" / "mine") == [
        ("01.txt", "its process was killed (SIGKILL), as the kernel does when memory runs out"),
        ("02.txt", "its process crashed (SIGSEGV)"),
        ("09.txt", "its process was killed (SIGKILL), as the kernel does when memory runs out"),
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("apart")
def test_an_item_that_fails_once_and_then_alone_does_not_is_kept(run: Import, files: Path, tmp_path: Path) -> None:
    (files / "05.txt").write_text("kill-once\nimages 1")
    assert run().card.n_images == 19
    assert (tmp_path / "killed").exists()
    assert quarantine(tmp_path / "store" / "mine") == []


@pytest.mark.slow
@pytest.mark.usefixtures("apart")
def test_an_item_that_takes_for_ever_is_ended(run: Import, files: Path, tmp_path: Path) -> None:
    (files / "05.txt").write_text("sleep 60")
    assert run(too_long=0.5).card.n_images == 18
    assert quarantine(tmp_path / "store" / "mine") == [("05.txt", "took too long and was ended")]


def test_nothing_usable_is_an_error_that_leaves_nothing_behind(run: Import, files: Path, tmp_path: Path) -> None:
    for path in files.iterdir():
        path.write_text("none truncated image" if path.name < "10" else "blank")
    with pytest.raises(SpecError, match="none of its 14 items is usable: 10 truncated image; 4 blank"):
        run()
    assert not (tmp_path / "store").exists()


def test_an_empty_folder_is_an_error(run: Import, files: Path, tmp_path: Path) -> None:
    for path in files.iterdir():
        path.unlink()
    with pytest.raises(SpecError, match="mine: nothing to import is there"):
        run()
    assert not (tmp_path / "store").exists()


def test_images_of_no_known_modality_are_not_guessed_at(run: Import) -> None:
    with pytest.raises(SpecError, match=r"of its 14 items is usable: 19 its modality is not known; give `modality:`"):
        run(modality=None)


def test_colour_that_a_source_has_no_room_for_is_told(run: Import, files: Path) -> None:
    (files / "05.txt").write_text("colour")
    assert run(modality="fundus", channels=1).n_made_grey == 1
    assert run(name="other", modality="fundus").card.channels == 3
    assert run(name="third", modality="ct").n_made_grey == 0  # luminance is the rule of a grey modality


def test_reasons_that_differ_in_numbers_alone_are_counted_together(run: Import, files: Path) -> None:
    for i, script in enumerate(["none row 3 is torn", "none row 17 is torn", "none page 4 is torn", "none lost"]):
        (files / f"{i:02}.txt").write_text(script)
    assert run().reasons == {"row ... is torn": 2, "page 4 is torn": 1, "lost": 1}


# --- labels ------------------------------------------------------------------------------------------------------


def _labelled(files: Path, *names: str) -> None:
    for path in files.iterdir():
        path.unlink()
    for name in names:
        (files / name).write_text("images 1")


def test_labels_become_columns_and_tasks(run: Import, files: Path, tmp_path: Path) -> None:
    names = [f"{split}-{label}-{i}" for split in ("test", "train", "val") for label in (0, 1) for i in range(2)]
    _labelled(files, *names)
    card = run(task=True).card
    assert card.tasks["side"].model_dump() == {"kind": "binary", "classes": ["left", "right"]}
    rows = pq.read_table(tmp_path / "store" / "mine" / "manifest.parquet").to_pylist()
    assert [(row["split"], row["label.side"]) for row in rows] == [
        (name.split("-")[0], int(name.split("-")[1])) for name in names
    ]


def test_labels_beyond_the_classes_and_missing_splits_are_all_told(run: Import, files: Path, tmp_path: Path) -> None:
    _labelled(files, "train-0-a", "train-7-b", "none-1-c")
    with pytest.raises(SpecError) as caught:
        run(task=True)
    first, second = caught.value.problems
    assert str(first) == "mine: train-7-b: label 7 of task 'side'; 0 to 1 are allowed"
    assert "task 'side' has no labelled image in val and test (1 in none, 1 in train)" in str(second)
    assert not (tmp_path / "store").exists()


def test_a_task_that_loses_a_split_to_bad_files_is_left_out_and_told(run: Import, files: Path) -> None:
    _labelled(files, "train-0-a", "train-1-b", "val-0-c", "val-1-d", "test-0-e")
    (files / "test-0-e").write_text("none torn")
    done = run(task=True)
    assert done.card.tasks == {}
    assert done.lost_tasks == {"side": "no labelled image in test"}


# --- ends on the way ---------------------------------------------------------------------------------------------

SCRIPT = """
import signal
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from scaling.catalog import Entry
from scaling.importing import importer, listing
from scripted_reader import ScriptedOptions
importer.READERS = {{"scripted": Entry("scripted_reader:Scripted", ScriptedOptions, "")}}
listing.ITEMS = (4, 4)
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to it
    options = ScriptedOptions.model_validate({{"reader": "scripted", "path": {files!r}, "modality": "ct"}})
    survey = importer.surveyed("mine", options, 16)
    importer.import_source(Path({store!r}), survey, workers=2)
"""


@pytest.fixture
def start(tmp_path: Path, files: Path) -> Callable[..., subprocess.Popen[str]]:
    """Begins the import in a process of its own."""

    def started(store: str = "store", **more: Any) -> subprocess.Popen[str]:
        script = tmp_path / "script.py"
        script.write_text(SCRIPT.format(here=HERE, files=str(files), store=str(tmp_path / store)))
        return subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, text=True, **more)

    return started


def _until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_killed_at_any_time_the_same_command_ends_with_the_bytes_of_an_undisturbed_import(
    run: Import, start: Callable[..., subprocess.Popen[str]], files: Path, tmp_path: Path
) -> None:
    for path in files.iterdir():
        path.write_text(path.read_text() + "sleep 0.05\n")
    run(store="calm")
    for n_parts in (0, 1, 2):
        process, draft = start(), draft_of(tmp_path / "store", "mine")
        _until(lambda draft=draft, n=n_parts: len(list(draft.glob("part-*.json"))) >= n and draft.exists())
        process.kill()
        process.communicate()
        assert draft.exists()
        assert not (tmp_path / "store" / "mine").exists()
    finished = {path: path.stat().st_mtime_ns for path in draft.glob("part-*.json")}
    assert finished
    run()
    assert content(tmp_path / "store" / "mine") == content(tmp_path / "calm" / "mine")
    assert not [path.name for path in (tmp_path / "store").iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_the_workers_of_a_killed_import_are_gone(
    start: Callable[..., subprocess.Popen[str]], files: Path, tmp_path: Path
) -> None:
    (files / "00.txt").write_text("sleep 60")
    process = start()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    _until(lambda: len(list(draft_of(tmp_path / "store", "mine").glob("part-*.json"))) >= 3)
    workers = [int(pid) for pid in children.read_text().split()]
    assert workers
    # the kernel, out of memory, would end them before the import itself
    assert {Path(f"/proc/{pid}/oom_score_adj").read_text().strip() for pid in workers} >= {"1000"}
    process.kill()
    process.communicate()
    _until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


@pytest.mark.slow
def test_interrupted_it_stops_at_once_and_keeps_what_is_finished(
    start: Callable[..., subprocess.Popen[str]], files: Path, tmp_path: Path
) -> None:
    (files / "00.txt").write_text("sleep 60")
    process, draft = start(), draft_of(tmp_path / "store", "mine")
    _until(lambda: len(list(draft.glob("part-*.json"))) >= 3)
    os.kill(process.pid, signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=10)[1]
    assert len(list(draft.glob("part-*.json"))) == 3


def _interrupted_at_the_end(run: Import) -> None:
    """Interrupted when all but the last part are done."""

    class Interrupted(Inline):
        def run(self, jobs: Iterable[Job]) -> None:
            for job in jobs:
                if job.number == 3:
                    raise KeyboardInterrupt
                super().run([job])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importer, "Crew", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            run()


def test_finished_parts_are_not_done_again(run: Import, tmp_path: Path) -> None:
    _interrupted_at_the_end(run)
    draft = draft_of(tmp_path / "store", "mine")
    before = {path.name: path.stat().st_mtime_ns for path in draft.glob("part-*")}
    assert len(before) == 9
    _interrupted_at_the_end(run)
    assert {path.name: path.stat().st_mtime_ns for path in draft.glob("part-*")} == before


def test_a_part_whose_note_a_power_cut_emptied_is_done_again(run: Import, tmp_path: Path) -> None:
    run(store="calm")
    _interrupted_at_the_end(run)
    (draft_of(tmp_path / "store", "mine") / "part-00001.json").write_text("")
    assert run().n_before == 11  # of parts 0 and 2
    assert content(tmp_path / "store" / "mine") == content(tmp_path / "calm" / "mine")


def test_an_unfinished_import_of_other_files_is_refused_and_replaced_when_asked_to(
    run: Import, files: Path, tmp_path: Path
) -> None:
    _interrupted_at_the_end(run)
    (files / "13.txt").write_text("images 3")
    with pytest.raises(SpecError, match="an import of it is unfinished, and its files have changed since; --replace"):
        run()
    assert run(replace=True).card.n_images == 21


@pytest.mark.parametrize("step", ["before the card", "before the name", "between the names"])
def test_a_crash_while_it_is_put_in_place_is_made_good(
    run: Import, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    run(store="calm")
    run(fit="pad")
    rename, fails = Path.rename, {"before the name": "mine", "between the names": ".mine.importing"}

    def crash(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    def renamed(path: Path, target: Path) -> Path:
        return crash() if path.name == fails[step] else rename(path, target)  # type: ignore[return-value]

    with monkeypatch.context() as patch:
        if step == "before the card":
            patch.setattr("scaling.store.writing.put_in_place", crash)
            patch.setattr("scaling.store.writing.sha256_of", crash)
        else:
            patch.setattr(Path, "rename", renamed)
        with pytest.raises(KeyboardInterrupt):
            run(replace=True)
    assert run(replace=step == "before the card").card.n_images == 19
    assert content(tmp_path / "store" / "mine") == content(tmp_path / "calm" / "mine")
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["mine", "store.json"]


@pytest.mark.slow
def test_two_imports_of_one_source_do_not_meet(
    run: Import, start: Callable[..., subprocess.Popen[str]], files: Path, tmp_path: Path
) -> None:
    (files / "00.txt").write_text("sleep 60")
    process = start()
    _until(lambda: list(draft_of(tmp_path / "store", "mine").glob("part-*.json")))
    with pytest.raises(SpecError, match="mine: another import of it is at work"):
        run()
    process.kill()
    process.communicate()


# --- the store ---------------------------------------------------------------------------------------------------


def test_a_full_disk_is_one_error_and_the_same_command_goes_on(
    run: Import, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    import resource

    limit = 700  # bytes of a file: a part is larger
    process = start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "RunFailed" in said
    assert "File too large" in said
    assert not (tmp_path / "store" / "mine").exists()
    assert run().card.n_images == 19


def test_a_store_that_cannot_be_written_is_one_error(run: Import, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(SpecError, match=r"store: cannot be written: File exists"):
        run()


def test_files_that_change_while_they_are_read_are_noticed(
    run: Import, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = importer._begin

    def touched(*given: Any, **more: Any) -> None:
        begin(*given, **more)
        (files / "99.txt").write_text("images 1")

    monkeypatch.setattr(importer, "_begin", touched)
    with pytest.raises(SpecError, match="its files changed while they were read"):
        run()
    monkeypatch.undo()
    assert not draft_of(tmp_path / "store", "mine").exists()


@pytest.mark.usefixtures("apart")
def test_processes_that_cannot_even_start_are_told(run: Import, monkeypatch: pytest.MonkeyPatch) -> None:
    from scripted_reader import ScriptedOptions

    table = {"scripted": Entry("scripted_reader:Scripted", ScriptedOptions, "")}
    survey_reader = table["scripted"].load()
    monkeypatch.setattr(importer, "opened", lambda _, options: survey_reader(options))
    monkeypatch.setattr(importer, "READERS", {"scripted": Entry("scripted_reader:Missing", ScriptedOptions, "")})
    with pytest.raises(RunFailed, match="Missing"):
        run()
