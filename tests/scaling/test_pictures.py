"""Pictures show what they say: masks, reconstructions and attention of known models, marked where synthetic."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from scaling.algorithms.algorithm import Pictured
from scaling.algorithms.attention import heat_map
from scaling.algorithms.baselines import Random
from scaling.algorithms.dinov2 import DINOv2
from scaling.algorithms.ijepa import IJEPA
from scaling.algorithms.lejepa import LeJEPA
from scaling.algorithms.mae import MAE
from scaling.algorithms.mocov3 import MoCoV3
from scaling.algorithms.simclr import SimCLR
from scaling.algorithms.supervised import Supervised
from scaling.data.views import normalise, pixels
from scaling.models.shape import Shape
from scaling.models.vit import Encoder, patchify, unpatchify
from scaling.options import (
    BaselineOptions,
    DinoV2Options,
    IJepaOptions,
    LabelHead,
    LabelSet,
    LeJepaOptions,
    MaeOptions,
    MocoV3Options,
    Options,
    SimClrOptions,
    SupervisedOptions,
)
from scaling.parallel import Draws
from scaling.pictures import LABEL, SYNTHETIC, picture, sheet

CPU = torch.device("cpu")
SHAPE = Shape(width=32, depth=2, heads=2, image_size=16, patch_size=4, channels=1)
SMALL = DinoV2Options(prototypes=16, head_hidden=16, head_bottleneck=8, n_local=1)
LABELS = LabelSet(identity="0" * 64, heads=(LabelHead(task="grade", kind="multi-class", n_classes=3),))
ATTENTIVE: dict[str, tuple[type, Options]] = {
    "dinov2": (DINOv2, SMALL),
    "simclr": (SimCLR, SimClrOptions(projector_hidden=16, projector_width=8)),
    "mocov3": (MoCoV3, MocoV3Options(head_hidden=16, head_width=8)),
    "ijepa": (IJEPA, IJepaOptions()),
    "lejepa": (LeJEPA, LeJepaOptions(projector_hidden=16, projector_width=8, n_slices=32, n_local=1)),
    "supervised by the class token": (Supervised, SupervisedOptions(labels=LABELS, pool="cls")),
    "supervised by both": (Supervised, SupervisedOptions(labels=LABELS)),
}
PATCHES_ALONE: dict[str, tuple[type, Options]] = {
    "dinov2 without DINO and KoLeo": (DINOv2, SMALL.model_copy(update={"dino_weight": 0.0, "koleo_weight": 0.0})),
    "supervised by the patches": (Supervised, SupervisedOptions(labels=LABELS, pool="mean")),
}


@pytest.fixture
def images() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 1, 16, 16), dtype=np.uint8))


@pytest.mark.parametrize("channels", [1, 3])
def test_patches_put_together_are_the_image(channels: int) -> None:
    images = torch.rand(2, channels, 12, 12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(unpatchify(patchify(images, 4), 4), images)


def test_pixels_undo_the_normalisation() -> None:
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(pixels(normalise(every)), every)
    assert pixels(torch.tensor([-9.0, 9.0])).tolist() == [0, 255]


@pytest.mark.parametrize("norm_pixels", [True, False])
def test_mae_shows_a_quarter_of_the_patches_and_fills_in_the_others(norm_pixels: bool, images: Tensor) -> None:
    torch.manual_seed(0)
    model = MAE(SHAPE, MaeOptions(norm_pixels=norm_pixels)).eval()
    with torch.no_grad():
        shown = model.picture(images)
    assert list(shown.rows) == ["image", "visible", "reconstructed"]
    assert torch.equal(shown.rows["image"], images)
    original, visible, filled = (patchify(rows, 4) for rows in shown.rows.values())
    kept = (visible == original).all(dim=-1)
    assert kept.sum(dim=1).tolist() == [4, 4, 4]
    assert (visible[~kept] == 128).all()  # grey, the middle of the range
    assert torch.equal(filled[kept], original[kept])
    assert not (filled[~kept] == original[~kept]).all(dim=-1).any()
    assert ("mean and contrast" in shown.caption) == norm_pixels
    assert "75%" in shown.caption


def test_a_mae_that_predicts_nought_shows_each_hidden_patchs_own_mean(images: Tensor) -> None:
    model = MAE(SHAPE, MaeOptions()).eval()
    torch.nn.init.zeros_(model.decoder.predict.weight)
    with torch.no_grad():
        rows = model.picture(images).rows
    original, filled = patchify(rows["image"], 4).float(), patchify(rows["reconstructed"], 4).float()
    hidden = (patchify(rows["visible"], 4) == 128).all(dim=-1)
    assert torch.allclose(filled[hidden], original.mean(dim=-1, keepdim=True).expand_as(filled)[hidden], atol=0.51)


def test_the_attention_shown_is_the_one_that_mixes_the_tokens(images: Tensor) -> None:
    """With values and output as the identity, the last attention's class token is the weighted mean of its inputs."""
    torch.manual_seed(0)
    encoder = Encoder(SHAPE).eval()
    attention = encoder.vit.blocks[-1].attn
    width, seen = SHAPE.width, {}
    with torch.no_grad():
        attention.qkv.weight[2 * width :] = torch.eye(width)
        attention.qkv.bias.zero_()
        attention.proj.weight.copy_(torch.eye(width))
        attention.proj.bias.zero_()
        attention.register_forward_hook(lambda module, given, out: seen.update(tokens=given[0], mixed=out))
        shares_BHN = encoder.class_attention(normalise(images))
    own = 1 - shares_BHN.sum(dim=-1, keepdim=True)
    weights = torch.cat([own, shares_BHN], dim=-1)
    values = seen["tokens"].unflatten(-1, (SHAPE.heads, -1)).transpose(1, 2)  # (B, heads, 1 + N, D / heads)
    expected = (weights[:, :, None] @ values).squeeze(2).flatten(1)
    assert torch.allclose(seen["mixed"][:, 0], expected, atol=1e-5)
    assert (own > 0).all()


