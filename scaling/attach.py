"""A second `scaling run` on a root that is driven already: hands its sweep over, watches, takes over if it must."""

from __future__ import annotations

import time
from collections.abc import Callable

from scaling.control import Asked, Control, Live, change, driver_of, sweep_folder
from scaling.live import View, published
from scaling.plan import Plan

LOOK_SECONDS = 1.0


def request(plan: Plan, *, cancel_removed: bool) -> Asked:
    """Saves the plan and asks whoever drives the root, now or next, to carry it out."""
    plan.save()
    asked = Asked.now()
    change(plan.root, plan.sweep.name, asked=asked, stop="", paused=False, cancel_removed=cancel_removed)
    return asked


def watch(plan: Plan, asked: Asked, view: View, sleep: Callable[[float], None] = time.sleep) -> int | None:
    """Shows the sweep until the driver is through with it: its exit code. None when there is no driver any more.

    A newer request for the same sweep takes the place of this one.
    """
    folder = sweep_folder(plan.root, plan.sweep.name)
    while True:
        live, asked = Live.read(folder), Control.read(folder).asked or asked
        if live and live.answered == asked.id and live.finished:
            if live.note:
                view.say(live.note)
            return live.exit_code
        if driver_of(plan.root) is None:
            return None
        snapshot = published(folder)
        if snapshot and live and live.answered == asked.id:
            view.show(snapshot)
        sleep(LOOK_SECONDS)
