"""The perceptual hash: what leaves it alone, what does not, and that it is the same on every machine."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from scaling.data import perceptual
from scaling.data.perceptual import perceptual_hash

SIZE = 64


def scenes(n: int, *, size: int = SIZE, channels: int = 1) -> NDArray[np.uint8]:
    """(n, channels, size, size) of blobs: smooth, and none like another."""
    rng = np.random.default_rng(0)
    at = (np.arange(size) + 0.5) / size
    pictures = np.zeros((n, channels, size, size))
    for _ in range(12):
        y, x, width = rng.random((3, n, 1, 1))
        bump = np.exp(-((at[:, None] - y) ** 2 + (at - x) ** 2) / (0.02 + 0.04 * width))
        pictures += rng.uniform(20, 120, (n, channels, 1, 1)) * bump[:, None]
    return (pictures / pictures.max() * 200 + 20).astype(np.uint8)


def differing(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> NDArray[np.int64]:
    return np.bitwise_count(one ^ other).astype(np.int64)


def _jpeg(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    out = []
    for image in images[:, 0]:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=60)
        out.append(np.asarray(Image.open(file)))
    return np.stack(out)[:, None]


COPIES = {
    "brighter": lambda images: images + np.uint8(20),
    "less contrast": lambda images: (images * 0.8).astype(np.uint8),
    "compressed": _jpeg,
    "half the size": lambda images: images.reshape(-1, 1, 32, 2, 32, 2).mean((3, 5)).astype(np.uint8),
    "twice the size": lambda images: images.repeat(2, 2).repeat(2, 3),
    "in colours of one grey": lambda images: images.repeat(3, 1),
}


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_differs_in_few_bits(name: str) -> None:
    images = scenes(40)
    assert differing(perceptual_hash(images), perceptual_hash(COPIES[name](images))).max() <= 6


def test_different_images_differ_in_many_bits() -> None:
    hashes = perceptual_hash(scenes(60))
    apart = differing(hashes[:, None], hashes[None])[np.triu_indices(60, 1)]
    assert apart.min() > 10
    assert 28 < apart.mean() < 36  # of 64, half of them set


def test_halves_of_the_bits_are_set() -> None:
    assert set(np.bitwise_count(perceptual_hash(scenes(20))).tolist()) == {32}


def test_an_image_of_one_grey_has_no_bit_set() -> None:
    assert perceptual_hash(np.full((1, 3, 17, 17), 90, np.uint8)).tolist() == [0]


def test_no_image_has_no_hash() -> None:
    assert perceptual_hash(np.empty((0, 1, 28, 28), np.uint8)).shape == (0,)


def test_images_are_hashed_alike_in_whatever_company(monkeypatch: pytest.MonkeyPatch) -> None:
    images = scenes(9, channels=3)
    together = perceptual_hash(images)
    monkeypatch.setattr(perceptual, "CHUNK_BYTES", 1)
    np.testing.assert_array_equal(perceptual_hash(images), together)
    np.testing.assert_array_equal(perceptual_hash(images[::-1])[::-1], together)


def test_areas_are_averaged_exactly() -> None:
    weights = perceptual.overlaps(48, 32)
    assert weights.sum(1).tolist() == [48] * 32  # a span is 1.5 pixels: 48 32nds
    assert weights.sum(0).tolist() == [32] * 48
    assert weights[0, :3].tolist() == [32, 16, 0]


def test_sums_stay_exact_and_no_cosine_is_near_a_half() -> None:
    """What makes the bits the same on every machine: integers below 2^53, and a table that no rounding can move."""
    cosines = perceptual._cosines()
    largest = 255 * perceptual.GREYS * np.abs(cosines).sum(1).max() ** 2
    assert 2 * largest < 2**53
    assert 255 * 4096**2 * 32**2 < 2**53  # an image of 4,096 pixels a side
    exact = perceptual.COSINES * np.cos(np.arange(len(cosines))[:, None] * (2 * np.arange(32) + 1) * np.pi / 64)
    assert np.abs(exact - np.floor(exact) - 0.5).min() > 1e-6


def test_known_bits_stay_what_they_are() -> None:
    """Stores keep hashes: another rule would make those on disk and new ones of one image differ."""
    down, along = np.mgrid[:40, :40]
    images = np.stack([(down**2 * 7 + along**2 * 13 + down * along * 3) % 251, (down // 5 * 31 + along * 5) % 251])
    known = ["0xb0753bc9b250abd2", "0x5b759906beca1d82"]
    assert [hex(each) for each in perceptual_hash(images[:, None].astype(np.uint8))] == known
