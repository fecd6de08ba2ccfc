"""DICOM files whose pixels and tags are known, written with pydicom for the tests of the reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",
    "US": "1.2.840.10008.5.1.4.1.1.6.1",
    "OT": "1.2.840.10008.5.1.4.1.1.7",
}


def data_set(
    pixels: NDArray, *, modality: str = "MR", syntax: str = ExplicitVRLittleEndian, **tags: Any
) -> FileDataset:
    """Of (h, w), (h, w, 3) or, with NumberOfFrames among the tags, (n, h, w) pixels; a tag that is None is left out."""
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CLASSES.get(modality, CLASSES["OT"])
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    meta.TransferSyntaxUID = syntax
    made = FileDataset(
        None,
        {},
        file_meta=meta,
        preamble=bytes(128),
        is_implicit_VR=syntax == ImplicitVRLittleEndian,
        is_little_endian=syntax != ExplicitVRBigEndian,
    )
    colour = pixels.shape[-1] == 3 and pixels.ndim >= 3 and "NumberOfFrames" not in tags
    height, width = pixels.shape[:2] if colour or pixels.ndim == 2 else pixels.shape[1:3]
    bits = 8 * pixels.dtype.itemsize
    values = {
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": "1.2.3.1",
        "SeriesInstanceUID": "1.2.3.2",
        "PatientID": "P-0815",
        "PatientName": "Mustermann^Erika",
        "Modality": modality,
        "Rows": height,
        "Columns": width,
        "SamplesPerPixel": 3 if colour else 1,
        "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "PlanarConfiguration": 0 if colour else None,
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        **tags,
    }
    for name, value in values.items():
        if value is not None:
            setattr(made, name, value)
    made.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    made["PixelData"].VR = "OB" if bits == 8 else "OW"
    return made


def write(
    path: Path, pixels: NDArray, *, modality: str = "MR", syntax: str = ExplicitVRLittleEndian, **tags: Any
) -> Path:
    data_set(pixels, modality=modality, syntax=syntax, **tags).save_as(path, enforce_file_format=True)
    return path


def item(**tags: Any) -> Dataset:
    """Of a sequence."""
    made = Dataset()
    for name, value in tags.items():
        setattr(made, name, value)
    return made


def ramp(height: int = 8, width: int = 16, dtype: Any = np.uint16, step: int = 10) -> NDArray:
    """0, step, 2 step, ... row by row."""
    return (np.arange(height * width).reshape(height, width) * step).astype(dtype)
