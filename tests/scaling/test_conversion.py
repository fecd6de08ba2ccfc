"""Rules of conversion: what pixels of each kind become, by construction and by what must not change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from scaling.importing.conversion import RULES, Target, channels_of, convert, luminance, resized, window_of
from scaling.importing.reader import Frame, Unreadable

RNG = np.random.default_rng(0)


def target(**changed: Any) -> Target:
    return Target(**{"image_size": 16, "channels": 1, **changed})


def converted(pixels: np.ndarray, modality: str = "ct", **changed: Any) -> np.ndarray:
    window = changed.pop("frame_window", None)
    return convert(Frame(id="a", pixels=pixels, window=window), modality, target(**changed))


def ramp(low: float, high: float, dtype: str, size: int = 16) -> np.ndarray:
    """(size, size) of evenly spaced values, the lowest and the highest among them."""
    return np.linspace(low, high, size * size).reshape(size, size).astype(dtype)


# --- 8 bits ------------------------------------------------------------------------------------------------------


def test_bytes_stay_as_they_are_in_every_modality() -> None:
    pixels = RNG.integers(0, 256, (16, 16), dtype=np.uint8)
    for modality in RULES:
        np.testing.assert_array_equal(converted(pixels, modality)[0], pixels)


@pytest.mark.parametrize("dtype", ["int16", "int32", "float32", "float64"])
def test_ct_takes_the_soft_tissue_window_in_hounsfield_units(dtype: str) -> None:
    pixels = np.full((16, 16), -1000, dtype)
    pixels[0, :5] = (-160, -60, 40, 140, 240)
    pixels[1, 0] = 3000
    found = converted(pixels)[0]
    assert found[0, :5].tolist() == [0, 64, 128, 191, 255]  # quarters of 255 to the nearest (127.5 to the even 128)
    assert (found[1, 0], found[5, 5]) == (255, 0)


def test_a_frames_window_wins_over_the_modality_and_the_users_over_both() -> None:
    pixels = ramp(0, 100, "int16")
    assert converted(pixels, frame_window=(0.0, 100.0)).max() == 255
    expected = np.clip(np.rint((pixels - 20) * (255 / 30)), 0, 255)
    np.testing.assert_array_equal(converted(pixels, frame_window=(0.0, 100.0), window=(20.0, 50.0))[0], expected)


def test_the_rest_of_radiology_takes_the_percentiles_of_what_is_not_background() -> None:
    pixels = np.zeros((100, 100), np.uint16)
    pixels[:50] = np.arange(1, 5001).reshape(50, 100)  # half is air
    low, high = window_of(pixels, RULES["mr"])
    assert (low, high) == pytest.approx(np.percentile(np.arange(1, 5001), (0.5, 99.5)))
    assert converted(pixels, "mr", image_size=100)[0, 60:].max() == 0


@pytest.mark.parametrize("modality", ["mr", "xray", "ultrasound", "oct"])
def test_where_there_is_no_scale_an_affine_map_of_the_values_changes_nothing(modality: str) -> None:
    pixels = RNG.gamma(2.0, 300.0, (40, 40))
    one, other = (converted(each.astype(np.float64), modality) for each in (pixels, pixels * 3.5 + 100))
    assert np.abs(one.astype(int) - other).max() <= 1  # a rounding


@pytest.mark.parametrize("modality", ["fundus", "dermoscopy", "histology", "endoscopy"])
def test_pictures_of_16_bits_keep_their_brightness(modality: str) -> None:
    dark = ramp(0, 65535 / 4, "uint16")
    np.testing.assert_array_equal(converted(dark, modality)[0], np.rint(dark / 257.0))
    np.testing.assert_array_equal(converted(dark.astype(np.int32), modality)[0], np.rint(dark / 257.0))
    np.testing.assert_array_equal(converted(dark / np.float64(65535), modality)[0], np.rint(dark / 257.0))


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (ramp(0, 2, "float32"), r"real numbers beyond 0\.\.1 in a picture; give the range as `window"),
        (ramp(-5, 5, "int16"), r"int16 beyond 0\.\.65535 in a picture; give the range as `window"),
    ],
)
def test_pictures_without_a_range_are_not_guessed_at(pixels: np.ndarray, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        converted(pixels, "fundus")
    assert converted(pixels, "fundus", window=(-5.0, 5.0)).shape == (1, 16, 16)


def test_large_offsets_lose_no_grey_level() -> None:
    """In float32 steps near 1e9 are 64 wide."""
    pixels = (1_000_000_000 + np.arange(256)).reshape(16, 16)
    for dtype in (np.int64, np.uint32, np.float64):
        found = converted(pixels.astype(dtype), frame_window=(1e9, 1e9 + 255))
        np.testing.assert_array_equal(found[0].ravel(), np.arange(256))


def test_masks_become_black_and_white() -> None:
    mask = np.zeros((16, 16), bool)
    mask[4:8] = True
    np.testing.assert_array_equal(converted(mask)[0], mask * 255)
    np.testing.assert_array_equal(converted(mask.astype(np.uint16), "mr")[0], mask * 255)


# --- what is set aside -------------------------------------------------------------------------------------------


def test_nan_is_set_aside_with_its_count_unless_kept_as_the_lowest_value() -> None:
    pixels = ramp(10, 200, "float32")
    pixels[3, 3], pixels[5, 5] = np.nan, np.inf
    with pytest.raises(Unreadable, match="2 of 256 pixels are NaN or infinite"):
        converted(pixels, frame_window=(10.0, 200.0))
    found = converted(pixels, frame_window=(10.0, 200.0), keep=("nan",))[0]
    assert (found[3, 3], found[5, 5], found[-1, -1]) == (0, 0, 255)
    with pytest.raises(Unreadable, match="every pixel is NaN"):
        converted(np.full((16, 16), np.nan), keep=("nan",))


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((20, 30), 9, np.uint8),
        np.full((20, 30), 9.0),
        np.full((20, 30, 3), 9, np.uint8),
        np.full((20, 30), -2000),
    ],
    ids=["bytes", "reals", "colour", "air in CT"],
)
def test_blank_images_are_set_aside_unless_kept(pixels: np.ndarray) -> None:
    with pytest.raises(Unreadable, match="blank"):
        converted(pixels)
    assert len(np.unique(converted(pixels, keep=("blank",)))) == 1


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.zeros((4, 4, 4), np.uint8), "shape"),
        (np.zeros(7, np.uint8), "shape"),
        (np.zeros((0, 4), np.uint8), "no pixels"),
        (np.zeros((4, 4), complex), "complex128"),
        (np.zeros((4, 4), "U1"), "<U1"),
    ],
)
def test_what_is_no_image_is_set_aside(pixels: np.ndarray, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        converted(pixels)


# --- grey and colour ---------------------------------------------------------------------------------------------


def test_luminance_is_pillows_to_the_bit() -> None:
    pixels = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(luminance(pixels), np.asarray(Image.fromarray(pixels).convert("L")))


def test_a_source_is_coloured_when_one_of_its_modalities_is() -> None:
    assert channels_of({"ct", "mr", "ultrasound"}) == channels_of(set()) == 1
    assert channels_of({"ct", "fundus"}) == 3


def test_grey_and_colour_take_the_channels_of_their_source() -> None:
    colour = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    grey = luminance(colour)
    np.testing.assert_array_equal(converted(colour, "fundus", channels=3), colour.transpose(2, 0, 1))
    np.testing.assert_array_equal(converted(colour, "fundus"), grey[None])
    np.testing.assert_array_equal(converted(colour, "ct", channels=3), np.stack([grey] * 3))
    np.testing.assert_array_equal(converted(grey, "fundus", channels=3), np.stack([grey] * 3))


def test_colours_of_16_bits_become_those_of_8() -> None:
    colour = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    found = converted(colour.astype(np.uint16) * 257, "histology", channels=3)
    np.testing.assert_array_equal(found, colour.transpose(2, 0, 1))


# --- squares -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(16, 16), (48, 48), (33, 57), (7, 5), (1, 1), (1, 300), (300, 1), (3000, 10)])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_every_shape_becomes_the_square(dtype: Any, shape: tuple[int, int], fit: Any) -> None:
    for pixels in (np.full(shape, 100, dtype), np.full((*shape, 3), 100, dtype)):
        found = resized(pixels, target(fit=fit))
        assert found.shape == (16, 16, *pixels.shape[2:])
        assert found.dtype == np.uint8
        if fit != "pad":
            assert (found == 100).all()
        else:
            assert set(np.unique(found)) <= {0, 100}
            assert found.any()


def test_a_crop_keeps_the_middle_and_a_pad_everything() -> None:
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:, :8], pixels[:, 8:24], pixels[:, 24:] = 50, 100, 150
    assert (resized(pixels, target(fit="crop")) == 100).all()
    padded = resized(pixels, target(fit="pad"))
    assert not padded[:4].any()
    assert not padded[12:].any()
    np.testing.assert_array_equal(padded[4:12, [0, 8, 15]], np.tile([50, 100, 150], (8, 1)))


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_shrinking_by_a_whole_factor_averages_areas(factor: int) -> None:
    pixels = RNG.uniform(0, 255, (16 * factor, 16 * factor)).astype(np.float32)
    means = pixels.reshape(16, factor, 16, factor).mean((1, 3))
    np.testing.assert_array_equal(resized(pixels, target()), np.rint(means))
    found = resized(pixels.astype(np.uint8), target())
    assert np.abs(found - pixels.astype(np.uint8).reshape(16, factor, 16, factor).mean((1, 3))).max() <= 0.5


@pytest.mark.parametrize("side", [17, 31, 45, 100, 333])
def test_shrinking_by_any_factor_keeps_brightness_and_lets_no_stripes_through(side: int) -> None:
    smooth = np.add.outer(np.linspace(20, 120, side), np.linspace(0, 100, side)).astype(np.float32)
    assert resized(smooth, target()).mean() == pytest.approx(smooth.mean(), abs=0.5)
    if side >= 64:  # stripes of a pixel are far finer than what is left
        stripes = (np.indices((side, side)).sum(0) % 2 * 255).astype(np.uint8)
        assert resized(stripes, target()).std() < 8


def test_enlarging_keeps_what_was_there() -> None:
    small = np.add.outer(np.arange(0, 80, 10), np.arange(0, 160, 20)).astype(np.float32)
    found = resized(small, target(image_size=64)).astype(float)
    assert (
        np.abs(found.reshape(8, 8, 8, 8).mean((1, 3)) - small)[2:-2, 2:-2].max() <= 0.5
    )  # a straight slope, away from the edges


def test_windows_clip_before_areas_are_averaged() -> None:
    """A speck of metal must not outshine its neighbourhood."""
    pixels = np.full((64, 64), 40, np.int16)
    pixels[0, 0] = 30000
    found = converted(pixels, keep=("blank",))[0]
    assert found[0, 0] == round((15 * 127.5 + 255) / 16)
