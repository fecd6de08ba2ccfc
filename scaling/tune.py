"""The tuning stage on Ray Tune, which decides which trials go on and which stop; the rest of the work is ours.

A trial is a run in its own directory, carried out under the scheduler's rules of lease, retry and watch by a child of
a Tune actor that imports no torch. What Tune knows dies with the stage: `Tuner.restore` goes back to snapshots and
repeats finished work, so a stage that is started again asks the directories, and replays what they have.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from ray import tune as ray_tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search import Searcher

from scaling.choice import Tuning, conclude, finished, outcome, save
from scaling.config import Sweep
from scaling.data.source import Source
from scaling.document import Document
from scaling.errors import RunFailed, SpecError
from scaling.grid import fingerprint
from scaling.launch.launcher import Resources
from scaling.launch.ray import start
from scaling.plan import Plan
from scaling.provenance import freeze
from scaling.rundir import append_line
from scaling.trialrun import GRACE, POLL_SECONDS, Assignment, Share, TrialRun, bundle, resources_of, rungs_of
from scaling.trials import (
    Group,
    Tried,
    all_trials,
    groups_of,
    key_of,
    list_trials,
    log_path,
    look,
    point_of,
    proposed,
    stopped_early,
    trial_of,
    trial_plan,
)
from scaling.tuning import DEFAULT_TRIALS, Between, Setting, Values, rounded

ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # files per trial that nobody reads
    "RAY_AIR_NEW_OUTPUT": "0",  # the old one can be silent
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # its own would return as if the stage were over
}
LEAVE_SECONDS = 30.0
"""Longest wait for trials to save when the stage itself is interrupted."""
WORST = 1e30
"""Score of a trial without a finite one, in Tune alone: its percentiles do not take infinity."""
ACTOR_FAILURES = 3
"""Actors or nodes a trial may lose; failures of the run itself follow the YAML's `retry`."""


class Actor(ray_tune.Trainable):  # type: ignore[misc]  # Ray has no types
    """Ray Tune's side of a trial. Its slot stays warm from one trial to the next; runs are processes of their own."""

    def setup(self, config: dict[str, Any]) -> None:
        self.launcher = Share(config["trial"].resources, config["trial"].code)
        self._take(config["trial"])

    def _take(self, assignment: Assignment) -> None:
        self.work = TrialRun(assignment, self.launcher)
        self.rungs = iter(assignment.rungs)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.work.leave()
        self._take(new_config["trial"])
        return True

    def step(self) -> dict[str, Any]:
        reached = self.work.advance(next(self.rungs, self.work.run.spec.n_steps))
        return {
            "score": WORST if reached.score is None else reached.score,
            "steps": reached.step,
            "status": reached.status,
            "reason": reached.reason,
            "done": reached.status != "waiting",
        }

    def cleanup(self) -> None:
        self.work.leave()
        self.launcher.close()


# --- what Tune decides ------------------------------------------------------------------------------------------


