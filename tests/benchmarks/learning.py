"""Does pretraining teach anything, and as much as the field's library does? Both train the same encoder on the same
images of real packs, in the same order, and are read out alike, beside the untrained encoder and the bare pixels.

`python -m tests.benchmarks.learning --data-root DIR` prints Markdown tables; results/ssl.md has them with what was
equal and what was not. Each training is kept under --state as soon as it is done, and never done twice.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from torch import nn

from scaling.attempt import Attempt
from scaling.catalog import ALGORITHMS, MODELS, PROBES
from scaling.config import load
from scaling.cost import shape_of
from scaling.data.mixture import select
from scaling.data.order import batches
from scaling.data.source import Images, Split, Task
from scaling.data.views import normalise
from scaling.grid import RunSpec
from scaling.health import Context, due
from scaling.kernels import by_rule
from scaling.optim import adamw, clip, set_schedules
from scaling.options import DinoV2Options, LearningRate, MaeOptions, Recipe
from scaling.plan import open_source
from scaling.probes.evaluate import probe_task
from scaling.probes.features import parts_of, subset, task_features
from scaling.rundir import RunDir
from scaling.train import LOGGED_STEPS, build, pretrain
from tests.benchmarks.learning_tables import BASELINES, Implementation, Result, Table, draw, tables, write_csv
from tests.benchmarks.lightly_models import Backbone, LightlyDino, LightlyMae, masked_vit

CPU = torch.device("cpu")
PACKS = Path("experiments/medical28.yaml")
"""Whose `data:` says what the packs are."""
RECIPES: dict[str, dict[str, Any]] = {
    "mae": {"lr": LearningRate(base=1.5e-3, rule="constant")},
    "dinov2": {
        "teacher_temp": (0.04, 0.04),
        "prototypes": 1024,
        "head_hidden": 256,
        "head_bottleneck": 64,
        "global_size": 20,
        "n_local": 4,
        "local_size": 12,
        "ema": (0.98, 1.0),
        "weight_decay_end": 0.1,
    },
}
"""What differs from the defaults, for both implementations: medical28.yaml's but for the sizes of the head and the
local crops. DINOv2's learning rate is the reference's rule, 1e-3 for batches of 64."""
LARGEST = {"train": 5000, "val": None, "test": None}
"""Images of a task's split that are read out, the same for all; None for all there are."""
WEIGHTS = {"ultrasound": 1.0, "ct": 1.0, "mr": 1.0, "xray": 3.5, "microscopy": 3.5}
"""Of `--weighted`: the modalities of tasks that are not solved before any training have more than their natural share,
ultrasound 10 % instead of 0.9 %."""
WEIGHTED = 4600
"""Images of such a set: ultrasound has 463 that are no copies of an image of a task."""
Job = tuple[str, Implementation, int]
"""Algorithm, implementation, seed."""


# --- training ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Trained:
    encoders: list[nn.Module]
    """At each of `steps_probed`."""
    seconds: float
    """Of a processor's core."""
    view_seconds: float | None
    """Of these for augmentation; None where it is not timed apart."""
    losses: list[float]
    """At the same steps."""