def test_a_heat_map_has_a_square_for_each_patch() -> None:
    shares = torch.tensor([[0.1, 0.2, 0.4, 0.0]])
    assert heat_map(shares, 2)[0, 0].tolist() == [
        *[[64, 64, 128, 128]] * 2,
        *[[255, 255, 0, 0]] * 2,
    ]


@pytest.mark.parametrize("case", ATTENTIVE)
def test_an_attention_picture_shows_each_head_of_the_encoder_that_is_probed(case: str, images: Tensor) -> None:
    algorithm, options = ATTENTIVE[case]
    model = algorithm(SHAPE, options).eval()
    with torch.no_grad():
        for weights in model.probed.parameters():  # a teacher that no longer is its student
            weights.mul_(1.1)
        rows = model.picture(images).rows
        shares = model.probed.class_attention(normalise(images))
    assert list(rows) == ["image", "mean of heads", "head 1", "head 2"]
    assert torch.equal(rows["head 2"], heat_map(shares[:, 1], 4))


def gradient_of_class_tokens(model: torch.nn.Module, images: Tensor) -> float:
    """Largest value of the objective's gradient by the class tokens that the trained encoder gives."""
    given: list[Tensor] = []

    def keep(module: torch.nn.Module, inputs: object, tokens: Tensor) -> None:
        if tokens.requires_grad:  # not those of a look without gradients
            tokens.retain_grad()
            given.append(tokens)

    model.get_submodule("encoder").register_forward_hook(keep)
    if isinstance(model, Supervised):
        model.tell(torch.tensor([[0, 1], [0, 2], [0, 0]]))
    loss, _ = model.loss(images, progress=0.5, draws=Draws(torch.Generator().manual_seed(0)))  # type: ignore[operator]
    loss.backward()
    gradients = [tokens.grad for tokens in given if tokens.grad is not None]
    assert any(gradient.any() for gradient in gradients)  # of patches, if of nothing else
    return max(float(gradient[:, 0].abs().max()) for gradient in gradients)


@pytest.mark.parametrize("case", ATTENTIVE | PATCHES_ALONE)
def test_only_a_class_token_that_the_objective_trains_is_shown(case: str, images: Tensor) -> None:
    torch.manual_seed(0)
    algorithm, options = (ATTENTIVE | PATCHES_ALONE)[case]
    model = algorithm(SHAPE, options)
    assert (gradient_of_class_tokens(model, images) > 0) == (case in ATTENTIVE)
    with torch.no_grad():
        assert (model.picture(images) is not None) == (case in ATTENTIVE)


def test_ijepas_picture_says_that_its_class_token_has_no_target(images: Tensor) -> None:
    with torch.no_grad():
        shown = IJEPA(SHAPE, IJepaOptions()).picture(images)
    assert "It has no target of its own" in shown.caption


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("algorithm", "options"), [(MAE, MaeOptions()), *ATTENTIVE.values()], ids=["mae", *ATTENTIVE])
def test_a_picture_changes_neither_model_nor_generators(
    algorithm: type, options: object, precision: str, images: Tensor
) -> None:
    model = algorithm(SHAPE, options)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()

    def context() -> contextlib.AbstractContextManager[None]:
        return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")  # type: ignore[return-value]

    png = picture(model, images.numpy(), device=CPU, context=context, synthetic=True)
    assert png is not None
    assert Image.open(io.BytesIO(png)).format == "PNG"
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_shows_nothing_has_no_picture(images: Tensor) -> None:
    untrained = Random(SHAPE, BaselineOptions())
    assert not isinstance(untrained, Pictured)
    for model in (untrained, *(algorithm(SHAPE, options) for algorithm, options in PATCHES_ALONE.values())):
        assert picture(model, images.numpy(), device=CPU, context=contextlib.nullcontext, synthetic=False) is None


def test_synthetic_images_are_called_so_in_a_line_of_their_own(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[list[str]] = []
    monkeypatch.setattr("scaling.pictures.sheet", lambda rows, lines: said.append(lines) or b"")
    for synthetic in (True, False):
        picture(
            MAE(SHAPE, MaeOptions()), images.numpy(), device=CPU, context=contextlib.nullcontext, synthetic=synthetic
        )
    assert [SYNTHETIC in lines for lines in said] == [True, False]


def test_a_sheet_enlarges_to_whole_pixels(images: Tensor) -> None:
    drawn = np.asarray(Image.open(io.BytesIO(sheet({"image": images.numpy()}, ["a line"]))))
    first = drawn[:96, LABEL : LABEL + 96]
    assert np.array_equal(first[3::6, 3::6, 0], images[0, 0].numpy())
    assert np.array_equal(first, np.repeat(np.repeat(first[::6, ::6], 6, axis=0), 6, axis=1))
