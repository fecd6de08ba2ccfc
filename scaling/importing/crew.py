"""Processes that decode parts at the same time; one that dies costs the item it was at, and only that. Row of data/.

A process may be ended by the kernel (memory), by a fault in a decoder, or by us when an item takes too long. Its part
is done again at the end by a fresh process that has the machine to itself; an item that ends it again is set aside.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from ctypes import c_int64
from dataclasses import replace
from multiprocessing import connection
from typing import Protocol

from scaling.errors import RunFailed
from scaling.importing.decoding import NO_ITEM, OUT_OF_MEMORY, Count, Failed, Job, Setting, work

TOO_LONG = 900.0
"""Seconds that one item may take."""
DEATHS = 2
"""After so many at the same item it is set aside."""
TICK = 1.0


class Hand:
    """One process, and the job it has."""

    def __init__(self, setting: Setting) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy locks that threads of ours hold
        self.job: Job | None = None
        self.count = Count()
        self._at = context.RawValue(c_int64, NO_ITEM)
        self._since = (NO_ITEM, time.monotonic())
        self._late = False
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(setting, theirs, self._at, os.getpid()), daemon=True)
        self._process.start()
        theirs.close()

    def give(self, job: Job) -> None:
        self.job, self.count = job, Count()
        self._at.value = NO_ITEM
        self._since = (NO_ITEM, time.monotonic())
        with suppress(BrokenPipeError, ConnectionResetError):  # it died while idle: found when it is listened to
            self.pipe.send(job)

    def listen(self) -> Count | None:
        """News of the job; None when the process is dead. Raises RunFailed when it cannot go on."""
        try:
            news = self.pipe.recv()
        except (EOFError, OSError):  # also in the middle of a message
            return None
        if isinstance(news, Failed):
            raise RunFailed(f"{news.text}; the parts that are finished stay, and the same command goes on")
        self.count = news
        return self.count

    @property
    def at(self) -> int:
        """Position of the item at work; NO_ITEM between items."""
        return int(self._at.value)

    def end_if_late(self, too_long: float) -> None:
        if self.at != self._since[0]:
            self._since = (self.at, time.monotonic())
        elif self.at != NO_ITEM and time.monotonic() - self._since[1] > too_long:
            self._late = True
            self._process.kill()

    def wait(self, too_long: float) -> Count | None:
        """As `listen`, when there is news."""
        while not self.pipe.poll(TICK):
            self.end_if_late(too_long)
        return self.listen()

    def end(self) -> str:
        """How the process ended."""
        self._process.join()
        code = self._process.exitcode or 0
        if self._late:
            return "took too long and was ended"
        if code == -signal.SIGKILL:
            return "its process was killed (SIGKILL), as the kernel does when memory runs out"
        if code < 0:
            return f"its process crashed ({signal.Signals(-code).name})"
        return "needs more memory than there is" if code == OUT_OF_MEMORY else f"its process ended with code {code}"

    def dismiss(self) -> None:
        self._process.kill()
        self._process.join()
        self._process.close()
        self.pipe.close()


class Watcher(Protocol):
    """Told how the work gets on."""

    def under_way(self, counts: Sequence[Count]) -> None:
        """Of every job at work, so far."""
        ...

    def done(self, count: Count) -> None:
        """Of a job that is finished."""
        ...


class Crew:
    def __init__(self, setting: Setting, n: int, watcher: Watcher, *, too_long: float = TOO_LONG) -> None:
        self._setting, self._n, self._watcher, self._too_long = setting, n, watcher, too_long
        self._hands: list[Hand] = []
        self._suspects: list[tuple[Job, int]] = []
        """Jobs whose process died, and the position it was at."""

    def run(self, jobs: Iterable[Job]) -> None:
        """All of them. Raises RunFailed when the store cannot be written."""
        try:
            self._side_by_side(jobs)
            self._dismiss()
            for job, at in self._suspects:
                self._alone(job, at)
        finally:
            self._dismiss()

    def _dismiss(self) -> None:
        for hand in self._hands:
            hand.dismiss()
        self._hands = []

    def _side_by_side(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self._idle().give(job)
        while any(hand.job for hand in self._hands):
            self._news()

    def _idle(self) -> Hand:
        while True:
            for hand in self._hands:
                if hand.job is None:
                    return hand
            if len(self._hands) < self._n:
                self._hands.append(Hand(self._setting))
            else:
                self._news()

    def _news(self) -> None:
        busy = [hand for hand in self._hands if hand.job]
        ready = connection.wait([hand.pipe for hand in busy], timeout=TICK)
        for hand in busy:
            if hand.pipe not in ready:
                hand.end_if_late(self._too_long)
            elif (count := hand.listen()) is None:
                self._suspect(hand)
            elif count.done:
                hand.job = None
                self._watcher.done(count)
        self._watcher.under_way([hand.count for hand in self._hands if hand.job])

    def _suspect(self, hand: Hand) -> None:
        if hand.job is not None:
            self._suspects.append((hand.job, hand.at))
        hand.dismiss()
        self._hands.remove(hand)  # another one starts when there is a job for it

    def _alone(self, job: Job, at: int) -> None:
        deaths = Counter([at])
        while True:
            hand = Hand(self._setting)
            self._hands = [hand]
            hand.give(job)
            while (count := hand.wait(self._too_long)) is not None and not count.done:
                self._watcher.under_way([count])
            if count is not None:
                self._watcher.done(count)
                self._dismiss()
                return
            at, how = hand.at, hand.end()
            self._dismiss()
            deaths[at] += 1
            if deaths[at] >= DEATHS:
                if at == NO_ITEM:
                    raise RunFailed(f"decoding cannot start: {how} before it read anything")
                job = replace(job, skip={**job.skip, at: how})
