"""Self-supervised training: against `lightly` per core-second on a CPU, against a GPU's peak where there is one.

On a GPU nothing else is needed than torch, timm, pydantic and the scientific packages: no Ray, no MLflow, no lightly.
"""

from __future__ import annotations

import importlib.util
import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scaling.algorithms import mae as masked
from scaling.attempt import Attempt
from scaling.calibrate import choose
from scaling.catalog import MODELS
from scaling.cost import cost_of
from scaling.data.rows import Stored
from scaling.data.views import normalise, random_crop
from scaling.grid import RunSpec
from scaling.optim import adamw
from scaling.options import DinoV2Options, LearningRate, MaeOptions, Recipe
from scaling.parallel import Draws
from scaling.process import keep_freed_memory
from scaling.rundir import RunDir
from scaling.train import Training, build, pretrain
from tests.benchmarks.apart import Make, seconds_apart
from tests.benchmarks.rows import Benchmark, Row

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
NO_LIGHTLY = "" if importlib.util.find_spec("lightly") else "not measured: lightly is not installed"
BATCH = 256
REPEATS = 5
PROGRESS = 0.5
"""Share of a run that is over: warmed up, and all of it moves."""
PEAK_TFLOPS = {
    "B200": 2250.0,
    "GH200": 989.4,
    "H200": 989.4,
    "H100 PCIe": 756.5,
    "H100 80GB HBM3": 989.4,
    "A100": 312.0,
    "L40S": 362.0,
}
"""Dense bf16 of the data sheets (NVIDIA; where they state sparse, half of it), by what the device's name contains."""


# --- what is timed ----------------------------------------------------------------------------------------------


def in_turns(steps: Mapping[str, Callable[[], Any]], *, repeats: int = REPEATS) -> dict[str, float]:
    """Median seconds of each, A B A B, after one call that does not count: of this process's processors on a CPU, so
    that what else a busy machine does counts little; on the wall, the device's work included, on a GPU."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            _settle()
            started = time.perf_counter() if ON_GPU else time.process_time()
            step()
            _settle()
            took = (time.perf_counter() if ON_GPU else time.process_time()) - started
            if turn:
                seconds[name].append(took)
    return {name: statistics.median(found) for name, found in seconds.items()}


def _settle() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def spec_of(
    algorithm: str, options: Recipe, model: str, image_size: int, patch_size: int, batch: int, *, steps: int = 10_000
) -> RunSpec:
    size = MODELS[model]
    return RunSpec(
        model=model,
        algorithm=algorithm,
        mixture="all",
        n_images=4 * batch,
        seed=0,
        width=size.width,
        depth=size.depth,
        heads=size.heads,
        image_size=image_size,
        channels=3,
        patch_size=patch_size,
        options=options,
        images_seen=steps * batch,
        batch_size=batch,
        precision="auto",
        data_identity="benchmark",
    )


def random_images(n: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 3, size, size), dtype=np.uint8)


def training_of(spec: RunSpec, images: Stored | None = None) -> Training:
    """The real loop's, on random images or those given, with the kernels that a run would have here."""
    assert isinstance(spec.options, Recipe)
    with tempfile.TemporaryDirectory() as root:
        kernels = choose(spec, DEVICE, Path(root))
    module = build(spec, DEVICE, kernels)
    given = random_images(spec.n_images, spec.image_size) if images is None else images
    return Training(spec, spec.options, module, given, DEVICE, kernels)


# --- against lightly, on a CPU ----------------------------------------------------------------------------------


def lightly_step(spec: RunSpec, *, best: bool) -> Callable[[], None]:
    """A step of lightly's same model, put together as in its examples, on views that are ready.

    Its best mode here: bf16 autocast, plain attention, fused AdamW; its default: fp32, timm's default attention, AdamW
    as it comes.
    """
    from timm.layers import set_fused_attn

    from scaling.cost import shape_of
    from tests.benchmarks.lightly_models import LightlyDino, LightlyMae

    torch.set_num_threads(1)
    set_fused_attn(not best)
    model: LightlyMae | LightlyDino
    if isinstance(spec.options, MaeOptions):
        model = LightlyMae(shape_of(spec), spec.options, timm_init=True)
        given = [normalise(torch.from_numpy(random_images(spec.batch_size, spec.image_size)))]
    else:
        assert isinstance(spec.options, DinoV2Options)
        model = LightlyDino(shape_of(spec), spec.options, timm_init=True, seed=0, their_views=False)
        given = model.views(random_images(spec.batch_size, spec.image_size), 0)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=True if best else None)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=best):
            loss = model.loss(given, PROGRESS)
        optimizer.zero_grad()
        loss.backward()
        model.before_update(PROGRESS)
        optimizer.step()
        model.after_step(1, 100)

    return step


