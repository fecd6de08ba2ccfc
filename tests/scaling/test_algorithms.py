"""The contract of every algorithm in the catalog, then what is particular to MAE and to DINOv2, by hand."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from timm.layers import Attention as TimmAttention
from torch import Generator, Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from scaling.algorithms import centring, closed_forms, dinov2, mae, supervised
from scaling.algorithms.algorithm import Coupled, Labelled
from scaling.algorithms.dinov2 import DINOv2, Masks
from scaling.algorithms.mae import MAE
from scaling.algorithms.supervised import Supervised
from scaling.catalog import ALGORITHMS
from scaling.data.views import normalise
from scaling.models.attention import Attention
from scaling.models.shape import Shape, n_params
from scaling.models.vit import DropPath, Encoder, patchify, use_fused_attention
from scaling.optim import adamw
from scaling.options import DinoOptions, DinoV2Options, IbotOptions, MaeOptions
from scaling.parallel import Draws, Part
from scaling.records import BASELINES

TRAINED = [name for name in ALGORITHMS if name not in BASELINES]
SMALL_HEAD = {"prototypes": 16, "head_hidden": 16, "head_bottleneck": 8, "n_local": 2, "drop_path": 0.0}
SMALLER: dict[str, dict[str, Any]] = {
    "dinov2": SMALL_HEAD,
    "dino": SMALL_HEAD,
    "ibot": SMALL_HEAD,
    "supervised": {
        "drop_path": 0.0,
        "labels": {
            "identity": "0" * 64,
            "heads": (
                {"task": "grade", "kind": "ordinal", "n_classes": 4},
                {"task": "signs", "kind": "multi-label", "n_classes": 3},
                {"task": "lesion", "kind": "binary", "n_classes": 2},
            ),
        },
    },
    "simclr": {"projector_hidden": 16, "projector_width": 8},
    "mocov3": {"head_hidden": 16, "head_width": 8},
    "lejepa": {"projector_hidden": 16, "projector_width": 8, "n_slices": 32, "n_local": 2, "drop_path": 0.0},
}
"""Per algorithm, what has to be smaller than its default to be quick or, drop-path, to be the same twice, and what a
plan would fill in; a new algorithm works without a line here."""
SEPARATE = {"prototypes": 24, "hidden": 12, "bottleneck": 4}
SWITCHED: list[dict[str, Any]] = [
    {"koleo_weight": 0.0},
    {"ibot_weight": 0.0},
    {"dino_weight": 0.0, "koleo_weight": 0.0},
    {"dino_weight": 0.0, "centering": "sinkhorn"},
    {"ibot_weight": 0.0, "koleo_weight": 0.0, "centering": "sinkhorn"},
    {"ibot_head": SEPARATE},
    {"ibot_head": SEPARATE, "centering": "sinkhorn"},
    {"layer_scale": 0.5},
]
"""Ways to leave terms of DINOv2 out, heads of their own for those that stay, and blocks whose outputs are scaled."""
IN_PARTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in TRAINED),
    ("dinov2", {"centering": "sinkhorn", "koleo_weight": 1.0}),
    *(("dinov2", options) for options in SWITCHED),
    ("supervised", {"pool": "cls", "label_smoothing": 0.0}),
]
"""Algorithms and options whose losses in parts are compared with those of the whole batch."""
TINY = Shape(width=32, depth=2, heads=2, image_size=16, patch_size=4, channels=1)


@pytest.fixture(autouse=True)
def _plain_attention() -> Iterator[None]:
    """FLOPs of the plain kernel can be counted, and its bits do not depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    use_fused_attention(False)
    yield
    use_fused_attention(True)
    torch.set_num_threads(threads)


LABELS = torch.tensor(
    [[0, 3, 0, 0], [-1, 0, 0, 0], [1, 1, 0, 1], [2, 1, 0, 0], [1, 0, 0, 1], [-1, 0, 0, 0], [-1, 0, 0, 0], [2, 0, 0, 0]]
)
"""Of 8 images: task, then its class or its labels; three have none."""


def build(name: str, shape: Shape = TINY, **options: Any) -> Any:
    entry = ALGORITHMS[name]
    torch.manual_seed(0)
    module = entry.load()(shape, entry.options(**{**SMALLER.get(name, {}), **options}))
    if isinstance(module, Labelled):
        module.tell(LABELS)
    return module


def images_of(shape: Shape, n: int = 8) -> Tensor:
    size = (n, shape.channels, shape.image_size, shape.image_size)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator(1))


def generator(seed: int) -> Generator:
    return torch.Generator().manual_seed(seed)


def draws(seed: int, part: Part | None = None) -> Draws:
    return Draws(generator(seed), part)


def loss_of(module: Any, images: Tensor, *, progress: float = 0.5, seed: int = 2) -> Tensor:
    loss: Tensor = module.loss(images, progress=progress, draws=draws(seed))[0]
    return loss


def with_channels(channels: int) -> Shape:
    return Shape(width=32, depth=2, heads=2, image_size=16, patch_size=4, channels=channels)


# --- the contract -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", TRAINED)
def test_the_loss_is_finite_and_falls_on_a_batch_seen_again_and_again(name: str, channels: int) -> None:
    shape = with_channels(channels)
    module, images = build(name, shape), images_of(shape)
    optimizer = adamw(module, module.options, lr=1e-3, device=torch.device("cpu"))
    losses = []
    for _ in range(20):
        loss = loss_of(module, images)  # the same crops and masks every time, and a teacher that stands still
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < losses[0]


