"""Augmentations: each image with its own parameters, in range, and the same from the same draws, whole or in parts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor

from scaling.data.views import blur, jitter, normalise, random_crop, solarise
from scaling.parallel import Draws, Part

View = Callable[[Tensor, Draws], Tensor]

VIEWS: dict[str, View] = {
    "random_crop": lambda x, g: random_crop(x, 24, (0.2, 1.0), g),
    "jitter": lambda x, g: jitter(x, g),
    "blur": lambda x, g: blur(x, g, probability=0.5),
    "solarise": lambda x, g: solarise(x, g, probability=0.5),
}


def generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def draws(seed: int = 0, part: Part | None = None) -> Draws:
    return Draws(generator(seed), part)


def noise(n: int = 8, channels: int = 1, size: int = 32) -> Tensor:
    return torch.rand(n, channels, size, size, generator=generator(1)) * 4 - 2


def ramps(n: int, size: int = 64) -> Tensor:
    """Two channels that hold each pixel's own column and row, -1 to 1 from edge to edge."""
    at = (torch.arange(size) + 0.5) * 2 / size - 1
    return torch.stack([at.expand(size, size), at[:, None].expand(size, size)]).expand(n, -1, -1, -1)


# --- all of them ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_the_same_draws_give_the_same_views(view: View, channels: int) -> None:
    images = noise(channels=channels)
    assert torch.equal(view(images, draws(3)), view(images, draws(3)))
    assert not torch.equal(view(images, draws(3)), view(images, draws(4)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_images_of_a_batch_get_views_of_their_own(view: View, channels: int) -> None:
    views = view(noise(1, channels).expand(16, -1, -1, -1), draws(3))
    assert len({tuple(image.flatten().tolist()) for image in views}) > 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_an_images_view_does_not_depend_on_the_other_images(view: View, channels: int) -> None:
    images = noise(channels=channels)
    other = images.clone()
    other[1:] = 0.3
    torch.testing.assert_close(view(images, draws(3))[0], view(other, draws(3))[0])


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_the_images_themselves_stay_as_they_are(view: View) -> None:
    images = noise()
    view(images, draws(3))
    assert torch.equal(images, noise())


@pytest.mark.parametrize("name", VIEWS)
def test_the_precision_of_training_does_not_change_the_views(name: str) -> None:
    images = noise(channels=3)
    exact = VIEWS[name](images, draws(3))
    with torch.autocast("cpu", torch.bfloat16):
        views = VIEWS[name](images, draws(3))
    assert torch.equal(views, exact)


def test_values_become_minus_two_to_two() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 1, 1, 3)
    torch.testing.assert_close(normalise(images).flatten(), torch.tensor([-2.0, -1.2, 2.0]))


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_part_of_the_batch_gets_the_views_it_has_in_the_whole(view: View) -> None:
    images = noise(7, channels=3)
    parts = [Part.of(7, i, 3) for i in range(3)]
    views = [view(images[part.start : part.stop], draws(3, part)) for part in parts]
    torch.testing.assert_close(torch.cat(views), view(images, draws(3)))


# --- crops ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 32, 48])
def test_a_crop_has_the_size_asked_and_no_value_that_the_image_has_not(size: int) -> None:
    crops = random_crop(noise(64), size, (0.05, 1.0), draws())
    assert crops.shape == (64, 1, size, size)
    assert crops.min() >= noise(64).min()
    assert crops.max() <= noise(64).max()


def test_crops_have_the_areas_and_aspects_asked_and_lie_inside_the_image() -> None:
    crops = random_crop(ramps(500), 64, (0.2, 0.6), draws())
    # Slopes between inner pixels, away from the half pixel at the edge where interpolation flattens the ramp.
    width = (crops[:, 0, 32, 48] - crops[:, 0, 32, 16]).abs() / 32 * 64 / 2
    height = (crops[:, 1, 48, 32] - crops[:, 1, 16, 32]) / 32 * 64 / 2
    area, aspect = width * height, width / height
    assert (height > 0).all()  # never upside down
    # No side is cut at the image's: 0.6 x 4/3 < 1. Uniform draws of 500 come within 1 % of the ends of their range.
    assert area.min() == pytest.approx(0.2, abs=0.02)
    assert area.max() == pytest.approx(0.6, abs=0.02)
    assert aspect.min() == pytest.approx(3 / 4, rel=0.02)
    assert aspect.max() == pytest.approx(4 / 3, rel=0.02)
    assert crops.abs().max() <= 1


def test_half_of_the_crops_are_flipped() -> None:
    n = 1000
    crops = random_crop(ramps(n, 16), 16, (0.2, 1.0), draws())
    flipped = (crops[:, 0, 8, 15] < crops[:, 0, 8, 0]).float().mean()
    assert flipped.item() == pytest.approx(0.5, abs=4 * 0.5 / n**0.5)  # four standard errors


def test_without_flips_every_crop_rises_as_its_image() -> None:
    crops = random_crop(ramps(200, 16), 16, (0.2, 1.0), draws(), flip=False)
    assert (crops[:, 0, 8, 15] > crops[:, 0, 8, 0]).all()


def test_a_crop_of_an_even_image_is_even() -> None:
    torch.testing.assert_close(
        random_crop(torch.full((4, 3, 32, 32), 0.7), 24, (0.2, 1.0), draws())[0, 0, 0, 0], torch.tensor(0.7)
    )


# --- colours ----------------------------------------------------------------------------------------------------


def test_jitter_keeps_grey_grey() -> None:
    jittered = jitter(noise(64).expand(-1, 3, -1, -1), draws())
    torch.testing.assert_close(jittered, jittered[:, :1].expand(-1, 3, -1, -1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_that_is_never_on_leaves_grey_images_as_they_are(channels: int) -> None:
    images = noise().expand(-1, channels, -1, -1)
    torch.testing.assert_close(jitter(images, draws(), probability=0.0), images, rtol=1e-4, atol=1e-5)


def test_jitter_of_grey_values_is_brightness_about_black_and_contrast_about_the_mean() -> None:
    """Straight lines of the values: slope brightness x contrast, and the mean moves by brightness alone."""
    images = noise(256)
    jittered = jitter(images, draws(), probability=1.0)
    deviation, before = jittered.std(dim=(1, 2, 3)), images.std(dim=(1, 2, 3))
    slope = deviation / before
    # In units where black is 0: mean after = brightness x mean before.
    brightness = (jittered.mean(dim=(1, 2, 3)) + 2) / (images.mean(dim=(1, 2, 3)) + 2)
    contrast = slope / brightness
    for factor in (brightness, contrast):
        assert 0.6 - 1e-3 < factor.min() < 0.63
        assert 1.37 < factor.max() < 1.4 + 1e-3
    line = slope[:, None, None, None] * (images - images.mean(dim=(1, 2, 3), keepdim=True))
    torch.testing.assert_close(jittered, line + jittered.mean(dim=(1, 2, 3), keepdim=True), rtol=1e-3, atol=1e-4)


def test_blur_of_probability_zero_changes_nothing() -> None:
    assert torch.equal(blur(noise(), draws(), probability=0.0), noise())


def test_blur_smooths_and_keeps_range_and_even_images() -> None:
    images = noise(64, size=224)[:8]
    blurred = blur(images, draws(), probability=1.0)
    assert blurred.abs().max() <= images.abs().max()
    assert (blurred.std(dim=(1, 2, 3)) < images.std(dim=(1, 2, 3))).all()
    torch.testing.assert_close(
        blur(torch.full((2, 1, 32, 32), 0.7), draws(), probability=1.0), torch.full((2, 1, 32, 32), 0.7)
    )


def test_solarising_mirrors_what_is_above_the_middle() -> None:
    images = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0]).reshape(1, 1, 1, 5)
    assert solarise(images, draws(), probability=1.0).flatten().tolist() == [-2.0, -0.5, 0.0, -0.5, -2.0]
    assert torch.equal(solarise(images, draws(), probability=0.0), images)
