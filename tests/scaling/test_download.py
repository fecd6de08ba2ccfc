"""Published files from a server: whole, right, and going on where a transfer ended. The server is a thread of ours."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaling import medmnist_sets
from scaling.cli import main
from scaling.data.medmnist import Medmnist
from scaling.importing import fetch as fetching
from scaling.importing.fetch import FetchFailed, Unreachable, Wanted, fetch
from scaling.medmnist_sets import SETS, address
from scaling.source_options import MedmnistOptions
from tests.scaling.medmnist_fakes import write_fakes

CONTENT = np.random.default_rng(0).bytes(300_000)
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


@dataclass
class Server:
    """Serves a folder, badly where told to."""

    folder: Path
    address: str = ""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and Range of each request."""
    cut_at: int | None = None
    """Answers end after so many bytes, as a lost connection would."""
    ranges: bool = True
    busy: int = 0
    """So many requests are answered 503 first."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server(folder=tmp_path / "served")
    state.folder.mkdir()
    (state.folder / "a.npz").write_bytes(CONTENT)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append((self.path, wanted))
            path = state.folder / self.path.strip("/").split("?")[0]
            if state.busy:
                state.busy -= 1
                return self.send_error(503)
            if not path.is_file():
                return self.send_error(404)
            content = path.read_bytes()
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and state.ranges else 0
            if start and start >= len(content):
                return self.send_error(416)
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:][: state.cut_at])
            return None

        def log_message(self, *_: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.address = f"http://127.0.0.1:{httpd.server_port}"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield state
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def wanted(server: Server, tmp_path: Path, *, file: str = "a.npz", md5: str = MD5) -> Wanted:
    return Wanted(address=f"{server.address}/{file}", path=tmp_path / "got" / "a.npz", md5=md5)


def no_wait(seconds: float) -> None:
    pass


def test_a_file_arrives_whole_and_alone(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    assert fetch(wanted(server, tmp_path), lambda *at: seen.append(at)) == "fetched"
    assert (tmp_path / "got" / "a.npz").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "got").iterdir()] == ["a.npz"]
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_what_is_there_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    fetch(wanted(server, tmp_path))
    assert fetch(wanted(server, tmp_path)) == "there"
    assert len(server.asked) == 1


def test_a_transfer_that_breaks_off_goes_on_from_there(server: Server, tmp_path: Path) -> None:
    server.cut_at = 100_000
    fetch(wanted(server, tmp_path), wait=no_wait)
    assert (tmp_path / "got" / "a.npz").read_bytes() == CONTENT
    assert [ask[1] for ask in server.asked] == [None, "bytes=100000-", "bytes=200000-"]


def test_another_call_goes_on_from_what_the_last_one_got(server: Server, tmp_path: Path) -> None:
    each = wanted(server, tmp_path)
    each.part.parent.mkdir()
    each.part.write_bytes(CONTENT[:250_000])
    seen: list[tuple[int, int | None]] = []
    fetch(each, lambda *at: seen.append(at))
    assert each.path.read_bytes() == CONTENT
    assert server.asked == [("/a.npz", "bytes=250000-")]
    assert seen[0] == (250_000, 300_000)


def test_a_transfer_that_brings_nothing_ends_and_keeps_what_there_is(server: Server, tmp_path: Path) -> None:
    each = wanted(server, tmp_path)
    each.part.parent.mkdir()
    each.part.write_bytes(CONTENT[:250_000])
    server.cut_at = 0
    with pytest.raises(FetchFailed, match=r"ended after 250,000 of 300,000 bytes; 250,000 bytes of it are kept"):
        fetch(each, wait=no_wait)
    assert len(server.asked) == fetching.TRIES
    assert each.part.stat().st_size == 250_000
    assert not each.path.exists()


def test_a_server_without_ranges_starts_anew(server: Server, tmp_path: Path) -> None:
    each = wanted(server, tmp_path)
    each.part.parent.mkdir()
    each.part.write_bytes(CONTENT[:250_000])
    server.ranges = False
    fetch(each)
    assert each.path.read_bytes() == CONTENT


@pytest.mark.parametrize("left", [b"x" * 200_000, CONTENT + b"more"], ids=["another file's", "too much"])
def test_a_wrong_beginning_is_thrown_away_once(server: Server, tmp_path: Path, left: bytes) -> None:
    each = wanted(server, tmp_path)
    each.part.parent.mkdir()
    each.part.write_bytes(left)
    fetch(each)
    assert each.path.read_bytes() == CONTENT


def test_what_is_complete_already_is_only_checked(server: Server, tmp_path: Path) -> None:
    each = wanted(server, tmp_path)
    each.part.parent.mkdir()
    each.part.write_bytes(CONTENT)
    fetch(each)
    assert each.path.read_bytes() == CONTENT


def test_a_file_with_another_md5_never_takes_the_name(server: Server, tmp_path: Path) -> None:
    with pytest.raises(FetchFailed, match=rf"what was received has MD5 {MD5}, not 0{{32}}; it is deleted"):
        fetch(wanted(server, tmp_path, md5="0" * 32))
    assert list((tmp_path / "got").iterdir()) == []
    assert len(server.asked) == 1


def test_somebodys_own_file_of_that_name_is_left_alone(server: Server, tmp_path: Path) -> None:
    each = wanted(server, tmp_path)
    each.path.parent.mkdir()
    each.path.write_bytes(b"mine")
    with pytest.raises(FetchFailed, match=r"another file \(MD5 .*\) is there and is left alone; move it away"):
        fetch(each)
    assert each.path.read_bytes() == b"mine"


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(server: Server, tmp_path: Path) -> None:
    waited: list[float] = []
    server.busy = 2
    fetch(wanted(server, tmp_path), wait=waited.append)
    assert waited == [2.0, 4.0]
    with pytest.raises(FetchFailed, match="the server answers 404"):
        fetch(Wanted(address=f"{server.address}/b.npz", path=tmp_path / "b.npz", md5=MD5))
    assert len(server.asked) == 4


def test_two_processes_do_not_fetch_the_same_file(server: Server, tmp_path: Path) -> None:
    import fcntl

    each = wanted(server, tmp_path)
    each.part.parent.mkdir()
    with open(each.part, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(FetchFailed, match="another process is fetching it"):
            fetch(each)


def test_a_full_disk_is_noticed_before_the_transfer(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(FetchFailed, match=r"300,000 bytes are to come and .* has 1,000 free"):
        fetch(wanted(server, tmp_path))


def test_a_server_that_is_not_there_is_told_apart(server: Server, tmp_path: Path) -> None:
    gone = Wanted(address="http://127.0.0.1:1/a.npz", path=tmp_path / "a.npz", md5=MD5)
    with pytest.raises(Unreachable, match="the server cannot be reached"):
        fetch(gone, wait=no_wait)
    assert not gone.part.exists()


# --- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def published(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    write_fakes(server.folder, ("octmnist", "bloodmnist"), monkeypatch)
    monkeypatch.setattr(medmnist_sets, "ADDRESS", server.address + "/{file}?download=1")
    return server


def test_the_command_makes_files_that_the_source_takes(
    published: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data"
    command = ["data", "download", "medmnist", "--sets", "octmnist", "bloodmnist", "--to", str(folder)]
    assert main(command) == 0
    assert f"{folder / 'octmnist.npz'}: fetched, its MD5 is the published one" in capsys.readouterr().out
    opened = Medmnist(
        MedmnistOptions(source="medmnist", root=str(folder), sets=["octmnist", "bloodmnist"])  # type: ignore[arg-type]
    )
    assert len(opened.tasks()) == 2
    assert main(command) == 0
    assert f"{folder / 'octmnist.npz'}: is there" in capsys.readouterr().out
    assert len(published.asked) == 2


def test_the_folder_may_come_from_the_environment(
    published: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SCALING_DATA_ROOT", raising=False)
    assert main(["data", "download", "medmnist", "--sets", "octmnist"]) == 2
    assert "--to: is not given; say where, or set $SCALING_DATA_ROOT" in capsys.readouterr().err
    monkeypatch.setenv("SCALING_DATA_ROOT", str(tmp_path / "data"))
    assert main(["data", "download", "medmnist", "--sets", "octmnist"]) == 0
    assert (tmp_path / "data" / "octmnist.npz").exists()


def test_without_a_network_each_file_is_named_with_its_address_and_md5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(medmnist_sets, "ADDRESS", "http://127.0.0.1:1/{file}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetching, "TRIES", 1)
    assert main(["data", "download", "medmnist", "--size", "64", "--to", str(tmp_path)]) == 2
    text = capsys.readouterr().err
    assert "12 of 12 files are not here; give this again, or put them there by hand:" in text
    assert f"{tmp_path / 'pathmnist_64.npz'}: the server cannot be reached" in text
    assert text.count("not tried") == 11
    for name in ("pathmnist", "organsmnist"):
        assert f"{address(name, 64)}  MD5 {SETS[name].md5[64]}" in text


def test_one_file_that_fails_leaves_the_others(
    published: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (published.folder / "octmnist.npz").write_bytes(b"changed since")
    command = ["data", "download", "medmnist", "--sets", "octmnist", "bloodmnist", "--to", str(tmp_path / "data")]
    assert main(command) == 2
    printed = capsys.readouterr()
    assert "1 of 2 files are not here" in printed.err
    assert "what was received has MD5" in printed.err
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["bloodmnist.npz"]


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--sets", "octmnst"], "--sets: unknown set 'octmnst'; did you mean 'octmnist'?"),
        (
            ["--sets", "organmnist3d", "--size", "224"],
            "--size: organmnist3d has no 224 pixels; allowed with it: 28, 64",
        ),
    ],
)
def test_what_was_never_published_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], text: str
) -> None:
    assert main(["data", "download", "medmnist", "--to", str(tmp_path), *more]) == 2
    assert text in capsys.readouterr().err