@pytest.mark.parametrize(("name", "options"), IN_PARTS, ids=str)
def test_gradients_reach_every_trainable_parameter(name: str, options: dict[str, Any]) -> None:
    module = build(name, **options)
    loss_of(module, images_of(TINY)).backward()
    without = [n for n, p in module.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []


@pytest.mark.parametrize("name", TRAINED)
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    first, second = build(name), build(name)
    images = images_of(TINY)
    losses = [loss_of(module, images) for module in (first, second)]
    for loss in losses:
        loss.backward()
    assert torch.equal(losses[0], losses[1])
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
        if one.requires_grad:
            assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize("name", TRAINED)
def test_the_loss_in_bf16_is_about_that_in_fp32(name: str) -> None:
    module, images = build(name), images_of(TINY)
    exact = loss_of(module, images)
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(module, images)
    loss.backward()
    assert loss.item() == pytest.approx(exact.item(), rel=0.05)  # bf16 has 8 bits: 0.4 % a product, averaged over many


@pytest.mark.parametrize("name", TRAINED)
def test_another_seed_of_the_step_gives_another_loss(name: str) -> None:
    module, images = build(name), images_of(TINY)
    assert not torch.equal(loss_of(module, images, seed=2), loss_of(module, images, seed=3))


def parts_of(images: Tensor, count: int) -> Iterator[tuple[Tensor, Draws]]:
    for part in (Part.of(len(images), i, count) for i in range(count)):
        yield images[part.start : part.stop], draws(2, part)


def differentiate_in_parts(module: Any, images: Tensor, count: int, precision: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and terms of the batch; their gradients are the module's."""
    sums: dict[str, Tensor] = {}
    if isinstance(module, Coupled):
        with in_precision(precision):
            module.look_ahead(parts_of(images, count), progress=0.5)
    for some, its in parts_of(images, count):
        with in_precision(precision):
            loss, terms = module.loss(some, progress=0.5, draws=its)
        (loss * its.share).backward()
        for name, value in {"loss": loss.detach(), **terms}.items():
            sums[name] = sums.get(name, torch.zeros(())) + value * its.share
    return sums.pop("loss"), sums


def in_precision(precision: str) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("name", "options"), IN_PARTS, ids=str)
def test_a_batch_in_parts_has_the_loss_and_gradients_of_the_whole(
    name: str, options: dict[str, Any], precision: str
) -> None:
    whole, parted, images = build(name, **options), build(name, **options), images_of(TINY)
    with in_precision(precision):
        expected, expected_terms = whole.loss(images, progress=0.5, draws=draws(2))
    expected.backward()
    whole.after_step(0.5)
    loss, terms = differentiate_in_parts(parted, images, 3, precision)  # uneven ones: 3, 2 and 3
    parted.after_step(0.5)
    # fp32 sums of some thousand terms in another order: relative errors of 1e-6, of gradients against their largest.
    # In bf16 each image's loss is the same but for a bit flipped here and there, 2^-8 of a value, averaged over many.
    # Each layer rounds the gradients of parts and whole by 2^-9; a dozen of them make that 2^-7, the worst of
    # thousands three times as much. Parts that knew nothing of each other would be off by 2^-3.4 and more.
    # Where batch norm removes what images have in common, bf16 itself is further off, and that is then the yardstick.
    # What has no gradient at all but rounding, as an offset before a batch norm, is held to the largest of all.
    of_loss, of_gradient, of_all = {"fp32": (1e-5, 1e-4, 2**-22), "bf16": (1e-3, 2**-5, 2**-12)}[precision]
    exact = build(name, **options)
    loss_of(exact, images).backward()
    floor = of_all * max(p.grad.abs().max().item() for p in exact.parameters() if p.grad is not None)
    torch.testing.assert_close(loss, expected.detach(), rtol=of_loss, atol=0)
    torch.testing.assert_close(terms, expected_terms, rtol=of_loss, atol=0)
    everyones = zip(whole.named_parameters(), parted.parameters(), exact.parameters(), strict=True)
    for (label, one), other, true in everyones:
        if one.requires_grad:
            assert one.grad is not None
            assert true.grad is not None
            largest, rounded = one.grad.abs().max().item(), (one.grad - true.grad).abs().max().item()
            atol = max(of_gradient * largest, 2 * rounded, floor)  # either may be off by that
            torch.testing.assert_close(other.grad, one.grad, rtol=0, atol=atol, msg=label)
    for (label, one), other in zip(whole.named_buffers(), parted.buffers(), strict=True):
        torch.testing.assert_close(other, one, rtol=10 * of_loss, atol=of_loss / 10, msg=label)


@pytest.mark.parametrize("name", TRAINED)
def test_the_batch_handed_in_is_left_as_it_was(name: str) -> None:
    images = images_of(TINY)
    before = images.clone()
    loss_of(build(name), images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("name", "options"), IN_PARTS, ids=str)
def test_the_stated_flops_are_those_that_torch_counts(name: str, options: dict[str, Any], channels: int) -> None:
    # The closed form leaves out augmentation, centring, KoLeo's similarities and what MAE computes once a batch, and
    # counts a backward through the patch projection to the images that never happens; together below 1 % here.
    shape = Shape(width=64, depth=4, heads=2, image_size=32, patch_size=4, channels=channels)
    module, images = build(name, shape, **options), images_of(shape)
    with FlopCounterMode(display=False) as counter:
        loss_of(module, images).backward()
    stated = ALGORITHMS[name].load_cost()(shape, module.options).flops_per_image
    assert counter.get_total_flops() / len(images) == pytest.approx(stated, rel=0.01)


@pytest.mark.parametrize(("name", "options"), [*IN_PARTS, *((name, {}) for name in BASELINES)], ids=str)
def test_the_stated_parameters_are_those_that_torch_counts(name: str, options: dict[str, Any]) -> None:
    entry = ALGORITHMS[name]
    module = build(name, **options)
    cost = entry.load_cost()(TINY, entry.options(**{**SMALLER.get(name, {}), **options}))
    assert sum(cost.n_params.values()) == sum(p.numel() for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", TRAINED)
def test_the_stated_encoder_is_the_one_whose_features_are_read(name: str) -> None:
    module = build(name)
    stated = ALGORITHMS[name].load_cost()(TINY, module.options).n_params
    assert next(iter(stated)) == "encoder"
    assert stated["encoder"] == n_params(TINY)
    frozen = module.probed.vit.pos_embed.numel()
    assert sum(p.numel() for p in module.probed.parameters()) - frozen == stated["encoder"]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_features_do_not_depend_on_the_other_images_of_the_batch(name: str) -> None:
    probed = build(name).eval().probed
    images = normalise(images_of(TINY))
    with torch.inference_mode():
        together = probed(images)
        alone = torch.cat([probed(image[None]) for image in images])
    # Other block sizes in the matrix product: fp32 sums of some hundred terms in another order.
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_has_no_loss(name: str) -> None:
    with pytest.raises(RuntimeError, match="a baseline has no steps"):
        build(name).loss(images_of(TINY), progress=0.0, draws=draws(0))


def test_the_pixels_are_the_image_itself() -> None:
    images = normalise(images_of(TINY))
    tokens = build("pixels").probed(images)
    assert tokens.shape == (8, 1, 256)
    assert torch.equal(tokens[:, 0].sort().values, images.flatten(1).sort().values)


# --- MAE --------------------------------------------------------------------------------------------------------


class Fixed(nn.Module):
    """Stands in for the decoder: predicts zeros and remembers what it was asked."""

    def __init__(self, patch_values: int) -> None:
        super().__init__()
        self.patch_values = patch_values

    def forward(self, tokens: Tensor, kept: Tensor, masked: Tensor) -> Tensor:
        self.kept, self.masked = kept, masked
        return torch.zeros(*masked.shape, self.patch_values)


@pytest.fixture
def uncropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without augmentation, so that a loss can be computed by hand from the images."""
    monkeypatch.setattr(mae, "random_crop", lambda images, size, scale, draws: images)


def zeros_predicted(**options: Any) -> tuple[MAE, Fixed]:
    module = build("mae", **options)
    fixed = Fixed(TINY.patch_values)
    module.decoder = fixed
    return module, fixed


def predicted(module: MAE, images: Tensor, kept: Tensor, masked: Tensor) -> Tensor:
    with torch.no_grad():
        values: Tensor = module.decoder(module.encoder(images, kept_BK=kept), kept, masked)
    return values


@pytest.mark.parametrize(("side", "kept"), [(16, 4), (28, 12), (32, 16), (224, 784)])
def test_mae_keeps_a_quarter_of_the_patches(side: int, kept: int) -> None:
    shape = Shape(width=32, depth=2, heads=2, image_size=side, patch_size=4, channels=1)
    assert closed_forms.n_kept(shape, MaeOptions()) == kept


def test_mae_may_start_with_the_weights_of_its_reference() -> None:
    """Uniform within Glorot's bound, sqrt(6 / (in + out)); lightly's MAE starts so too. timm's has no such bound."""
    shape = Shape(image_size=32, channels=1, patch_size=4, width=192, depth=2, heads=3)
    for first_weights in ("timm", "xavier"):
        encoder = build("mae", shape, first_weights=first_weights).encoder
        for layer in (m for block in encoder.vit.blocks for m in block.modules() if isinstance(m, nn.Linear)):
            reached = layer.weight.abs().max().item() / math.sqrt(6 / sum(layer.weight.shape))
            assert (0.99 < reached <= 1) == (first_weights == "xavier")
            assert not layer.bias.any()
        assert (encoder.vit.cls_token.std().item() > 0.01) == (first_weights == "xavier")


def test_mae_keeps_at_least_one_patch() -> None:
    assert closed_forms.n_kept(TINY, MaeOptions(mask_ratio=0.99)) == 1


@pytest.mark.usefixtures("uncropped")
def test_mae_partitions_the_patches_of_each_image_on_its_own() -> None:
    module, fixed = zeros_predicted()
    loss_of(module, images_of(TINY))
    assert fixed.kept.shape == (8, 4)
    assert fixed.masked.shape == (8, 12)
    both = torch.cat([fixed.kept, fixed.masked], dim=1).sort(dim=1).values
    assert torch.equal(both, torch.arange(16).expand(8, -1))
    assert len({tuple(sorted(row.tolist())) for row in fixed.kept}) > 1


@pytest.mark.usefixtures("uncropped")
@pytest.mark.parametrize("norm_pixels", [True, False])
def test_maes_loss_is_the_squared_error_of_masked_patches_in_their_own_units(norm_pixels: bool) -> None:
    module, fixed = zeros_predicted(norm_pixels=norm_pixels)
    images = images_of(TINY)
    loss = loss_of(module, images)
    values = (images.numpy().astype(np.float64) / 255 - 0.5) / 0.25
    expected = []
    for image, masked in zip(values, fixed.masked.tolist(), strict=True):
        for patch in masked:
            row, column = divmod(patch, 4)
            pixels = image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].ravel()
            if norm_pixels:  # MAE's models_mae.py: unbiased variance, 1e-6 under the root
                pixels = (pixels - pixels.mean()) / np.sqrt(pixels.var(ddof=1) + 1e-6)
            expected.append(np.mean(pixels**2))
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-5)  # fp32 against fp64