def our_step(spec: RunSpec, *, ready: bool) -> Callable[[], object]:
    """A step of the real loop in a process that is set up as a run's; `ready` leaves out the augmentation."""
    torch.set_num_threads(1)
    keep_freed_memory()
    training, indices = training_of(spec), torch.arange(spec.batch_size)
    training.n_done = round(PROGRESS * spec.n_steps)
    if ready and spec.algorithm == "mae":
        masked.random_crop = lambda images, *how: images  # type: ignore[attr-defined]
    elif ready:
        module: Any = training.module
        images = normalise(torch.from_numpy(random_images(spec.batch_size, spec.image_size)))
        crops = module.crops(images, Draws(torch.Generator()))
        module.crops = lambda images, draws: crops
    return lambda: training.step(indices)


def step_against_lightly(
    algorithm: str, options: Recipe, image_size: int, patch_size: int, what: str, *, repeats: int
) -> Iterator[Row]:
    """A step on views that are ready, in both; MAE's also with the views of each. At one thread, as a run has one
    processor unless it asks for more, and in processes of their own."""
    what = f"training step, {algorithm} vit_ti {image_size}/{patch_size}, {what}, batch {BATCH}"
    if NO_LIGHTLY:
        yield Row(what=what, ours="", peer="", ratio=math.nan, note=NO_LIGHTLY)
        return
    spec = spec_of(algorithm, options, "vit_ti", image_size, patch_size, BATCH)
    makers: dict[str, Make] = {
        "ours": partial(our_step, spec, ready=True),
        "best": partial(lightly_step, spec, best=True),
        "default": partial(lightly_step, spec, best=False),
    }
    if algorithm == "mae":
        makers["all of ours"] = partial(our_step, spec, ready=False)
        makers["augment"] = partial(lightly_views, BATCH, image_size)
        took = seconds_apart(makers, repeats=repeats)
    else:  # in turns they would hold more than 24 GB
        took = {name: seconds_apart({name: make}, repeats=repeats)[name] for name, make in makers.items()}
    rows = {"best mode": (took["ours"], took["best"], "aim 1.3; ")}
    if algorithm == "mae":
        rows["best mode, each with its views"] = (took["all of ours"], took["best"] + took["augment"], "")
    rows["default mode"] = (took["ours"], took["default"], "aim 2; ")
    for peer, (mine, theirs, aim) in rows.items():
        yield Row(
            what=what,
            ours=f"{BATCH / mine:,.0f} img/core-s",
            peer=f"lightly, {peer} {BATCH / theirs:,.0f}",
            ratio=theirs / mine,
            note=f"{aim}one thread, a process each",
        )


def mae_step(image_size: int, patch_size: int, decoder: str) -> Iterator[Row]:
    options = MaeOptions(decoder=decoder)  # type: ignore[arg-type]
    repeats = REPEATS if decoder == "light" else 2
    return step_against_lightly("mae", options, image_size, patch_size, f"decoder {decoder}", repeats=repeats)


def dinov2_step(image_size: int, patch_size: int) -> Iterator[Row]:
    options = DinoV2Options()
    what = f"{options.prototypes:,} prototypes"
    return step_against_lightly("dinov2", options, image_size, patch_size, what, repeats=2)


def lightly_views(n: int, size: int) -> Callable[[], Any]:
    """MAE's view of each image of a batch."""
    from lightly.transforms import MAETransform

    transform, given = MAETransform(input_size=size), pictures(n, size)
    return lambda: [transform(picture) for picture in given]


def pictures(n: int, size: int) -> list[Any]:
    from PIL import Image

    return [Image.fromarray(image.transpose(1, 2, 0)) for image in random_images(n, size)]


