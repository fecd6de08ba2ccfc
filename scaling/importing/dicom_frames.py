"""Stored values of a DICOM file, frame by frame: any transfer syntax, in bounded memory. Row of data/."""

from __future__ import annotations

import contextlib
import logging
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scaling.importing.dicom_objects import Header
from scaling.importing.reader import Unreadable

DEFLATED = "1.2.840.10008.1.2.1.99"
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
"""Left to Pillow: at a damaged one GDCM ends the whole process, Pillow says that it is damaged. JPEG Lossless has GDCM
alone."""
DAMAGED = "damaged header"
UNDEFINED = 0xFFFFFFFF
"""Length of an element that ends where a delimiter says, as compressed pixels do."""
MAX_FRAME_BYTES = 2**30
"""Of one decoded frame; the largest detectors give a twentieth of it."""
MAX_MEMORY = 2 * 2**30
"""Of a file that has to be read whole: deflated, or with tags that had to be completed."""
DEFLATION, ALWAYS_ALLOWED = 200, 64 * 2**20
"""How many times its size, and at least how many bytes, a deflated file may expand to; scans rarely reach ten times."""
TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "PatientID",
    "Modality",
    "ImageType",
    "PresentationIntentType",
    "BurnedInAnnotation",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "PixelAspectRatio",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    "RescaleIntercept",
    "RescaleSlope",
    "ModalityLUTSequence",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]
"""What is read of a header; all else is skipped."""
LOGS = ("pydicom", "pydicom.pixels.utils", "pydicom.pixels.decoders.base")
REQUIRED = ("PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation")


@contextlib.contextmanager
def guarded(otherwise: str) -> Iterator[None]:
    """What pydicom makes of a bad file becomes a reason, by default `otherwise`, and its warnings are kept back.

    To be around everything that touches tags, which are parsed only when they are asked for.
    """
    logs = [logging.getLogger(name) for name in LOGS]
    before = [log.disabled for log in logs]
    for log in logs:
        log.disabled = True  # a level would be obeyed too, at fifty times the cost
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (Unreadable, MemoryError):
        raise
    except Exception as error:
        raise Unreadable(_reason(error, otherwise)) from None
    finally:
        for log, was in zip(logs, before, strict=True):
            log.disabled = was


def header_of(path: Path) -> Header:
    """Tags without pixels, of files with and without preamble. Raises Unreadable."""
    import pydicom

    with guarded(DAMAGED):
        _bounded(path)
        return pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(TAGS))


def n_frames(header: Header) -> int:
    with guarded("bad tag NumberOfFrames"):
        return max(1, int(header.get("NumberOfFrames") or 1))


def stored_frames(path: Path, header: Header, indices: range) -> Iterator[tuple[int, NDArray | Unreadable]]:
    """(index, values) of each frame: (rows, columns), or (rows, columns, 3) in RGB; Unreadable in place of a bad one.

    Raises Unreadable where the file cannot be decoded at all, or its only frame.
    """
    with guarded(DAMAGED):
        _complete(header)
        syntax = header.file_meta.get("TransferSyntaxUID")
        twelve_bits = _twelve_bits(path, header) if syntax == JPEG_EXTENDED and header.BitsStored > 8 else None
    if twelve_bits is not None:
        yield 0, twelve_bits
        return
    at = indices
    plugin = "pillow" if syntax == JPEG_BASELINE else ""
    for values in _streamed(path, at, plugin):
        yield at[0], values
        at = at[1:]
    if not at:
        return
    whole = _whole(path)  # what the stream did not give, frame by frame out of memory: it forgives more
    for index in at:
        try:
            yield index, _alone(whole, index, plugin)
        except Unreadable as bad:
            if len(indices) == 1:
                raise
            yield index, bad


def _streamed(path: Path, indices: range, plugin: str) -> Iterator[NDArray]:
    """Frames as far as the file can be read as one stream, with one frame in memory at a time."""
    from pydicom.pixels import iter_pixels

    stream = iter_pixels(path, indices=None if indices.step == 1 else indices, decoding_plugin=plugin)
    for _ in indices:
        try:
            with guarded(DAMAGED):
                values = next(stream)
        except Unreadable:  # also where it ends early; the second way says why
            return
        yield values