@pytest.mark.usefixtures("uncropped")
def test_maes_loss_has_no_term_for_visible_patches() -> None:
    module, fixed = zeros_predicted()
    images = images_of(TINY)
    before = loss_of(module, images)
    other = images.clone()
    for image, kept in zip(other, fixed.kept.tolist(), strict=True):
        for patch in kept:
            row, column = divmod(patch, 4)
            image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 255
    assert not torch.equal(other, images)
    assert torch.equal(loss_of(module, other), before)


@pytest.mark.parametrize("fused", [True, False])
def test_the_decoders_last_block_on_masked_patches_alone_is_the_block_on_all(fused: bool) -> None:
    use_fused_attention(fused)
    decoder = build("mae").decoder
    tokens = torch.randn(8, 17, 32, generator=generator(3))
    whole, tail = tokens.clone().requires_grad_(), tokens.clone().requires_grad_()
    block = decoder.blocks[-1]
    expected, found = block(whole)[:, -12:], block(tail, 12)
    torch.testing.assert_close(found, expected)
    for out in (expected, found):
        out.square().sum().backward()
    torch.testing.assert_close(tail.grad, whole.grad, rtol=1e-4, atol=1e-4)  # fp32 sums in another order


def test_a_block_on_its_last_tokens_alone_scales_what_it_adds() -> None:
    block = Encoder(TINY, layer_scale=0.5).vit.blocks[0]
    tokens = torch.randn(8, 17, 32, generator=generator(3))
    torch.testing.assert_close(block(tokens, 12), block(tokens)[:, -12:])


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("fused", [True, False])
def test_the_decoder_is_its_blocks_on_all_tokens_of_each_image(fused: bool, depth: int, once: bool) -> None:
    use_fused_attention(fused)
    decoder = mae.Decoder(TINY, 16, depth, 2, masked_once=once)
    seen = torch.randn(8, 5, 32, generator=generator(3), requires_grad=True)
    order = torch.rand(8, 16, generator=generator(4)).argsort(dim=1)
    kept, masked = order[:, :4], order[:, 4:]
    inputs = [seen, *decoder.parameters()]
    patches = torch.cat([decoder.embed(seen)[:, 1:], decoder.mask_token.expand(8, 12, -1)], dim=1)
    first, positions = decoder.positions[0, :1], decoder.positions[0, 1:][order]
    tokens = decoder.blocks(torch.cat([decoder.embed(seen)[:, :1] + first, patches + positions], dim=1))
    expected, found = decoder.predict(decoder.norm(tokens))[:, -12:], decoder(seen, kept, masked)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    wanted, got = (torch.autograd.grad(out.square().sum(), inputs) for out in (expected, found))
    for theirs, ours in zip(wanted, got, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)  # fp32 sums of some hundred terms, other orders