class AshaPerGroup(FIFOScheduler):  # type: ignore[misc]
    """Successive halving among the trials of each algorithm and anchor: losses of others are no yardstick."""

    def __init__(self, reduction: int) -> None:
        super().__init__()
        self._reduction = reduction
        self._groups: dict[Group, ASHAScheduler] = {}

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True

    def _of(self, trial: Any) -> ASHAScheduler:
        assignment: Assignment = trial.config["trial"]
        if assignment.group not in self._groups:
            n_steps = assignment.run.spec.n_steps
            self._groups[assignment.group] = ASHAScheduler(
                time_attr="steps",
                metric="score",
                mode="min",
                max_t=n_steps,
                grace_period=max(1, n_steps // GRACE),
                reduction_factor=self._reduction,
            )
        return self._groups[assignment.group]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision: str = self._of(trial).on_trial_result(tune_controller, trial, result)
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._of(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._of(trial).on_trial_remove(tune_controller, trial)


class Journal(ray_tune.Callback):  # type: ignore[misc]
    """In the driver: keeps at once what no run's directory can tell, and says how each trial ended."""

    def __init__(self, log: Path, say: Callable[[str], None]) -> None:
        self.log, self.say = log, say

    def __reduce__(self) -> tuple[Any, ...]:
        """Tune pickles its callbacks for a restore that never comes, and a terminal's lock would not let it."""
        return Journal, (self.log, print)

    def __deepcopy__(self, memo: dict[int, Any]) -> Journal:
        return self

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        a: Assignment = trial.config["trial"]
        result = trial.last_result or {}
        status, steps = result.get("status", "waiting"), result.get("steps", 0)
        if status == "waiting" and a.run.done:  # asha saw it in another order than last time; its result stands
            status = "done"
        elif status == "waiting":
            status = "stopped"
            append_line(self.log, {"key": a.key, "what": "stopped", "run": a.run.dir.run, "step": steps})
        score = f" {result['score']:.4g}" if result.get("score", WORST) < WORST else ""
        at = f" at step {steps} of {a.run.spec.n_steps}" if status == "stopped" else ""
        reason = f": {result['reason']}" if result.get("reason") else ""
        self.say(f"tune {'/'.join(a.group)} {a.setting}: {status}{at}{score}{reason}")


class Proposer(Searcher):  # type: ignore[misc]
    """Optuna's proposals for one anchor as trials. Those of earlier calls come first, as they were."""

    def __init__(self, sweep: Sweep, group: Group, assign: Callable[[Group, Setting], Assignment], log: Path) -> None:
        from ray.tune.search.optuna import OptunaSearch

        optuna = importlib.import_module("optuna")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        super().__init__(metric="score", mode="min")
        tune = sweep.tune
        assert tune is not None
        self.group, self.assign, self.log, self.key = group, assign, log, key_of(sweep, group)
        self.known = proposed(sweep, group)
        self.given: set[Setting] = set()
        space = {name: _domain(among) for name in ("lr", "weight_decay") if (among := getattr(tune, name)) is not None}
        before = [{name: getattr(setting, name) for name in space} for setting in self.known]
        seed = int(fingerprint({"group": list(group), "seed": point_of(sweep, group).seed}), 16) % 2**31
        # By default the first ten are drawn at random, which here may be all.
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=-(-(tune.trials or DEFAULT_TRIALS) // 3))
        self.inner = OptunaSearch(space, metric="score", mode="min", points_to_evaluate=before or None, sampler=sampler)

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        found = self.inner.suggest(trial_id)
        if found is None or found == Searcher.FINISHED:
            return found
        setting = Setting(lr=rounded(found["lr"]), weight_decay=found.get("weight_decay"))
        while setting in self.given:  # a run can be under way only once
            setting = replace(setting, lr=rounded(setting.lr * 1.01))
        self.given.add(setting)
        assignment = self.assign(self.group, setting)
        if setting not in self.known:
            values = {"lr": setting.lr, "weight_decay": setting.weight_decay, "run": assignment.run.dir.run}
            append_line(self.log, {"key": self.key, "what": "proposed", **values})
        return {"trial": assignment}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.inner.on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.inner.on_trial_complete(trial_id, result, error)


def _domain(among: Between | Values) -> Any:
    return ray_tune.loguniform(*among.between) if isinstance(among, Between) else ray_tune.choice(among.values)


# --- the stage --------------------------------------------------------------------------------------------------


def run_tuning(
    sweep: Sweep,
    document: Document,
    source: Source,
    *,
    address: str | None = None,
    say: Callable[[str], None] = print,
) -> Tuning:
    """Carries the stage out, or takes it up where it was, and keeps what it found. At once if that is there already.

    The caller holds the root's driver lock. The sweep's `budget` guards the grid, not this stage, whose cost is known
    before: at most its trials to their end, as `scaling plan` says. Raises SpecError when no node can ever run a trial
    or optuna is not installed, and RunFailed when an anchor is left without a finished trial.
    """
    assert sweep.tune is not None
    root = Path(sweep.root).resolve()
    if (known := finished(sweep, root)) is not None:
        save(known, root, sweep.name)  # the grid's sizes may have changed
        return known
    if sweep.tune.method == "optuna" and importlib.util.find_spec("optuna") is None:
        what = "optuna is not installed; `pip install optuna`, or use method: asha or grid"
        raise SpecError([document.problem(("tune", "method"), what)])
    plan = trial_plan(sweep, document, source)
    stage = Stage(plan, sweep, say)
    if stage.waiting():
        list_trials(all_trials(plan, sweep), root, sweep.name)
        code = freeze(root)
        with cluster(address, code):
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            stage.fit(resources_of(sweep, document, nodes), code)
    tuning = conclude(sweep, stage.tried())
    save(tuning, root, sweep.name)
    for line in outcome(tuning):
        say(line)
    return tuning


class Stage:
    """The trials of one sweep, asked of Ray Tune."""

    def __init__(self, plan: Plan, sweep: Sweep, say: Callable[[str], None]) -> None:
        assert sweep.tune is not None
        self.plan, self.sweep, self.tune, self.say = plan, sweep, sweep.tune, say
        self.owner = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"
        self.log = log_path(plan.root, sweep.name)

    def tried(self) -> list[Tried]:
        stopped = stopped_early(self.sweep)
        return [look(trial, stopped, by_probe=self.by_probe) for trial in all_trials(self.plan, self.sweep)]

    @property
    def by_probe(self) -> bool:
        return self.tune.criterion == "probe"

    def waiting(self) -> bool:
        """Whether anything is left to do; what failed before is tried again."""
        tried = self.tried()
        wanted = len(groups_of(self.sweep)) * (self.tune.trials or DEFAULT_TRIALS)
        return (self.tune.method == "optuna" and len(tried) < wanted) or any(
            one.status in ("waiting", "failed") for one in tried
        )

    def fit(self, resources: Resources, code: Path) -> None:
        """Raises RunFailed when Tune itself could not carry a trial out."""
        bare = replace(self.plan, runs=())
        stopped = stopped_early(self.sweep)

        def assign(group: Group, setting: Setting) -> Assignment:
            trial = trial_of(self.plan, group, setting)
            asha = self.tune.method == "asha"
            return Assignment(
                plan=bare,
                run=trial.run,
                group=group,
                key=key_of(self.sweep, group),
                setting=setting,
                rungs=rungs_of(trial.run.spec.n_steps, self.tune.reduction) if asha else (),
                stopped_at=stopped.get(trial.run.dir.run),
                by_probe=self.by_probe,
                resources=resources,
                code=code,
                owner=self.owner,
            )

        if self.tune.method == "optuna":
            for group in groups_of(self.sweep):
                n = self.tune.trials or DEFAULT_TRIALS
                self._fit(resources, {}, search_alg=Proposer(self.sweep, group, assign, self.log), num_samples=n)
            return
        trials = all_trials(self.plan, self.sweep)
        # What is known comes first, so that new trials are held against it.
        trials.sort(key=lambda trial: not (trial.run.done or trial.run.dir.run in stopped))
        space = {"trial": ray_tune.grid_search([assign(trial.group, trial.setting) for trial in trials])}
        asha = AshaPerGroup(self.tune.reduction) if self.tune.method == "asha" else None
        self._fit(resources, space, scheduler=asha, num_samples=1)

    def _fit(self, resources: Resources, space: dict[str, Any], **how: Any) -> None:
        folder = self.log.with_name(f"tune-{uuid4().hex[:6]}")
        tuner = ray_tune.Tuner(
            ray_tune.with_resources(Actor, ray_tune.PlacementGroupFactory([bundle(resources)])),
            param_space=space,
            tune_config=ray_tune.TuneConfig(
                metric="score",
                mode="min",
                reuse_actors=True,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
                **how,
            ),
            run_config=ray_tune.RunConfig(
                name="tune",
                storage_path=str(folder),
                verbose=0,
                checkpoint_config=ray_tune.CheckpointConfig(checkpoint_at_end=False),  # runs keep their own
                failure_config=ray_tune.FailureConfig(max_failures=ACTOR_FAILURES),
                callbacks=[Journal(self.log, self.say)],
            ),
        )
        try:
            results = tuner.fit()
        except BaseException:
            self._save_all()
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if results.errors:
            raise RunFailed(f"tune: {len(results.errors)} trials lost their actors: {results.errors[0]}")

    def _save_all(self) -> None:
        """Trials under way save before their actors are taken from them."""
        going = [trial.run.dir for trial in all_trials(self.plan, self.sweep)]
        going = [run for run in going if (beat := run.last_beat()) is not None and beat.process_lives()]
        for run in going:
            run.ask_to_stop()
        until = time.monotonic() + LEAVE_SECONDS
        while time.monotonic() < until and any(b.process_lives() for run in going if (b := run.last_beat())):
            time.sleep(POLL_SECONDS)


# --- Ray --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def cluster(address: str | None, code: Path) -> Iterator[None]:
    """Ray for the stage: the cluster at `address` or $RAY_ADDRESS, or one of this process's own.

    On a cluster the actors import the package from `code`, on the storage that all nodes share.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    address = address or os.environ.get("RAY_ADDRESS")
    before = signal.getsignal(signal.SIGTERM)
    start(address, runtime_env={"env_vars": {"PYTHONPATH": str(code)}})
    with contextlib.suppress(ValueError):  # not the main thread: no signal comes here
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray took it for itself; trials are to be saved
    try:
        yield
    finally:
        ray.shutdown()
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGTERM, before)
