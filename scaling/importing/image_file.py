"""An encoded picture of any common format becomes pixels, within bounds. Row of data/.

TIFF is read by tifffile, which keeps 16-bit colour, 32-bit integers and doubles; Pillow reads the compressions that
tifffile leaves to a package of codecs, and all other formats. What the eye would see counts: orientation tags are
followed, palettes looked up, CMYK becomes RGB, transparent pixels show the background. Of a 16-bit PNG in colour Pillow
gives the upper 8 bits; in grey it gives all 16.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from scaling.importing.reader import About, Frame, Unreadable
from scaling.reader_options import PictureOptions

if TYPE_CHECKING:
    from PIL.Image import Image
    from tifffile import TiffPage

T = TypeVar("T")
ENDINGS = (
    ".png",
    ".apng",
    ".jpg",
    ".jpeg",
    ".jfif",
    ".tif",
    ".tiff",
    ".bmp",
    ".gif",
    ".webp",
    ".jp2",
    ".j2k",
    ".pgm",
    ".ppm",
)
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "DIB", "GIF", "WEBP", "JPEG2000", "PPM")
"""Pillow is asked for no others: some of them start programs."""
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MAX_FRAMES = 100_000
"""Of one file."""
DEPTHS = (8, 16, 32, 64)
PLAIN = (0, 1, 2)
"""Photometric interpretations that tifffile's values need no tables for: white is zero, black is zero, RGB."""
REDUCED, MASK = 1, 4
"""Bits of a page's kind: a smaller copy, a mask of transparency."""


def frames_of(content: bytes, image_id: str, options: PictureOptions, about: About) -> Iterator[Frame | Unreadable]:
    """Images of one encoded file: its id where it has one, `#0`, `#1` ... and one group where it has several.

    Raises Unreadable where it is none, and yields one for a page that is damaged.
    """
    if not content:
        raise Unreadable("empty file")
    pages = _pages(content, options)
    if options.frames == "first":
        pages = pages[:1]
    if len(pages) > 1 and about.group is None:
        about = replace(about, group=image_id)
    for number, page in enumerate(pages):
        name = image_id if len(pages) == 1 else f"{image_id}#{number}"
        try:
            pixels = page()
        except Unreadable as why:
            if len(pages) == 1:
                raise
            yield Unreadable(str(why), image_id=name)
            continue
        yield Frame(id=name, pixels=pixels, about=about)


def _pages(content: bytes, options: PictureOptions) -> list[Callable[[], NDArray]]:
    if content.startswith(TIFF_STARTS):
        found = _bounded(options.max_pixels, lambda: _tiff_pages(content, options))
        if found is not None:
            return found
    image = _bounded(options.max_pixels, lambda: _opened(content))
    n = _bounded(options.max_pixels, lambda: int(getattr(image, "n_frames", 1)))
    if image.format == "MPO":
        n = 1  # a camera's JPEG with a preview behind it
    if n > MAX_FRAMES:
        raise Unreadable(f"too many frames: {n}")
    return [partial(_bounded, options.max_pixels, partial(_picture, image, number, options)) for number in range(n)]


def _bounded(max_pixels: int, read: Callable[[], T]) -> T:
    """What `read` gives; a decoder's complaint becomes a reason. Raises Unreadable."""
    from PIL import Image, UnidentifiedImageError

    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return read()
    except (Unreadable, MemoryError):
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise Unreadable(f"too large: more than {max_pixels} pixels") from None
    except UnidentifiedImageError:
        raise Unreadable("no image") from None
    except Exception as error:  # decoders raise anything from struct.error to IndexError
        text = str(error)
        raise Unreadable(
            "truncated image" if "truncated" in text else f"damaged image: {text[:80] or type(error).__name__}"
        ) from None
    finally:
        Image.MAX_IMAGE_PIXELS = before


# --- Pillow ------------------------------------------------------------------------------------------------------


def _opened(content: bytes) -> Image:
    from PIL import Image

    Image.init()  # without it Pillow knows five formats alone
    return Image.open(io.BytesIO(content), formats=FORMATS)


