"""From stored DICOM values to what a radiologist sees: modality LUT, window, palette, negative. Row of data/.

The chain of PS3.3 C.11 and PS3.4 N.2, frame by frame, with tags from the functional groups of enhanced objects where
they stand there. What only a window says is left to the importer as `window`; what no window can say becomes 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scaling.importing.dicom_objects import Header, text
from scaling.importing.intensity import (
    Window,
    linear_window,
    looked_up,
    negative,
    rescaled,
    sigmoid,
    square_pixels,
    to_bytes,
)
from scaling.importing.reader import Unreadable

Voi = Literal["auto", "file", "rule"]


@dataclass(frozen=True, kw_only=True)
class Shown:
    pixels: NDArray
    window: Window | None


def shown(stored: NDArray, header: Header, frame: int, modality: str, voi: Voi, stated: Window | None) -> Shown:
    """Of the decoded values of one frame, (rows, columns) or (rows, columns, 3). Raises Unreadable."""
    photometric = text(header, "PhotometricInterpretation")
    bits = int(header.BitsStored)
    if stored.ndim == 3:
        found = Shown(pixels=to_bytes(stored, 2**bits - 1), window=None)
    elif photometric == "PALETTE COLOR":
        found = Shown(pixels=_palette(stored, header), window=None)
    elif photometric in ("MONOCHROME1", "MONOCHROME2"):
        found = _grey(stored, header, frame, modality, voi, stated)
    else:
        raise Unreadable(f"photometric interpretation {photometric} with one sample a pixel")
    height, width = _spacing(header, frame)
    return Shown(pixels=square_pixels(found.pixels, height, width), window=found.window)


def _grey(stored: NDArray, header: Header, frame: int, modality: str, voi: Voi, stated: Window | None) -> Shown:
    absolute = modality == "ct" and voi != "file"
    values, in_units = _modality_values(stored, header, frame)
    if values.dtype == np.uint8:
        stated = None  # eight bits stay as they are
    if absolute and not in_units and stated is None:
        raise Unreadable("no rescale: CT values without slope and intercept are no Hounsfield units")
    # Hounsfield units are dense where they are high; a negative would make bone dark in this one scan.
    inverted = text(header, "PhotometricInterpretation") == "MONOCHROME1" and not absolute
    values = _without_padding(values, stored, header, darkest=np.max if inverted else np.min)
    use_file = stated is None and (voi == "file" or (voi == "auto" and not absolute))
    mapped: NDArray | Window | None = _file_voi(values, header, frame) if use_file else stated
    if isinstance(mapped, np.ndarray):
        return Shown(pixels=negative(mapped, None) if inverted else mapped, window=None)
    if mapped is None and values.dtype == np.uint8 and int(header.BitsStored) < 8:
        mapped = (0.0, float(2 ** int(header.BitsStored) - 1))
    pixels = negative(values, mapped) if inverted else values
    # eight bits over their whole range stay what they are
    return Shown(pixels=pixels, window=None if pixels.dtype == np.uint8 and mapped == (0.0, 255.0) else mapped)


# --- tags, of the frame where it has its own ---------------------------------------------------------------------


def _tags(header: Header, frame: int, sequence: str) -> Any:
    """Item of a functional group for a frame, of its own or shared by all (PS3.3 C.7.6.16); else the header."""
    own = header.get("PerFrameFunctionalGroupsSequence")
    shared = header.get("SharedFunctionalGroupsSequence")
    for holder in (own[frame] if own and frame < len(own) else None, shared[0] if shared else None):
        if holder is not None and holder.get(sequence):
            return holder[sequence].value[0]
    return header


def _number(tags: Any, keyword: str) -> float | None:
    """The first value; None where there is none. Raises Unreadable for what is no number."""
    value = tags.get(keyword)
    if value is not None and not isinstance(value, str | float | int):  # several
        value = value[0] if len(value) else None
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except ValueError:
        raise Unreadable(f"bad tag {keyword}") from None
    if not np.isfinite(number):
        raise Unreadable(f"bad tag {keyword}")
    return number


def _spacing(header: Header, frame: int) -> tuple[float, float]:
    """Height and width of a pixel, in the file's unit; 1, 1 where it does not say."""
    tags = _tags(header, frame, "PixelMeasuresSequence")
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):
        value = tags.get(keyword) or header.get(keyword)
        try:
            if value is not None and len(value) == 2:
                return float(value[0]), float(value[1])
        except (TypeError, ValueError):
            continue
    return 1.0, 1.0


# --- the modality LUT --------------------------------------------------------------------------------------------