def _alone(whole: Header, index: int, plugin: str) -> NDArray:
    """Raises Unreadable."""
    from pydicom.pixels import pixel_array

    with guarded(f"undecodable pixels: {_syntax(whole)}"):
        return pixel_array(whole, index=index, decoding_plugin=plugin)


def _complete(header: Header) -> None:
    """Raises Unreadable, naming them all, for tags without which values have no meaning, and for impossible ones."""
    missing = [keyword for keyword in REQUIRED if header.get(keyword) in (None, "")]
    if missing:
        raise Unreadable(f"missing tags: {', '.join(missing)}")
    with guarded("bad tags of the image's size"):
        sizes = [int(header[k].value) for k in ("Rows", "Columns", "BitsAllocated", "BitsStored")]
    rows, columns, allocated, bits = sizes
    if min(sizes) < 1 or bits > allocated:
        raise Unreadable("bad tags of the image's size")
    if rows * columns * max(8, allocated) // 8 * (header.get("SamplesPerPixel") or 1) > MAX_FRAME_BYTES:
        raise Unreadable(f"a frame of more than {MAX_FRAME_BYTES // 2**20} MiB")


def _bounded(path: Path) -> None:
    """Raises Unreadable for a deflated file that grows beyond all measure, before pydicom expands it."""
    from pydicom.filereader import read_file_meta_info

    with open(path, "rb") as file:
        if file.read(132)[128:] != b"DICM":
            return
    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != DEFLATED:
        return
    expander, n_bytes = zlib.decompressobj(-zlib.MAX_WBITS), 0
    most = min(MAX_MEMORY, max(ALWAYS_ALLOWED, DEFLATION * path.stat().st_size))
    with open(path, "rb") as file:
        file.seek(132 + 12 + meta.get("FileMetaInformationGroupLength", 0))
        while chunk := file.read(2**16):
            while chunk and not expander.eof:
                n_bytes += len(expander.decompress(chunk, 2**24))
                chunk = expander.unconsumed_tail
                if n_bytes > most:
                    raise Unreadable("expands beyond all measure")


def _whole(path: Path) -> Header:
    """The file with its pixels, and with tags completed that follow from others. Raises Unreadable."""
    import pydicom

    if path.stat().st_size > MAX_MEMORY:
        raise Unreadable("undecodable as a stream, and too large to be read whole")
    with guarded(DAMAGED):
        whole = pydicom.dcmread(path, force=True)
        _mend(whole)
        return whole


def _mend(whole: Header) -> None:
    from pydicom import uid

    if "TransferSyntaxUID" not in whole.file_meta:
        implicit, little = whole.original_encoding
        element = whole.get_item("PixelData")
        if element is None or element.length == UNDEFINED:  # compressed, nobody knows how
            raise Unreadable("no transfer syntax")
        explicit = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
        whole.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else explicit
    if whole.get("SamplesPerPixel") is None:
        grey = str(whole.PhotometricInterpretation).startswith(("MONOCHROME", "PALETTE"))
        whole.SamplesPerPixel = 1 if grey else 3
    if whole.SamplesPerPixel == 3 and whole.get("PlanarConfiguration") is None:
        whole.PlanarConfiguration = 0


def _twelve_bits(path: Path, header: Header) -> NDArray:
    """(rows, columns) of JPEG Extended at 12 bits, which pydicom leaves to nobody and GDCM's own reader decodes."""
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    read = reader.Read()
    data = reader.GetImage().GetBuffer() if read else None
    if data is None:
        raise Unreadable(f"undecodable pixels: {_syntax(header)}")
    # SWIG hands bytes over as text, whatever their values
    values = np.frombuffer(data.encode("utf-8", "surrogateescape"), np.uint16)
    if values.size != header.Rows * header.Columns:
        raise Unreadable(f"undecodable pixels: {_syntax(header)}")
    return values.reshape(header.Rows, header.Columns)


def _syntax(header: Header) -> str:
    syntax = header.file_meta.get("TransferSyntaxUID")
    return "no transfer syntax" if syntax is None else str(syntax.name).split(" (")[0]


def _reason(error: Exception, otherwise: str) -> str:
    """Short and the same for the same fault, so that a thousand of them count as one kind."""
    words = str(error)
    if isinstance(error, EOFError) or "less than expected" in words or "unexpected end" in words.lower():
        return "truncated file"
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be opened: {error.strerror}"
    if "no pixel data" in words:
        return "no pixel data"
    return otherwise