def _picture(image: Image, number: int, options: PictureOptions) -> NDArray:
    from PIL import ImageOps

    if image.tell() != number:
        image.seek(number)
    if image.width * image.height > options.max_pixels:
        raise Unreadable(f"too large: more than {options.max_pixels} pixels")
    image.load()
    seen = ImageOps.exif_transpose(image)
    if seen.mode == "1":
        return np.asarray(seen.convert("L"))
    if seen.mode in ("L", "RGB"):
        return np.asarray(seen)
    if seen.mode.startswith(("I", "F")):
        values = np.asarray(seen)
        return values.astype(values.dtype.newbyteorder("="), copy=False)
    if seen.has_transparency_data:
        return _composited(np.asarray(seen.convert("RGBA")), options)
    return np.asarray(seen.convert("RGB"))


def _composited(pixels: NDArray, options: PictureOptions) -> NDArray:
    """(h, w) or (h, w, 3) in the dtype of pixels (h, w, 2 or 4), whose last channel is opacity."""
    colour, opaque = pixels[..., :-1], pixels[..., -1:]
    if pixels.dtype.kind == "f":
        full: Any = 1.0
    else:
        full = np.iinfo(pixels.dtype).max
    if (opaque == full).all():
        shown = colour
    else:
        share = np.clip(opaque.astype(np.float64) / full, 0, 1)
        under = full if options.background == "white" else 0
        mixed = colour * share + under * (1 - share)
        shown = (mixed if pixels.dtype.kind == "f" else np.rint(mixed)).astype(pixels.dtype)
    return shown[..., 0] if shown.shape[2] == 1 else shown


# --- tifffile ----------------------------------------------------------------------------------------------------


def _tiff_pages(content: bytes, options: PictureOptions) -> list[Callable[[], NDArray]] | None:
    """None where Pillow has to read it."""
    try:
        import tifffile
    except ImportError:  # Pillow alone would give other pixels: 8 bits of 16 in colour
        raise Unreadable("tifffile is not installed; pip install 'scaling-laws-orchestrator[readers]'") from None
    try:
        file = tifffile.TiffFile(io.BytesIO(content))
        found = list[Any]()
        for page in file.pages:
            found.append(page.aspage() if hasattr(page, "aspage") else page)
            if len(found) > MAX_FRAMES:
                raise Unreadable(f"too many frames: more than {MAX_FRAMES}")
    except tifffile.TiffFileError:
        raise Unreadable(
            "truncated image" if len(content) < 1024 else "damaged image: no TIFF behind its first bytes"
        ) from None
    pages = [page for page in found if not page.subfiletype & (REDUCED | MASK)]
    if not pages:
        raise Unreadable("no image: only reduced copies")
    if not all(_is_plain(page) for page in pages):
        return None
    return [partial(_bounded, options.max_pixels, partial(_page, page, options)) for page in pages]


def _is_plain(page: TiffPage) -> bool:
    from tifffile import COMPRESSION

    plain = (COMPRESSION.NONE, COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE, COMPRESSION.PACKBITS)
    return page.bitspersample in DEPTHS and page.photometric in PLAIN and page.compression in plain


def _page(page: TiffPage, options: PictureOptions) -> NDArray:
    sizes = (page.imagewidth, page.imagelength, page.imagedepth, page.samplesperpixel)
    if not all(isinstance(size, int) for size in sizes):  # a damaged tag holds a list, whose multiple is long
        raise Unreadable("damaged image: its size is no number")
    if page.samplesperpixel > 4:
        raise Unreadable(f"an image of {page.samplesperpixel} channels")
    if page.imagewidth * page.imagelength * page.imagedepth > options.max_pixels:
        raise Unreadable(f"too large: more than {options.max_pixels} pixels")
    if page.imagedepth > 1:
        raise Unreadable("a volume in one page")
    n_bytes = sum(page.databytecounts)
    if (page.compression == 1 and n_bytes < page.nbytes) or page.parent.filehandle.size < n_bytes:
        raise Unreadable("truncated image")
    values = np.asarray(page.asarray())
    if page.axes == "SYX":
        values = np.moveaxis(values, 0, -1)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.ndim == 3 and values.shape[2] in (2, 4):
        values = _composited(values, options)
    elif values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if page.photometric == 0 and values.dtype.kind == "u":
        values = np.iinfo(values.dtype).max - values
    tag = page.tags.get(274)
    return turned(values, int(tag.value) if tag is not None else 1)


def turned(pixels: NDArray, orientation: int) -> NDArray:
    """As the EXIF orientation 1-8 wants it shown; any other value leaves it as it is."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