def _modality_values(stored: NDArray, header: Header, frame: int) -> tuple[NDArray, bool]:
    """Values in the modality's unit, and whether the file says how they get there (PS3.3 C.11.1)."""
    if header.get("ModalityLUTSequence"):
        first, table, _ = _lut(header.ModalityLUTSequence[0], header)
        return looked_up(stored, first, table), True
    tags = _tags(header, frame, "PixelValueTransformationSequence")
    slope, intercept = _number(tags, "RescaleSlope"), _number(tags, "RescaleIntercept")
    if slope is None or intercept is None:
        return stored, False
    if slope == 0:
        raise Unreadable("bad tag RescaleSlope")
    return rescaled(stored, slope, intercept), True


def _lut(item: Any, header: Header, of: str = "LUT") -> tuple[int, NDArray, int]:
    """First value mapped, entries, bits of an entry (PS3.3 C.11.1.1.1). Raises Unreadable."""
    descriptor, data = item.get(f"{of}Descriptor"), item.get(f"{of}Data")
    if descriptor is None or data is None or len(descriptor) != 3:
        raise Unreadable("damaged look-up table")
    n, first, bits = (int(value) for value in descriptor)
    n = n or 2**16
    if header.PixelRepresentation == 1 and first >= 2**15:  # written unsigned, meant signed
        first -= 2**16
    if isinstance(data, bytes):
        little = header.original_encoding[1] is not False
        kind = (
            np.dtype(np.uint8)
            if len(data) == n or (bits <= 8 and len(data) < 2 * n)
            else np.dtype("<u2" if little else ">u2")
        )
        table = np.frombuffer(data[: len(data) // kind.itemsize * kind.itemsize], kind)
    else:
        table = np.atleast_1d(np.asarray(data, np.uint16))
    if len(table) < n or not 1 <= bits <= 16:
        raise Unreadable("damaged look-up table")
    return first, table[:n].astype(np.uint16), bits


def _without_padding(values: NDArray, stored: NDArray, header: Header, *, darkest: Any) -> NDArray:
    """Pixels that are none, outside the scanner's circle, become as dark as the darkest that is one."""
    low = _number(header, "PixelPaddingValue")
    if low is None:
        return values
    high = _number(header, "PixelPaddingRangeLimit")
    low, high = min(low, low if high is None else high), max(low, low if high is None else high)
    padding = (stored >= low) & (stored <= high)
    if not padding.any():
        return values
    if padding.all():
        raise Unreadable("nothing but padding")
    values = values.copy()
    values[padding] = darkest(values[~padding])
    return values


# --- what is seen ------------------------------------------------------------------------------------------------


def _file_voi(values: NDArray, header: Header, frame: int) -> NDArray[np.uint8] | Window | None:
    """The first VOI LUT, else the first window (PS3.3 C.11.2): 8 bits where it is no straight line; None without."""
    if header.get("VOILUTSequence"):
        first, table, bits = _lut(header.VOILUTSequence[0], header)
        return to_bytes(looked_up(values, first, table), 2**bits - 1)
    tags = _tags(header, frame, "FrameVOILUTSequence")
    center, width = _number(tags, "WindowCenter"), _number(tags, "WindowWidth")
    if center is None or width is None:
        return None
    function = text(tags, "VOILUTFunction").upper() or "LINEAR"
    if function == "SIGMOID":
        return sigmoid(values, center, width) if width > 0 else None
    return linear_window(center, width, exact=function == "LINEAR_EXACT")


def _palette(stored: NDArray, header: Header) -> NDArray[np.uint8]:
    """(h, w, 3) by the palette (PS3.3 C.7.6.3.1.5), or (h, w) where all its colours that occur are grey."""
    if header.get("SegmentedRedPaletteColorLookupTableData"):
        from pydicom.pixels import apply_color_lut

        colour, bits = apply_color_lut(stored, header)[..., :3], int(header.RedPaletteColorLookupTableDescriptor[2])
    else:
        luts = [_lut(header, header, f"{name}PaletteColorLookupTable") for name in ("Red", "Green", "Blue")]
        colour, bits = np.stack([looked_up(stored, first, table) for first, table, _ in luts], axis=2), luts[0][2]
    if bits == 16 and colour.max(initial=0) < 256:  # said to be 16 bits deep, written with 8
        bits = 8
    pixels = to_bytes(colour, 2**bits - 1)
    grey = (pixels[..., :1] == pixels).all()
    return np.ascontiguousarray(pixels[..., 0]) if grey else pixels
