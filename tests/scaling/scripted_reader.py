"""A reader of files that say what happens when they are decoded: one word a line, `images 3`, `crash`, `kill`, ...

In a module of its own, as processes that decode import it by its name.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from scaling.importing.reader import About, Frame, Item, LabelSetting, Unreadable
from scaling.reader_options import ReaderOptions

SIZE = 24


class ScriptedOptions(ReaderOptions):
    reader: Literal["scripted"]
    key_file: str | None = None
    task: bool = False
    """Files are named SPLIT-CLASS-anything."""


class Scripted:
    def __init__(self, options: ScriptedOptions) -> None:
        self._options = options

    def items(self) -> Iterator[Item]:
        for path in sorted(Path(self._options.path).iterdir()):
            about = About()
            if self._options.task:
                split, label, _ = path.name.split("-", 2)
                about = About(split=None if split == "none" else split, labels={"side": int(label)})  # type: ignore[arg-type]
            stat = path.stat()
            yield Item(
                id=path.name, path=path, n_bytes=stat.st_size, stamp=f"{stat.st_size} {stat.st_mtime_ns}", about=about
            )

    def tasks(self) -> Mapping[str, LabelSetting]:
        return {"side": LabelSetting(kind="binary", classes=("left", "right"))} if self._options.task else {}

    def frames(self, item: Item) -> Iterator[Frame | Unreadable]:
        rng = np.random.default_rng(list(item.id.encode()))
        for line in item.path.read_text().splitlines():
            word, *more = line.split()
            if word == "images":
                for number in range(int(more[0])):
                    name = item.id if more[0] == "1" else f"{item.id}#{number}"
                    yield Frame(id=name, pixels=rng.integers(0, 256, (SIZE, SIZE), dtype=np.uint8))
            elif word == "blank":
                yield Frame(id=item.id, pixels=np.full((SIZE, SIZE), 7, np.uint8))
            elif word == "nan":
                yield Frame(id=item.id, pixels=np.full((SIZE, SIZE), np.nan, np.float32))
            elif word == "colour":
                yield Frame(id=item.id, pixels=rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
            elif word == "bad":
                yield Unreadable(" ".join(more))
            elif word == "none":
                raise Unreadable(" ".join(more))
            elif word == "bug":
                raise ZeroDivisionError("by the decoder")
            elif word == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif word == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            elif word == "kill-once":
                marker = Path(self._options.path).parent / "killed"
                if not marker.exists():
                    marker.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            elif word == "sleep":
                time.sleep(float(more[0]))
