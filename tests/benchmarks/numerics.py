"""How fast it computes: encoder, training step, data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

from scaling.catalog import ALGORITHMS, MODELS
from scaling.data.phantoms import Phantoms
from scaling.data.views import normalise
from scaling.kernels import by_rule
from scaling.models.shape import Shape
from scaling.models.vit import Encoder, use_fused_attention
from scaling.options import DinoV2Options, LearningRate, MaeOptions, Recipe
from scaling.parallel import Draws
from scaling.source_options import PhantomsOptions
from tests.benchmarks.rows import Benchmark, Row, compare


def shape(model: str, image_size: int = 28, patch_size: int = 4, channels: int = 3) -> Shape:
    size = MODELS[model]
    return Shape(
        width=size.width,
        depth=size.depth,
        heads=size.heads,
        image_size=image_size,
        patch_size=patch_size,
        channels=channels,
    )


def measured(ours: Callable[[], Any], peer: Callable[[], Any], *, repeats: int = 5) -> tuple[float, float]:
    return compare(
        ours, peer, repeats=repeats, settle=torch.cuda.synchronize if DEVICE.type == "cuda" else lambda: None
    )


DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BATCH = 64


def images(n: int, of: Shape) -> torch.Tensor:
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 256, (n, of.channels, of.image_size, of.image_size), dtype=np.uint8)
    return torch.from_numpy(drawn).to(DEVICE)


def encoder_against_timm() -> Iterator[Row]:
    """Forward pass of our encoder (patches by a matrix product) against timm's (patches by a convolution)."""
    of = shape("vit_nano")
    use_fused_attention(True)
    ours = Encoder(of).to(DEVICE).eval()
    peer = VisionTransformer(
        img_size=28, patch_size=4, num_classes=0, embed_dim=of.width, depth=of.depth, num_heads=of.heads, global_pool=""
    )
    peer = peer.to(DEVICE).eval()
    batch = normalise(images(256, of))
    with torch.inference_mode():
        a, b = measured(lambda: ours(batch), lambda: peer(batch))
    yield Row(
        what="encoder forward, vit_nano 28/4", ours=f"{256 / a:,.0f} img/s", peer=f"timm {256 / b:,.0f}", ratio=b / a
    )


def loop_against_step(name: str, options: Recipe) -> Iterator[Row]:
    """A step of the training loop against forward and backward of its loss on a batch that is already there."""
    from scaling.grid import RunSpec
    from scaling.train import Training, build

    of = shape("vit_femto")
    spec = RunSpec(
        model="vit_femto",
        algorithm=name,
        mixture="all",
        n_images=2048,
        seed=0,
        **vars(of),
        options=options,
        images_seen=64_000,
        batch_size=BATCH,
        precision="fp32",
        data_identity="benchmark",
    )
    pool, kernels = images(2048, of), by_rule("fp32", DEVICE)
    training = Training(spec, options, build(spec, DEVICE, kernels), pool.cpu().numpy(), DEVICE, kernels)
    indices, batch = torch.arange(BATCH), pool[:BATCH]

    def bare() -> None:
        generator = torch.Generator(DEVICE).manual_seed(0)
        loss, _ = training.module.loss(batch, progress=0.5, draws=Draws(generator))  # type: ignore[operator]
        loss.backward()
        training.optimizer.zero_grad(set_to_none=True)

    def ten(step: Callable[[], None]) -> Callable[[], None]:
        return lambda: [step() for _ in range(10)] and None

    a, b = measured(ten(lambda: training.step(indices)), ten(bare))
    yield Row(
        what=f"training step, {name} vit_femto 28/4",
        ours=f"{10 * BATCH / a:,.0f} img/s",
        peer=f"forward and backward alone {10 * BATCH / b:,.0f}",
        ratio=b / a,
        note="limit 1",
    )


def mae_gathers_before_projecting() -> Iterator[Row]:
    """The encoder on a quarter of the patches against all of them: what masking saves."""
    of = shape("vit_nano")
    encoder = Encoder(of).to(DEVICE)
    batch = normalise(images(256, of))
    kept = torch.rand(256, of.n_patches, device=DEVICE).argsort(dim=1)[:, : of.n_patches // 4]

    def step(**more: torch.Tensor) -> None:
        encoder(batch, **more).mean().backward()

    a, b = measured(lambda: step(kept_BK=kept), step)
    yield Row(
        what="encoder step on 12 of 49 patches",
        ours=f"{256 / a:,.0f} img/s",
        peer=f"on all 49: {256 / b:,.0f}",
        ratio=b / a,
        note="limit about 4",
    )


def images_against_training() -> Iterator[Row]:
    """Drawing phantoms against training on them with the smallest model: data must not be the bottleneck."""
    source = Phantoms(PhantomsOptions(source="phantoms", pool_size=20_000))
    source.pool()
    of = shape("vit_atto", image_size=32, channels=1)
    module = ALGORITHMS["mae"].load()(of, MaeOptions()).to(DEVICE)
    batch = images(BATCH, of)

    def train() -> None:
        for _ in range(16):
            module.loss(batch, progress=0.5, generator=torch.Generator(DEVICE).manual_seed(0))[0].backward()

    a, b = measured(lambda: source.read(np.arange(1024)), train, repeats=3)
    yield Row(
        what="phantoms drawn, 32 px",
        ours=f"{1024 / a:,.0f} img/s",
        peer=f"trained on by MAE vit_atto {1024 / b:,.0f}",
        ratio=b / a,
        note="drawn once, seen many times",
    )


DINOV2 = DinoV2Options(
    lr=LearningRate(base=3e-3, rule="constant"),
    prototypes=512,
    head_hidden=256,
    head_bottleneck=64,
    global_size=20,
    n_local=2,
    local_size=12,
)
BENCHMARKS: tuple[Benchmark, ...] = (
    encoder_against_timm,
    lambda: loop_against_step("mae", MaeOptions()),
    lambda: loop_against_step("dinov2", DINOV2),
    mae_gathers_before_projecting,
    images_against_training,
)