def views(size: int) -> Iterator[Row]:
    """All views of a batch against lightly's transform of each image."""
    if NO_LIGHTLY:
        yield Row(what=f"augmented views, {size} px", ours="", peer="", ratio=math.nan, note=NO_LIGHTLY)
        return
    from lightly.transforms import DINOTransform, MAETransform

    from scaling.algorithms.dinov2 import DINOv2
    from scaling.cost import shape_of

    options, n = DinoV2Options(prototypes=16, head_hidden=16, head_bottleneck=8), 64
    algorithm = DINOv2(shape_of(spec_of("dinov2", options, "vit_atto", size, 8, n)), options)
    ready, generator, given = torch.from_numpy(random_images(n, size)), torch.Generator(), pictures(n, size)
    dino = DINOTransform(global_crop_size=size, local_crop_size=size // 2, n_local_views=8)
    mae = MAETransform(input_size=size)
    took = in_turns(
        {
            "dino": lambda: algorithm.crops(normalise(ready), Draws(generator)),
            "their dino": lambda: [dino(picture) for picture in given],
            "mae": lambda: random_crop(normalise(ready), size, (0.2, 1.0), Draws(generator)),
            "their mae": lambda: [mae(picture) for picture in given],
        }
    )
    for name, what in (("dino", "DINO views, 2 global + 8 local"), ("mae", "MAE view")):
        yield Row(
            what=f"{what}, {size} px",
            ours=f"{n / took[name]:,.0f} img/core-s",
            peer=f"lightly {n / took[f'their {name}']:,.0f}",
            ratio=took[f"their {name}"] / took[name],
            note="aim 5" if name == "dino" else "",
        )


# --- the loop ---------------------------------------------------------------------------------------------------


def run_against_step() -> Iterator[Row]:
    """A whole run, its logs, health and order of images included, against its bare step on a batch that is there."""
    steps, size, options = 400, 64, MaeOptions(lr=LearningRate(base=1e-4, rule="constant"))
    spec = spec_of("mae", options, "vit_femto", 28, 4, size, steps=steps)
    images = random_images(spec.n_images, 28)
    kernels = training_of(spec).kernels
    module: Any = build(spec, DEVICE, kernels)
    optimizer = adamw(module, options, lr=1e-4, device=DEVICE)
    batch, generator = torch.from_numpy(images[:size]).to(DEVICE), torch.Generator(DEVICE)

    def bare() -> None:
        for _ in range(steps):
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=kernels.precision == "bf16"):
                loss, _ = module.loss(batch, progress=0.5, draws=Draws(generator))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            where = RunDir(Path(folder))
            where.lease("benchmark")
            attempt = Attempt(where.path, "benchmark")
            pretrain(spec, images, attempt, device=DEVICE, checkpoint_minutes=10, kernels=kernels)

    took = in_turns({"run": run, "bare": bare}, repeats=2)
    yield Row(
        what=f"a run of {steps} steps, mae vit_femto 28/4, batch {size}",
        ours=f"{steps * size / took['run']:,.0f} img/s",
        peer=f"its bare step {steps * size / took['bare']:,.0f}",
        ratio=took["bare"] / took["run"],
        note="aim 0.95, limit 1",
    )


# --- on a GPU ---------------------------------------------------------------------------------------------------


def peak_flops() -> float | None:
    """FLOP/s of this device in dense bf16; None where it is not known."""
    name = torch.cuda.get_device_name()
    return next((tera * 1e12 for key, tera in PEAK_TFLOPS.items() if key in name), None)


def utilisation(algorithm: str, model: str, batch: int, aim: float) -> Iterator[Row]:
    """Stated FLOPs of a step over its time, against the device's peak; halves the batch until it fits."""
    options = MaeOptions(decoder="paper") if algorithm == "mae" else DinoV2Options(local_size=96)
    what = f"training step, {algorithm} {model} 224/16"
    if not ON_GPU:
        yield Row(what=what, ours="", peer="", ratio=math.nan, note="not measured: no GPU here")
        return
    while True:
        spec = spec_of(algorithm, options, model, 224, 16, batch)
        try:
            yield from _utilisation(spec, what, aim)
            return
        except torch.OutOfMemoryError:
            batch //= 2
        torch.cuda.empty_cache()
        if not batch:
            yield Row(what=what, ours="", peer="", ratio=math.nan, note="not measured: not one image fits")
            return