@pytest.mark.parametrize("asking", [None, 3])
def test_plain_attention_is_timms_and_so_is_its_gradient(asking: int | None) -> None:
    use_fused_attention(False)
    ours, theirs = Attention(24, 2, qkv_bias=True).double(), TimmAttention(24, 2, qkv_bias=True).double()
    theirs.load_state_dict(ours.state_dict())
    tokens = torch.randn(3, 5, 24, generator=generator(3), dtype=torch.float64, requires_grad=True)
    found, expected = ours.attend(ours.qkv(tokens), asking), theirs(tokens)[:, -(asking or 5) :]
    torch.testing.assert_close(found, expected)
    wanted, got = (
        torch.autograd.grad(out.pow(3).sum(), [tokens, *layer.parameters()])
        for out, layer in ((expected, theirs), (found, ours))
    )
    for one, other in zip(wanted, got, strict=True):
        torch.testing.assert_close(other, one)


def test_mae_predicts_without_having_seen_the_masked_patches() -> None:
    module, images = build("mae"), normalise(images_of(TINY))
    order = torch.rand(8, 16, generator=generator(3)).argsort(dim=1)
    kept, masked = order[:, :4], order[:, 4:]
    hidden = torch.zeros(8, 16, dtype=torch.bool).scatter(1, masked, True)
    grid = hidden.reshape(8, 1, 4, 1, 4, 1).expand(-1, -1, -1, 4, -1, 4).reshape(8, 1, 16, 16)
    other = torch.where(grid, torch.randn(images.shape, generator=generator(4)), images)
    assert not torch.equal(patchify(other, 4), patchify(images, 4))
    assert torch.equal(predicted(module, images, kept, masked), predicted(module, other, kept, masked))


def test_maes_prediction_follows_the_order_of_the_masked_patches() -> None:
    module, images = build("mae"), normalise(images_of(TINY))
    order = torch.arange(16).expand(8, -1)
    backwards = order[:, 4:].flip(1)
    forward = predicted(module, images, order[:, :4], order[:, 4:])
    flipped = predicted(module, images, order[:, :4], backwards)
    torch.testing.assert_close(flipped.flip(1), forward, rtol=1e-4, atol=1e-5)


# --- supervised -------------------------------------------------------------------------------------------------