def steps_probed(spec: RunSpec, points: int) -> list[int]:
    every = max(1, spec.n_steps // LOGGED_STEPS)
    logged = [*range(every, spec.n_steps + 1, every)]
    logged += [] if logged[-1] == spec.n_steps else [spec.n_steps]
    return [step for step in logged if due(step, every, spec.n_steps, points)]


class Snapshots:
    """Keeps the encoder along a run."""

    def __init__(self, points: int) -> None:
        self.points = points
        self.encoders: list[nn.Module] = []

    def __call__(self, encoder: nn.Module, context: Context) -> dict[str, float]:
        self.encoders.append(copy.deepcopy(encoder))
        return {}


def train_ours(spec: RunSpec, images: Images, points: int) -> Trained:
    follow = Snapshots(points)
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir(Path(folder))
        run.lease("learning")
        started = time.process_time()
        trained = pretrain(
            spec, images, Attempt(run.path, "learning"), device=CPU, checkpoint_minutes=1e9, follow=follow
        )
        seconds = time.process_time() - started
        losses = {line["step"]: line["loss"] for line in run.metrics()}
    if trained.status != "done":
        raise RuntimeError(f"{spec.algorithm}, seed {spec.seed}: {trained.status}, {trained.reason}")
    at = [losses[step] for step in steps_probed(spec, points)]
    return Trained(encoders=follow.encoders, seconds=seconds, view_seconds=None, losses=at)


def train_lightly(spec: RunSpec, images: Images, points: int, *, timm_init: bool, their_views: bool) -> Trained:
    """With our optimiser, schedules and order of images, so that the model, its loss and its views differ alone."""
    torch.manual_seed(spec.seed)
    random.seed(spec.seed)
    np.random.seed(spec.seed)  # noqa: NPY002 - their transforms and masks draw from the global generators
    recipe, started, in_views = cast(Recipe, spec.options), time.process_time(), 0.0
    module: LightlyMae | LightlyDino
    if isinstance(recipe, MaeOptions):
        module = LightlyMae(shape_of(spec), recipe, timm_init=timm_init)
    else:
        module = LightlyDino(
            shape_of(spec), cast(DinoV2Options, recipe), timm_init=timm_init, seed=spec.seed, their_views=their_views
        )
    peak, order = recipe.lr.resolve(spec.batch_size), batches(len(images), spec.batch_size, spec.seed, 0)
    optimizer, encoders, losses = adamw(module, recipe, lr=peak, device=CPU), [], []
    trained = [p for p in module.parameters() if p.requires_grad]
    for step in range(spec.n_steps):
        before = time.process_time()
        views = module.views(images[next(order).numpy()], step)
        in_views += time.process_time() - before
        set_schedules(optimizer, recipe, (step + 1) / spec.n_steps, peak)
        loss = module.loss(views, step / spec.n_steps)
        loss.backward()
        module.before_update(step / spec.n_steps)
        clip(trained, recipe.clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        module.after_step(step, spec.n_steps)
        if step + 1 in steps_probed(spec, points):
            encoders.append(copy.deepcopy(module.probed))
            losses.append(loss.item())
    seconds = time.process_time() - started
    return Trained(encoders=encoders, seconds=seconds, view_seconds=in_views, losses=losses)


# --- one result, kept in a file ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Study:
    """What all results of a table have in common."""

    model: str
    images_seen: int
    batch_size: int
    points: int
    """How often along a training the encoder is read out."""
    weighted: bool
    """Whether images are mixed by WEIGHTS, instead of all there are."""
    their_views: bool
    """Whether lightly's DINO gets lightly's views, which take ten times as long as ours."""


def spec_of(study: Study, algorithm: str, seed: int, n_images: int) -> RunSpec:
    entry, size = ALGORITHMS[algorithm], MODELS[study.model]
    return RunSpec(
        model=study.model,
        algorithm=algorithm,
        mixture="all",
        n_images=n_images,
        seed=seed,
        width=size.width,
        depth=size.depth,
        heads=size.heads,
        image_size=28,
        channels=3,
        patch_size=4,
        options=entry.options(**RECIPES.get(algorithm, {})),
        images_seen=study.images_seen,
        batch_size=study.batch_size,
        precision="fp32",
        data_identity="packs",
    )


def result_of(
    study: Study, algorithm: str, how: Implementation, seed: int, images: Images, tasks: list[Task]
) -> Result:
    spec = spec_of(study, algorithm, seed, len(images))
    if algorithm in BASELINES:
        encoder = build(spec, CPU, by_rule("fp32", CPU)).probed
        if how != "ours":
            encoder = Backbone(masked_vit(shape_of(spec), timm_init=how == "lightly-timm"))
        aucs = [read_out(cast(nn.Module, encoder), tasks, seed)]
        return Result(algorithm=algorithm, implementation=how, seed=seed, images_seen=[0], auc=aucs, losses=[])
    if how.startswith("ours"):
        if how == "ours-xavier":
            xavier = spec.options.model_copy(update={"first_weights": "xavier"})
            spec = spec.model_copy(update={"options": xavier})
        trained = train_ours(spec, images, study.points)
    else:
        trained = train_lightly(
            spec, images, study.points, timm_init=how == "lightly-timm", their_views=study.their_views
        )
    seen = [step * spec.batch_size for step in steps_probed(spec, study.points)]
    return Result(
        algorithm=algorithm,
        implementation=how,
        seed=seed,
        images_seen=seen,
        auc=[read_out(encoder, tasks, seed) for encoder in trained.encoders],
        losses=trained.losses,
        images_per_second=seen[-1] / trained.seconds,
        view_share=None if trained.view_seconds is None else trained.view_seconds / trained.seconds,
    )


def read_out(encoder: nn.Module, tasks: list[Task], seed: int) -> dict[str, float]:
    """Test AUC of each task by the product's own probe: logistic regression on class token and mean of the patches."""
    encoder.eval()
    found = {}
    for task in tasks:
        features = task_features(
            lambda images: parts_of(encoder(normalise(images))), task, max_train=None, seed=0, batch_size=64, device=CPU
        )
        (result,) = probe_task(
            features, {"linear": PROBES["linear"].options()}, pool="both", seed=seed, device=CPU, n_boot=0
        )
        if result.auc is None:
            raise RuntimeError(f"{task.info.name}: {result.reason}")
        found[task.info.name] = result.auc
    return found


def cut(task: Task) -> Task:
    def part(name: str) -> Split:
        split: Split = getattr(task, name)
        chosen = subset(split.labels, LARGEST[name], 0)
        return Split(images=split.images[chosen], labels=split.labels[chosen])

    return Task(info=task.info, train=part("train"), val=part("val"), test=part("test"))


def jobs(algorithms: list[str], implementations: list[Implementation], seeds: int) -> Iterator[Job]:
    """Seed by seed, so that what is there at any time can be compared."""
    for seed in range(seeds):
        for algorithm in algorithms:
            if algorithm != "pixels":
                yield from (
                    (algorithm, how, seed) for how in implementations if algorithm == "mae" or how != "ours-xavier"
                )
            elif seed == 0:
                yield algorithm, "ours", seed


def results(study: Study, given: argparse.Namespace) -> list[Result]:
    """Those that are kept, and without --report the missing ones as well."""
    named = "-".join(str(value) for value in asdict(study).values())
    folder: Path = given.state / named
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {
        job: folder / "{}-{}-{}.json".format(*job) for job in jobs(given.algorithms, given.implementations, given.seeds)
    }
    missing = {job: path for job, path in wanted.items() if not path.exists()}
    if missing and not given.report:
        _, source = open_source(*load(PACKS), data_root=given.data_root)
        pool = source.pool()
        chosen = select(pool, WEIGHTS, WEIGHTED).indices if study.weighted else np.arange(len(pool.keys))
        images = source.read(chosen)
        tasks = [cut(source.task(info.name)) for info in source.tasks()]
        for job, path in missing.items():
            started = time.process_time()
            result = result_of(study, *job, images, tasks)
            draft = path.with_suffix(".draft")
            draft.write_text(json.dumps(asdict(result)))
            draft.rename(path)
            seconds = time.process_time() - started
            print(time.strftime("%H:%M:%S"), *job, f"AUC {result.mean:.4f}, {seconds:.0f} s of CPU", flush=True)
    return [Result(**json.loads(path.read_text())) for path in wanted.values() if path.exists()]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.learning", description=__doc__)
    parser.add_argument("--data-root", help="folder of the packs; $SCALING_DATA_ROOT by default")
    parser.add_argument("--images-seen", type=int, default=16384)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", default="vit_femto", choices=sorted(MODELS))
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--points", type=int, default=4, help="read-outs along a training")
    everything = [*BASELINES, *RECIPES]
    parser.add_argument("--algorithms", nargs="+", default=everything, choices=everything)
    parser.add_argument("--implementations", nargs="+", default=["ours", "lightly"], choices=get_args(Implementation))
    parser.add_argument("--weighted", action="store_true", help="4,600 images mixed by weights, not all of them")
    parser.add_argument("--their-views", action="store_true", help="lightly's DINO views for lightly; slow")
    parser.add_argument(
        "--state", type=Path, default=Path("results/.state/learning"), help="kept results; one folder a recipe"
    )
    parser.add_argument("--out", type=Path, help="folder for curves.svg and auc.csv")
    parser.add_argument("--report", action="store_true", help="of what is kept; trains nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    study = Study(**{name: getattr(given, name) for name in Study.__dataclass_fields__})
    table: Table = {}
    for result in results(study, given):
        table.setdefault((result.algorithm, result.implementation), {})[result.seed] = result
    if not table:
        parser.error(f"nothing is kept in {given.state} of such a study; leave out --report")
    print("\n".join(tables(table)))
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        write_csv(given.out / "auc.csv", table)
        draw(given.out / "curves.svg", table)


if __name__ == "__main__":
    main()
