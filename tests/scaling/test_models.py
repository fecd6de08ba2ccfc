"""The size ladder and the encoder: closed forms against torch and timm, ways in against each other."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from scaling.catalog import MODELS
from scaling.models.shape import Shape, n_params
from scaling.models.vit import Encoder, gather, patchify, position_table

# fp32 has 24 bits: sums of some hundred terms of size 1 in another order differ by about 1e-6, two blocks by 1e-5.
FP32: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


def shape_of(model: str, *, image_size: int = 32, patch_size: int = 4, channels: int = 1) -> Shape:
    size = MODELS[model]
    return Shape(
        width=size.width,
        depth=size.depth,
        heads=size.heads,
        image_size=image_size,
        patch_size=patch_size,
        channels=channels,
    )


TINY = Shape(width=32, depth=2, heads=2, image_size=16, patch_size=4, channels=1)


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(TINY).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(1))


# --- the ladder -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("model", MODELS)
def test_the_closed_form_counts_the_parameters_that_torch_counts(model: str, channels: int) -> None:
    shape = shape_of(model, channels=channels)
    with torch.device("meta"):  # shapes without memory
        built = Encoder(shape)
    assert n_params(shape) == sum(p.numel() for p in built.parameters() if p.requires_grad)


@pytest.mark.parametrize("model", MODELS)
def test_a_models_heads_and_position_table_divide_its_width(model: str) -> None:
    assert MODELS[model].width % MODELS[model].heads == 0
    assert MODELS[model].width % 4 == 0  # sine and cosine of rows and of columns


def test_each_rung_of_the_ladder_is_larger_than_the_one_before() -> None:
    counts = [n_params(shape_of(model)) for model in MODELS]
    assert all(small < large for small, large in itertools.pairwise(counts))


@pytest.mark.parametrize("model", [name for name, size in MODELS.items() if size.origin.startswith("ours, ")])
def test_our_own_rungs_have_the_size_they_state(model: str) -> None:
    stated = float(MODELS[model].origin.removeprefix("ours, ").removesuffix(" M"))
    # Stated to one or two digits, without the patch projection, which depends on the images.
    assert n_params(shape_of(model)) / 1e6 == pytest.approx(stated, rel=0.07)


@pytest.mark.parametrize(
    ("model", "published", "patch_size"),
    [
        ("vit_ti", "vit_tiny_patch16_224", 16),
        ("vit_s", "vit_small_patch16_224", 16),
        ("vit_b", "vit_base_patch16_224", 16),
        ("vit_l", "vit_large_patch16_224", 16),
        ("vit_h", "vit_huge_patch14_224", 14),
    ],
)
def test_the_standard_rungs_have_timms_parameters_without_the_position_table(
    model: str, published: str, patch_size: int
) -> None:
    with torch.device("meta"):
        reference = timm.create_model(published, num_classes=0)
    learned = sum(p.numel() for p in reference.parameters())
    table = reference.pos_embed.numel()  # learned there, frozen here
    assert n_params(shape_of(model, image_size=224, patch_size=patch_size, channels=3)) == learned - table


# --- the encoder ------------------------------------------------------------------------------------------------


def test_all_patches_in_give_what_timms_own_forward_gives(encoder: Encoder, images: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), encoder.vit.forward_features(images), **FP32)


def test_kept_patches_in_any_order_give_their_tokens_in_that_order(encoder: Encoder, images: Tensor) -> None:
    order = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(i)) for i in range(3)])
    with torch.no_grad():
        whole, shuffled = encoder(images), encoder(images, kept_BK=order)
    torch.testing.assert_close(shuffled[:, 0], whole[:, 0], **FP32)
    torch.testing.assert_close(shuffled[:, 1:], gather(whole[:, 1:], order), **FP32)


def test_patches_that_are_not_kept_change_nothing(encoder: Encoder, images: Tensor) -> None:
    kept = torch.tensor([[0, 5, 10]]).expand(3, -1)
    other = images.clone()
    other[:, :, 12:, 12:] = 7.0  # patch 15
    with torch.no_grad():
        assert torch.equal(encoder(images, kept_BK=kept), encoder(other, kept_BK=kept))
        assert encoder(images, kept_BK=kept).shape == (3, 4, 32)


def test_a_masked_patch_hides_its_pixels(encoder: Encoder, images: Tensor) -> None:
    masked = torch.zeros(3, 16, dtype=torch.bool)
    masked[:, 15] = True
    token = torch.ones(1, 1, 32)
    other = images.clone()
    other[:, :, 12:, 12:] = 7.0
    with torch.no_grad():
        hidden = encoder(images, masked_BN=masked, mask_token=token)
        assert torch.equal(hidden, encoder(other, masked_BN=masked, mask_token=token))
        assert not torch.allclose(hidden, encoder(images))


def test_the_position_table_is_not_trained(encoder: Encoder) -> None:
    assert not encoder.vit.pos_embed.requires_grad
    assert torch.equal(encoder.vit.pos_embed, position_table(4, 32))


def test_the_position_table_is_the_one_of_mae() -> None:
    """Against a plain reading of MAE's util/pos_embed.py: columns first, sines before cosines, 10000^(-2i/d)."""
    grid, width = 3, 16
    rows = []
    for y, x in itertools.product(range(grid), range(grid)):
        parts = []
        for at in (x, y):
            angles = at / 10000 ** (np.arange(width // 4) / (width / 4))
            parts += [np.sin(angles), np.cos(angles)]
        rows.append(np.concatenate(parts))
    expected = np.concatenate([np.zeros((1, width)), rows])[None]
    np.testing.assert_allclose(position_table(grid, width).numpy(), expected, atol=1e-6)  # fp32 of values up to 1


def test_one_patch_over_the_extent_of_three_sits_in_their_middle() -> None:
    torch.testing.assert_close(position_table(1, 16, extent=3)[:, 1], position_table(3, 16)[:, 1 + 4])


def test_crops_of_another_size_get_a_table_of_their_own_size(encoder: Encoder) -> None:
    assert torch.equal(encoder.positions(16), encoder.vit.pos_embed)
    assert encoder.positions(8).shape == (1, 1 + 4, 32)
    assert encoder(torch.zeros(2, 1, 8, 8)).shape == (2, 5, 32)


def test_patches_hold_channel_row_column_of_the_image_from_left_to_right_and_top_to_bottom() -> None:
    images = torch.arange(2 * 4 * 6, dtype=torch.float32).reshape(1, 2, 4, 6)
    patches = patchify(images, 2)
    assert patches.shape == (1, 6, 8)
    assert patches[0, 1].tolist() == [2, 3, 8, 9, 26, 27, 32, 33]
    assert patches[0, 3].tolist() == [12, 13, 18, 19, 36, 37, 42, 43]
