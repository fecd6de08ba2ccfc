"""How a decoded image becomes a stored one: 8 bits by the rule of its modality, grey or colour, a square. Row of data/.

The order, and why:
1. A window maps values to 0..255, in float32 and clipped: what lies far outside (metal in CT) must not bleed into its
   neighbours when areas are averaged. 8-bit pixels stay as they are and are never made float: there is nothing to gain.
2. Colour of a grey modality, or in a grey source, becomes luminance (ITU-R BT.601, as Pillow's `L`).
3. The square: by default the middle of the longer side, as MedMNIST (Yang et al. 2023, Sci. Data 10:41) cut its oblong
   sources, so that images look like the tasks' and bars of black do not tell the scanner. `fit: pad` cuts off nothing;
   `fit: stretch` is what MedMNIST did to dermoscopy and breast ultrasound.
4. Shrinking averages whole blocks of pixels, by the largest whole factor, then Pillow's antialiased bicubic does what
   is left (a factor below 2) and all enlarging; rounding to 8 bits comes last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from numpy.typing import NDArray

from scaling.data.source import Images
from scaling.importing.reader import Frame, Unreadable
from scaling.reader_options import ReaderOptions

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION = 1
"""Raised when the same file begins to give other pixels; noted in a source's card."""

Window = tuple[float, float]
FULL: Final = "full"
"""The whole range of an integer type, or 0..1 of floats: for pictures, whose brightness means something."""
PERCENTILES: Final = "percentiles"
"""From `LOW` to `HIGH` per cent of an image's pixels that are not its lowest value, which is mostly air or padding."""
LOW, HIGH = 0.5, 99.5


@dataclass(frozen=True)
class Rule:
    window: Window | Literal["full", "percentiles"]
    """For pixels that are not 8 bits."""
    channels: Literal[1, 3]
    origin: str


_MEDSAM = "Ma et al. 2024 (MedSAM, Nat. Commun. 15:654), methods and pre_CT_MR.py"
_PICTURE = "8 bits of a camera's range, like its JPEGs"
RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "ct": Rule((-160.0, 240.0), 1, f"soft tissue, level 40, width 400 HU: {_MEDSAM}; lung is [-1350, 150]"),
        "mr": Rule(PERCENTILES, 1, f"no absolute scale: {_MEDSAM}"),
        "xray": Rule(PERCENTILES, 1, _MEDSAM),
        "mammography": Rule(PERCENTILES, 1, _MEDSAM),
        "ultrasound": Rule(PERCENTILES, 1, _MEDSAM),
        "oct": Rule(PERCENTILES, 1, _MEDSAM),
        "octa": Rule(PERCENTILES, 1, "as oct"),
        "pet": Rule(PERCENTILES, 1, "a guess, as mr: uptake has a unit, but files seldom say it"),
        "nuclear": Rule(PERCENTILES, 1, "a guess, as mr: counts have no absolute scale"),
        "microscopy": Rule(PERCENTILES, 3, "a guess, as mr: fluorescence seldom fills its 16 bits"),
        "fundus": Rule(FULL, 3, _PICTURE),
        "dermoscopy": Rule(FULL, 3, _PICTURE),
        "endoscopy": Rule(FULL, 3, _PICTURE),
        "histology": Rule(FULL, 3, _PICTURE),
        "cytology": Rule(FULL, 3, _PICTURE),
        "photo": Rule(FULL, 3, _PICTURE),
        "other": Rule(PERCENTILES, 3, "a guess, for what has no row"),
    }
)


def channels_of(modalities: set[str]) -> Literal[1, 3]:
    """Of a source with images of these: colour where any of them is."""
    return 3 if any(RULES[m].channels == 3 for m in modalities if m in RULES) else 1


@dataclass(frozen=True, kw_only=True)
class Target:
    """What all stored images of a source share."""

    image_size: int
    channels: Literal[1, 3]
    fit: Literal["crop", "pad", "stretch"] = "crop"
    window: Window | None = None
    """Of the user's; wins over a frame's and the modality's."""
    keep: tuple[str, ...] = ()

    @classmethod
    def of(cls, options: ReaderOptions, image_size: int, channels: Literal[1, 3]) -> Target:
        return cls(
            image_size=image_size,
            channels=channels,
            fit=options.fit,
            window=options.window,
            keep=tuple(options.keep),
        )


def convert(frame: Frame, modality: str, target: Target) -> Images:
    """(channels, size, size) of one frame. Raises Unreadable where it has no pixels, NaN ones, or is blank."""
    pixels = _checked(frame.pixels)
    rule = RULES[modality]
    if pixels.dtype != np.uint8 or frame.window is not None:
        pixels = _windowed(pixels, target.window or frame.window, rule, keep_nan="nan" in target.keep)
    if pixels.ndim == 3 and (target.channels == 1 or rule.channels == 1):
        pixels = luminance(pixels)
    square = resized(pixels, target)
    if "blank" not in target.keep and (square == square[:1, :1]).all():
        raise Unreadable("blank: every pixel is the same")
    planes = square[None] if square.ndim == 2 else square.transpose(2, 0, 1)
    return np.ascontiguousarray(planes) if len(planes) == target.channels else np.repeat(planes, target.channels, 0)