def _utilisation(spec: RunSpec, what: str, aim: float) -> Iterator[Row]:
    torch.cuda.reset_peak_memory_stats()
    training, indices = training_of(spec), torch.arange(spec.batch_size)
    module: Any = training.module
    generator = torch.Generator(DEVICE)
    images = torch.from_numpy(random_images(spec.batch_size, spec.image_size)).to(DEVICE)

    def augment() -> None:
        if spec.algorithm == "mae":
            random_crop(normalise(images), spec.image_size, module.options.crop_scale, Draws(generator))
        else:
            module.crops(normalise(images), Draws(generator))

    def ten(do: Callable[[], None]) -> Callable[[], None]:
        return lambda: [do() for _ in range(10)] and None

    took = in_turns({"step": ten(lambda: training.step(indices)), "augment": ten(augment)})
    memory = torch.cuda.max_memory_allocated() / 2**30
    speed = 10 * spec.batch_size / took["step"]
    flops, peak = speed * cost_of(spec).flops_per_image, peak_flops()
    yield Row(
        what=f"{what}, batch {spec.batch_size}",
        ours=f"{speed:,.0f} img/s, {flops / 1e12:,.0f} TFLOP/s",
        peer=f"dense bf16 peak {peak / 1e12:,.0f}" if peak else "peak of this device not known",
        ratio=flops / peak if peak else math.nan,
        note=f"aim {aim}; {training.kernels}; peak memory {memory:.1f} GiB",
    )
    yield Row(
        what=f"augmentation's share of it, {spec.algorithm} {spec.model}",
        ours=f"{took['augment'] / took['step']:.1%}",
        peer="at most 10 %",
        ratio=0.1 * took["step"] / took["augment"],
    )
    for block in (*module.encoder.vit.blocks, *getattr(getattr(module, "decoder", None), "blocks", ())):
        block.compile()
    compiled = in_turns({"step": ten(lambda: training.step(indices))})["step"]
    yield Row(
        what=f"{what}, as it runs against blocks compiled by inductor",
        ours=f"{speed:,.0f} img/s",
        peer=f"compiled {10 * spec.batch_size / compiled:,.0f}",
        ratio=compiled / took["step"],
        note="below 1: compiling would pay",
    )


def _small_run(model: str, steps: int, ready: Any, done: Any) -> None:
    """One of several processes that share a GPU."""
    torch.set_num_threads(1)
    spec = spec_of("mae", MaeOptions(), model, 64, 8, BATCH)
    training, indices = training_of(spec), torch.arange(BATCH)
    for _ in range(10):
        training.step(indices)
    _settle()
    ready.wait()
    for _ in range(steps):
        training.step(indices)
    _settle()
    done.wait()


def _seconds_of_small_runs(model: str, count: int, steps: int) -> float:
    """From when all are ready to when all are done."""
    context = torch.multiprocessing.get_context("spawn")
    ready, done = context.Barrier(count + 1), context.Barrier(count + 1)
    processes = [context.Process(target=_small_run, args=(model, steps, ready, done)) for _ in range(count)]
    for process in processes:
        process.start()
    ready.wait(timeout=300)
    started = time.perf_counter()
    done.wait(timeout=300)
    took = time.perf_counter() - started
    for process in processes:
        process.join()
    return took


def packed(model: str, *, count: int = 4, steps: int = 100) -> Iterator[Row]:
    """Several small runs on a card at once against one after the other."""
    what = f"{count} runs on one card, mae {model} 64/8, batch {BATCH}"
    if not ON_GPU:
        yield Row(what=what, ours="", peer="", ratio=math.nan, note="not measured: no GPU here")
        return
    together, alone = _seconds_of_small_runs(model, count, steps), _seconds_of_small_runs(model, 1, steps)
    n = count * steps * BATCH
    yield Row(
        what=what,
        ours=f"{n / together:,.0f} img/s",
        peer=f"one after the other {n / (count * alone):,.0f}",
        ratio=count * alone / together,
        note="aim 2",
    )


def _of_cpu(benchmark: Benchmark, name: str) -> Benchmark:
    """Measured per core-second, so left out where a GPU computes."""

    def only() -> Iterator[Row]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lightly's and torchvision's own
            yield from () if ON_GPU else benchmark()

    only.__name__ = name
    return only


def _named(benchmark: Benchmark, name: str) -> Benchmark:
    benchmark.__name__ = name  # type: ignore[attr-defined]
    return benchmark


BENCHMARKS: tuple[Benchmark, ...] = (
    _of_cpu(lambda: mae_step(28, 4, "light"), "mae_step_28"),
    _of_cpu(lambda: mae_step(64, 8, "light"), "mae_step_64"),
    _of_cpu(lambda: mae_step(28, 4, "paper"), "mae_paper_28"),
    _of_cpu(lambda: mae_step(64, 8, "paper"), "mae_paper_64"),
    _of_cpu(lambda: dinov2_step(28, 4), "dinov2_step_28"),
    _of_cpu(lambda: dinov2_step(64, 8), "dinov2_step_64"),
    _of_cpu(lambda: views(64), "views"),
    run_against_step,
    _named(lambda: utilisation("mae", "vit_b", 512, 0.4), "gpu_mae_b"),
    _named(lambda: utilisation("mae", "vit_l", 256, 0.4), "gpu_mae_l"),
    _named(lambda: utilisation("dinov2", "vit_b", 128, 0.35), "gpu_dinov2_b"),
    _named(lambda: utilisation("dinov2", "vit_l", 64, 0.35), "gpu_dinov2_l"),
    _named(lambda: packed("vit_ti"), "gpu_packed_ti"),
    _named(lambda: packed("vit_s"), "gpu_packed_s"),
)