@pytest.fixture
def uncut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Supervised images as they are, so that a loss can be computed by hand."""
    monkeypatch.setattr(supervised, "random_crop", lambda images, size, scale, draws: images)
    monkeypatch.setattr(supervised, "jitter", lambda images, draws: images)


def logits_by_hand(module: Supervised, images: Tensor) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        tokens = module.encoder(normalise(images))
        return module.head(torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1)).double().numpy()


def log_softmax(row: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return row - np.log(np.exp(row).sum())


@pytest.mark.usefixtures("uncut")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_supervised_loss_is_the_mean_cross_entropy_of_the_images_with_a_label(smoothing: float) -> None:
    module: Supervised = build("supervised", label_smoothing=smoothing)
    images = images_of(TINY)
    logits = logits_by_hand(module, images)

    def of_class(row: np.ndarray[Any, Any], label: int) -> float:
        logs = log_softmax(row)
        return float(-(1 - smoothing) * logs[label] - smoothing * logs.mean())

    def of_signs(row: np.ndarray[Any, Any], wanted: list[int]) -> float:
        p = 1 / (1 + np.exp(-row))
        return float(-np.mean([np.log(q) if w else np.log(1 - q) for q, w in zip(p, wanted, strict=True)]))

    expected = [
        of_class(logits[0, :4], 3),
        of_signs(logits[2, 4:7], [1, 0, 1]),
        of_class(logits[3, 7:], 1),
        of_signs(logits[4, 4:7], [0, 0, 1]),
        of_class(logits[7, 7:], 0),
    ]
    loss, terms = module.loss(images, progress=0.5, draws=draws(2))
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-5)  # fp32 against fp64
    assert terms["labelled"].item() == 5 / 8


def test_images_without_a_label_teach_nothing() -> None:
    module: Supervised = build("supervised")
    images = images_of(TINY)
    before = loss_of(module, images)
    images[LABELS[:, 0] < 0] = 0
    assert torch.equal(loss_of(module, images), before)


def test_a_batch_without_any_label_has_no_loss_and_no_gradient() -> None:
    module: Supervised = build("supervised")
    module.tell(torch.full_like(LABELS, -1))
    loss = loss_of(module, images_of(TINY))
    loss.backward()
    assert loss.item() == 0
    assert not any(p.grad.any() for p in module.parameters() if p.grad is not None)


@pytest.mark.parametrize(("pool", "width"), [("cls", 32), ("mean", 32), ("both", 64)])
def test_the_heads_read_what_the_probes_read(pool: str, width: int) -> None:
    module: Supervised = build("supervised", pool=pool)
    assert module.head.weight.shape == (4 + 3 + 2, width)


def test_supervised_without_labels_says_where_they_come_from() -> None:
    with pytest.raises(ValueError, match="a plan fills in `labels` from the source's tasks"):
        build("supervised", labels=None)


# --- DINOv2 -----------------------------------------------------------------------------------------------------


def test_the_teacher_starts_as_the_student_and_gets_no_gradient() -> None:
    module: DINOv2 = build("dinov2")
    for part, student in (("encoder", module.encoder), ("head", module.head)):
        for mine, theirs in zip(module.teacher[part].parameters(), student.parameters(), strict=True):
            assert torch.equal(mine, theirs)
            assert mine.data_ptr() != theirs.data_ptr()
    loss_of(module, images_of(TINY)).backward()
    assert all(p.grad is None and not p.requires_grad for p in module.teacher.parameters())


def test_the_teacher_scales_its_blocks_as_the_student_and_drops_none() -> None:
    module = build("dinov2", layer_scale=0.25, drop_path=0.5, drop_path_rule="uniform")
    scales = [gamma for name, gamma in module.teacher.named_parameters() if name.endswith("gamma")]
    assert len(scales) == 4
    assert all((gamma == 0.25).all() for gamma in scales)
    assert not [m for m in module.teacher.modules() if isinstance(m, DropPath)]


@pytest.mark.parametrize(("rule", "rates"), [("linear", [0.2, 0.2, 0.4, 0.4]), ("uniform", [0.4] * 6)])
def test_blocks_are_dropped_evenly_or_the_later_the_more(rule: str, rates: list[float]) -> None:
    shape = Shape(width=32, depth=3, heads=2, image_size=16, patch_size=4, channels=1)
    encoder = build("dinov2", shape, drop_path=0.4, drop_path_rule=rule).encoder
    assert [m.rate for m in encoder.modules() if isinstance(m, DropPath)] == pytest.approx(rates)


@pytest.mark.parametrize(("warmup", "expected"), [(0.3, 0.05), (0.1, 0.07), (0.0, 0.07)])
def test_the_teachers_temperature_rises_over_its_warm_up(warmup: float, expected: float) -> None:
    module = build("dinov2", teacher_temp=(0.04, 0.07), teacher_temp_warmup=warmup)
    assert module.temperature(0.1) == pytest.approx(expected)


@pytest.mark.parametrize(("progress", "momentum"), [(0.0, 0.992), (0.5, 0.996), (1.0, 1.0)])
def test_the_teacher_moves_towards_the_student_by_one_minus_the_momentum(progress: float, momentum: float) -> None:
    module: DINOv2 = build("dinov2")
    before = {name: p.clone() for name, p in module.teacher["encoder"].named_parameters()}
    with torch.no_grad():
        for p in module.encoder.parameters():
            p.add_(torch.randn(p.shape, generator=generator(5)))
    module.after_step(progress)
    for name, student in module.encoder.named_parameters():
        expected = momentum * before[name] + (1 - momentum) * student
        torch.testing.assert_close(dict(module.teacher["encoder"].named_parameters())[name], expected)


def three_masked() -> Masks:
    """The first patches of the first of eight crops."""
    masked_GN = torch.zeros(8, 16, dtype=torch.bool)
    masked_GN[0, :3] = True
    return Masks(patches_GN=masked_GN, at_M=torch.arange(3), weight_M=torch.full((3,), 1 / 3), n_all=3)


@pytest.mark.parametrize(("progress", "temperature"), [(0.0, 0.04), (0.15, 0.055), (0.3, 0.07), (1.0, 0.07)])
def test_mean_centring_subtracts_the_centre_sharpens_and_then_moves_the_centre(
    progress: float, temperature: float
) -> None:
    module: DINOv2 = build("dinov2")
    crops = normalise(images_of(TINY))
    centre = torch.randn(1, 16, generator=generator(6)) * 0.1
    of_class, of_patches = module.centring["dino"], module.centring["ibot"]
    of_class.mean.copy_(centre)
    tokens = module.teacher["encoder"](crops)
    logits, patches = module.teacher["head"](tokens[:, 0]), module.teacher["head"](tokens[0, 1:4])
    targets, _ = module.targets(crops, three_masked(), progress, draws(0))
    # fp32 logits of size 1 over temperatures of 0.04: errors of 1e-7 x 25, some ten of them.
    expected = {
        "dino": ((logits - centre) / temperature).softmax(dim=1),
        "ibot": (patches / temperature).softmax(dim=1),
    }
    torch.testing.assert_close(targets, expected, rtol=1e-3, atol=1e-5)
    assert torch.equal(of_class.mean, centre)  # still: other parts of the batch are centred by it too
    module.after_step(progress)
    torch.testing.assert_close(of_class.mean, 0.9 * centre + 0.1 * logits.mean(dim=0, keepdim=True))
    torch.testing.assert_close(of_patches.mean, 0.1 * patches.mean(dim=0, keepdim=True))


def test_sinkhorn_divides_by_columns_then_by_rows() -> None:
    once = centring.sinkhorn(torch.tensor([[1.0, 2.0], [3.0, 4.0]]).log(), iterations=1)
    # columns: [[1/4, 1/3], [3/4, 2/3]]; rows sum to 7/12 and 17/12
    torch.testing.assert_close(once, torch.tensor([[3 / 7, 4 / 7], [9 / 17, 8 / 17]]))


def test_sinkhorn_ends_with_rows_of_one_and_columns_that_share_the_batch() -> None:
    q = centring.sinkhorn(torch.randn(12, 4, generator=generator(7)), iterations=100)
    torch.testing.assert_close(q.sum(dim=1), torch.ones(12))
    torch.testing.assert_close(q.sum(dim=0), torch.full((4,), 3.0))


def test_sinkhorn_of_nothing_is_nothing() -> None:
    assert centring.sinkhorn(torch.empty(0, 4)).shape == (0, 4)


def test_sinkhorns_columns_give_its_rows_part_by_part() -> None:
    logits = torch.randn(12, 4, generator=generator(7)) * 10
    parts = logits[:5], logits[5:5], logits[5:]  # one has no rows, as a part without masked patches
    columns = centring.sinkhorn_columns(lambda: parts)
    # Exponents of up to 40 in fp32: 40 x 6e-8, some ten of them.
    for part, expected in zip(parts, centring.sinkhorn(logits).split([5, 0, 7]), strict=True):
        torch.testing.assert_close((part + columns).softmax(dim=1), expected, rtol=3e-5, atol=1e-7)


@pytest.mark.parametrize("options", [{}, {"centering": "sinkhorn"}, {"koleo_weight": 0.0}], ids=str)
def test_looking_ahead_keeps_class_tokens_and_columns_until_the_step_ends(options: dict[str, Any]) -> None:
    module: DINOv2 = build("dinov2", **options)
    passes: list[bool] = []
    for encoder in (module.encoder, module.teacher["encoder"]):
        encoder.register_forward_hook(lambda layer, inputs, output: passes.append(output.requires_grad))
    module.look_ahead(parts_of(images_of(TINY), 3), progress=0.5)
    koleo, sinkhorn = options.get("koleo_weight", 0.1) > 0, options.get("centering") == "sinkhorn"
    assert passes == [False] * 3 * (koleo + sinkhorn)  # no activations are kept for a backward pass
    columns = [centring.columns for centring in module.centring.values() if centring.columns is not None]
    kept = [*(module.koleo_ahead or ()), *columns]
    sizes = [4 * values for values in [1, 16 * TINY.width] * koleo + [16, 16] * sinkhorn]  # 16 crops, 16 prototypes
    assert [tensor.untyped_storage().nbytes() for tensor in kept] == sizes
    assert not any(tensor.requires_grad for tensor in kept)
    module.after_step(0.5)
    assert [module.koleo_ahead, *(centring.columns for centring in module.centring.values())] == [None] * 3


def test_mae_has_nothing_to_look_ahead_for() -> None:
    assert isinstance(build("dinov2"), Coupled)
    assert not isinstance(build("mae"), Coupled)


def test_sinkhorn_centring_gives_the_student_distributions() -> None:
    module: DINOv2 = build("dinov2", centering="sinkhorn")
    targets, _ = module.targets(normalise(images_of(TINY)), three_masked(), 0.5, draws(0))
    sums = {term: target.sum(dim=1) for term, target in targets.items()}
    torch.testing.assert_close(sums, {"dino": torch.ones(8), "ibot": torch.ones(3)})
    assert torch.isfinite(loss_of(module, images_of(TINY)))


def test_koleo_is_minus_the_mean_log_distance_to_the_nearest_other() -> None:
    angles = np.deg2rad([0, 10, 100, 250])
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    # Chords 2 sin(angle / 2) to the nearest: 10, 10, 90 and 110 degrees; lengths are of no account.
    expected = -np.mean(np.log(2 * np.sin(np.deg2rad([10, 10, 90, 110]) / 2)))
    scaled = torch.tensor(points * [[1], [2], [3], [4]], dtype=torch.float32)
    assert dinov2.koleo(scaled).item() == pytest.approx(expected, rel=1e-5)  # fp32


def test_the_dino_loss_averages_over_all_pairs_of_a_teachers_crop_and_another_crop() -> None:
    n, p, temperature = 2, 3, 0.1
    student = torch.randn(2 * n, p, generator=generator(8)) * 0.3
    local = torch.randn(2 * n, p, generator=generator(9)) * 0.3
    teacher = torch.randn(2 * n, p, generator=generator(10)).softmax(dim=1)

    def entropy(target: Tensor, logits: Tensor) -> float:
        z = [x / temperature for x in logits.tolist()]
        total = math.log(sum(math.exp(x) for x in z))
        return -sum(t * (x - total) for t, x in zip(target.tolist(), z, strict=True))

    pairs = []
    for image in range(n):
        first, second = image, image + n
        pairs += [entropy(teacher[first], student[second]), entropy(teacher[second], student[first])]
        for crop in (image, image + n):
            pairs += [entropy(teacher[first], local[crop]), entropy(teacher[second], local[crop])]
    measured = dinov2.dino_loss(student, local, teacher, temperature).item()
    assert measured == pytest.approx(np.mean(pairs), rel=1e-5)  # fp32 against fp64
    without = [entropy(teacher[i], student[(i + n) % (2 * n)]) for i in range(2 * n)]
    assert dinov2.dino_loss(student, None, teacher, temperature).item() == pytest.approx(np.mean(without), rel=1e-5)


def test_ibot_reaches_masked_patches_alone() -> None:
    module: DINOv2 = build("dinov2", dino_weight=0.0, koleo_weight=0.0)
    tokens: list[Tensor] = []
    masks = module.masks(16, 16, draws(3))
    assert masks is not None
    module.masks = lambda *args: masks  # type: ignore[method-assign]

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            output.retain_grad()
            tokens.append(output)

    module.encoder.vit.norm.register_forward_hook(keep)
    loss_of(module, images_of(TINY)).backward()
    gradient = tokens[0].grad
    assert gradient is not None
    assert torch.equal(gradient.abs().sum(dim=2)[:, 1:] > 0, masks.patches_GN)
    assert not gradient[:, 0].any()


@pytest.mark.parametrize("seed", range(5))
def test_masks_have_their_stated_counts_and_each_crop_weighs_one(seed: int) -> None:
    module: DINOv2 = build("dinov2")
    masks = module.masks(16, 16, draws(seed))
    assert masks is not None
    masked = masks.patches_GN
    # Half of 16 crops; ratios at the middles of 8 equal parts of 0.1-0.5, of 16 patches: 2, 2.8, 3.6, ... 7.6
    assert sorted(masked.sum(dim=1).tolist()) == [0] * 8 + [2, 3, 4, 4, 5, 6, 7, 8]
    assert masks.n_all == 39
    assert torch.equal(masks.at_M, masked.flatten().nonzero()[:, 0])
    per_crop = torch.zeros(16).index_add(0, masked.nonzero()[:, 0], masks.weight_M)
    torch.testing.assert_close(per_crop, (masked.any(dim=1)).float())


def test_prototypes_rest_at_the_start_of_the_run() -> None:
    module: DINOv2 = build("dinov2")
    loss_of(module, images_of(TINY), progress=0.0).backward()
    assert module.head.prototypes.grad is None or not module.head.prototypes.grad.any()


def test_dinov2_without_local_crops_or_masks_still_trains() -> None:
    module: DINOv2 = build("dinov2", n_local=0, mask_probability=0.0)
    loss, terms = module.loss(images_of(TINY), progress=0.5, draws=draws(2))
    loss.backward()
    assert torch.isfinite(loss)
    assert terms["ibot"] == 0


TERMS = ("dino", "ibot", "koleo")


@pytest.mark.parametrize("without", [("koleo",), ("ibot",), ("dino",), ("ibot", "koleo"), ("dino", "koleo")], ids=str)
def test_a_term_without_weight_is_left_out_and_the_others_stay_as_they_are(without: tuple[str, ...]) -> None:
    whole: DINOv2 = build("dinov2", koleo_weight=0.1)
    part: DINOv2 = build("dinov2", **{f"{term}_weight": 0.0 for term in without})
    # The same draws for what stays: crops come first, local ones last of them, then masks.
    whole_terms, terms = (m.loss(images_of(TINY), progress=0.5, draws=draws(2))[1] for m in (whole, part))
    assert set(terms) == {"teacher_entropy", *TERMS} - set(without)
    if not {"dino", "ibot"} & set(without):
        torch.testing.assert_close({**terms, "koleo": whole_terms["koleo"]}, whole_terms)


def test_the_classic_ones_are_the_same_module_with_terms_left_out() -> None:
    dino, ibot = build("dino"), build("ibot")
    assert type(dino) is type(ibot) is DINOv2
    assert dino.mask_token is None
    assert list(dino.centring) == ["dino"]
    assert list(ibot.centring) == ["dino", "ibot"]
    terms = [set(m.loss(images_of(TINY), progress=0.5, draws=draws(2))[1]) for m in (dino, ibot)]
    assert terms == [{"dino", "teacher_entropy"}, {"dino", "ibot", "teacher_entropy"}]


def test_their_defaults_are_the_references() -> None:
    dino, ibot = DinoOptions(), IbotOptions()
    # dino@04c0ad9:main_dino.py and its batch 512; ibot@030ffe4:README.md, ViT-S, batch 1024
    assert (dino.prototypes, dino.n_local, dino.global_scale, dino.local_scale) == (65536, 8, (0.4, 1.0), (0.05, 0.4))
    assert (dino.ema, dino.teacher_temp, dino.student_temp) == ((0.996, 1.0), (0.04, 0.04), 0.1)
    assert dino.lr.resolve(512) * dino.final_lr == pytest.approx(1e-6)
    assert (ibot.prototypes, ibot.n_local, ibot.global_scale, ibot.local_scale) == (8192, 10, (0.25, 1.0), (0.05, 0.25))
    assert (ibot.ema, ibot.teacher_temp, ibot.mask_range) == ((0.996, 1.0), (0.04, 0.07), (0.1, 0.5))
    assert ibot.lr.resolve(1024) * ibot.final_lr == pytest.approx(1e-6)


def encoded(module: DINOv2) -> list[tuple[str, int]]:
    """Who encoded and how many images at once, in a loss."""
    seen: list[tuple[str, int]] = []
    for name, encoder in (("student", module.encoder), ("teacher", module.teacher["encoder"])):
        encoder.register_forward_hook(lambda layer, inputs, output, name=name: seen.append((name, len(output))))
    module.loss(images_of(TINY), progress=0.5, draws=draws(2))
    return seen


def rows_in(head: nn.Module, module: DINOv2) -> list[int]:
    """Rows that go through a head in a loss, call by call."""
    seen: list[int] = []
    head.register_forward_hook(lambda layer, inputs, output: seen.append(len(output)))
    module.loss(images_of(TINY), progress=0.5, draws=draws(2))
    return seen


def test_without_ibot_no_patch_meets_a_head() -> None:
    module: DINOv2 = build("dino")
    assert rows_in(module.head, module) == [16, 16]  # class tokens of 2 global and of 2 local crops of 8 images


def test_without_dino_no_class_token_meets_a_head_and_there_are_no_local_crops() -> None:
    options: dict[str, Any] = {"dino_weight": 0.0, "koleo_weight": 0.0}
    module: DINOv2 = build("dinov2", **options)
    assert rows_in(module.head, module) == [39]  # masked patches, as below
    assert encoded(build("dinov2", **options)) == [("teacher", 16), ("student", 16)]


def test_separate_heads_have_sizes_of_their_own_and_serve_one_term_each() -> None:
    module: DINOv2 = build("dinov2", ibot_head=SEPARATE)
    assert module.head.prototypes.shape == (16, 8)
    assert module.ibot_head.prototypes.shape == (24, 4)
    assert rows_in(module.ibot_head, module) == [39]
    assert rows_in(module.head, module) == [16, 16]
    assert [module.centring[term].mean.shape[1] for term in ("dino", "ibot")] == [16, 24]
    with torch.no_grad():
        for p in (module.head.prototypes, module.ibot_head.prototypes):
            p.add_(1.0)
    before = {name: module.teacher[name].prototypes.clone() for name in ("head", "ibot_head")}
    module.after_step(0.0)
    for name, prototypes in before.items():  # the teacher's heads follow, each its own
        student = module.get_submodule(name).prototypes
        torch.testing.assert_close(module.teacher[name].prototypes, 0.992 * prototypes + 0.008 * student)


def test_without_koleo_and_sinkhorn_there_is_nothing_to_look_ahead_for() -> None:
    def untouched() -> Iterator[tuple[Tensor, Draws]]:
        raise AssertionError("no image is asked for")
        yield

    module: DINOv2 = build("dino")
    module.look_ahead(untouched(), progress=0.5)
    assert module.centring["dino"].columns is None


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dinov2", {"dino_weight": 0.0, "ibot_weight": 0.0}, "neither DINO's nor iBOT's loss; give dino_weight or"),
        (
            "dinov2",
            {"ibot_weight": 0.0, "ibot_head": {}},
            "a head of its own where a loss has no weight; allowed: .*tied",
        ),
        ("dino", {"ibot_weight": 1.0}, "less than or equal to 0"),
        ("ibot", {"koleo_weight": 0.1}, "less than or equal to 0"),
    ],
)
def test_options_that_would_do_nothing_or_be_another_algorithm_are_refused(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        ALGORITHMS[name].options(**options)


def test_the_terms_add_up_to_the_loss() -> None:
    weights: dict[str, Any] = {"dino_weight": 2.0, "ibot_weight": 0.5, "koleo_weight": 0.25}
    module: DINOv2 = build("dinov2", **weights)
    loss, terms = module.loss(images_of(TINY), progress=0.5, draws=draws(2))
    parts = 2.0 * terms["dino"] + 0.5 * terms["ibot"] + 0.25 * terms["koleo"]
    torch.testing.assert_close(loss, parts)


def test_global_crops_come_first_views_first_and_local_crops_are_half_as_large() -> None:
    module: DINOv2 = build("dinov2")
    crops, local = module.crops(normalise(images_of(TINY)), draws(0))
    assert crops.shape == (16, 1, 16, 16)
    assert local.shape == (16, 1, 8, 8)


def test_local_crops_hold_whole_patches() -> None:
    shape = Shape(width=32, depth=2, heads=2, image_size=28, patch_size=4, channels=1)
    assert closed_forms.local_size(shape, DinoV2Options()) == 16