def _checked(pixels: NDArray) -> NDArray:
    if pixels.ndim != 2 and not (pixels.ndim == 3 and pixels.shape[2] == 3):
        raise Unreadable(f"an image of shape {pixels.shape}; (height, width) or (height, width, 3) can be stored")
    if not pixels.size:
        raise Unreadable(f"no pixels: {pixels.shape[0]} x {pixels.shape[1]}")
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype.kind not in "uif":
        raise Unreadable(f"pixels of type {pixels.dtype}; integers and real numbers can be stored")
    return pixels


# --- 8 bits ------------------------------------------------------------------------------------------------------


def _windowed(pixels: NDArray, window: Window | None, rule: Rule, *, keep_nan: bool) -> NDArray[np.float32]:
    """float32, 0..255, not yet rounded."""
    if pixels.dtype.kind == "f":
        pixels = _finite(pixels, keep_nan=keep_nan)
    if window is None:
        window = window_of(pixels, rule)
    low, high = window
    if not high > low:
        return np.zeros(pixels.shape, np.float32)
    # float64 only where float32 cannot tell neighbours apart: 32-bit integers and doubles around a large offset
    exact: NDArray = pixels.astype("f4" if pixels.dtype.itemsize <= 2 or pixels.dtype == np.float32 else "f8")
    scaled = (exact - low) * (255.0 / (high - low))
    return np.clip(scaled, 0, 255).astype(np.float32, copy=False)


def _finite(pixels: NDArray, *, keep_nan: bool) -> NDArray:
    good = np.isfinite(pixels)
    n_bad = good.size - int(good.sum())
    if not n_bad:
        return pixels
    if not keep_nan:
        raise Unreadable(f"{n_bad} of {good.size} pixels are NaN or infinite")
    if n_bad == good.size:
        raise Unreadable("every pixel is NaN or infinite")
    return np.where(good, pixels, pixels[good].min())


def window_of(pixels: NDArray, rule: Rule) -> Window:
    """What becomes 0 and 255 by a modality's rule, of finite pixels. Raises Unreadable where the rule has no answer."""
    if isinstance(rule.window, tuple):
        return rule.window
    if rule.window == PERCENTILES:
        inside = pixels[pixels > pixels.min()]
        low, high = np.percentile(inside, (LOW, HIGH)) if inside.size else (0.0, 0.0)
        if high == low and inside.size:  # two values in all, such as a mask of 0 and 1
            low = float(pixels.min())
        return float(low), float(high)
    if pixels.dtype.kind == "f":
        if pixels.min() < 0 or pixels.max() > 1:
            raise Unreadable("real numbers beyond 0..1 in a picture; give the range as `window: [low, high]`")
        return 0.0, 1.0
    if pixels.dtype in (np.uint8, np.uint16):
        return 0.0, float(np.iinfo(pixels.dtype).max)
    if pixels.min() < 0 or pixels.max() > 65535:  # wider integers mostly hold 16 bits
        raise Unreadable(f"{pixels.dtype} beyond 0..65535 in a picture; give the range as `window: [low, high]`")
    return 0.0, 65535.0


def luminance(pixels: NDArray) -> NDArray:
    """(h, w) of (h, w, 3), ITU-R BT.601; uint8 by Pillow's integers, so that both agree."""
    if pixels.dtype == np.uint8:
        red, green, blue = (pixels[..., i].astype(np.uint32) for i in range(3))
        grey: NDArray = ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint8)
        return grey
    return pixels @ np.array([0.299, 0.587, 0.114], pixels.dtype)


# --- squares -----------------------------------------------------------------------------------------------------


def resized(pixels: NDArray, target: Target) -> NDArray[np.uint8]:
    """(size, size) or (size, size, 3) of uint8, or of float32 in 0..255, of any height and width."""
    size, (height, width) = target.image_size, pixels.shape[:2]
    if target.fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return _scaled(pixels[top : top + side, left : left + side], size, size)
    if target.fit == "stretch":
        return _scaled(pixels, size, size)
    longer = max(height, width)
    inner = _scaled(pixels, max(1, round(height * size / longer)), max(1, round(width * size / longer)))
    padded = np.zeros((size, size, *pixels.shape[2:]), np.uint8)
    top, left = (size - inner.shape[0]) // 2, (size - inner.shape[1]) // 2
    padded[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return padded


def _scaled(pixels: NDArray, height: int, width: int) -> NDArray[np.uint8]:
    if pixels.shape[:2] != (height, width):
        if pixels.dtype != np.uint8 and pixels.ndim == 3:
            return np.stack([_scaled(pixels[..., i], height, width) for i in range(3)], axis=2)
        pixels = np.asarray(_scaled_image(pixels, height, width))
    return pixels if pixels.dtype == np.uint8 else np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _scaled_image(pixels: NDArray, height: int, width: int) -> Image:
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels))
    down = max(1, image.height // height)
    across = max(1, image.width // width)
    box = (0.0, 0.0, image.width / across, image.height / down)
    if down > 1 or across > 1:
        image = image.reduce((across, down))
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.BICUBIC, box=box)
