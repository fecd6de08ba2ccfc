"""Kinds of bad DICOM and NIfTI files and of tables beside them, with what an import says of each."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any

import nibabel
import nibabel.testing
import numpy as np
import pydicom.data
from numpy.typing import NDArray
from PIL import Image
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
)

from tests.scaling.bad_case import BadCase
from tests.scaling.dicom_files import data_set, item, ramp, write

BITS_STORED, PIXEL_DATA = b"\x28\x00\x01\x01", b"\xe0\x7f\x10\x00"
SHIPPED = Path(pydicom.data.__file__).parent / "test_files"


def _shipped(name: str) -> Any:
    return lambda folder: (folder / "a.dcm").write_bytes((SHIPPED / name).read_bytes())


def _tags(pixels: NDArray | None = None, modality: str = "MR", **tags: Any) -> Any:
    return lambda folder: write(folder / "a.dcm", ramp() if pixels is None else pixels, modality=modality, **tags)


def _cut(before: bytes, more: int = 0) -> Any:
    """The file up to the tag that begins with these bytes, and some bytes more."""

    def make(folder: Path) -> None:
        path = write(folder / "a.dcm", ramp())
        data = path.read_bytes()
        path.write_bytes(data[: data.index(before) + more])

    return make


def _bad_rle_frame(folder: Path) -> None:
    made = data_set(np.stack([ramp()] * 3), NumberOfFrames=3)
    made.compress(RLELossless)
    coded = list(generate_frames(made.PixelData, number_of_frames=3))
    coded[1] = coded[1][:70]
    made.PixelData = encapsulate(coded)
    made.save_as(folder / "a.dcm", enforce_file_format=True)


def _coded(syntax: str, stream: bytes, **tags: Any) -> Any:
    def make(folder: Path) -> None:
        made = data_set(ramp(dtype=np.uint8, step=1), modality="US", syntax=syntax, **tags)
        made.PixelData = encapsulate([stream])
        made["PixelData"].is_undefined_length = True
        made.save_as(folder / "a.dcm", enforce_file_format=True)

    return make


def _half_a_jpeg(folder: Path) -> None:
    Image.fromarray(ramp(64, 64, np.uint8, 1)).save(folder / "a.jpg")
    stream = (folder / "a.jpg").read_bytes()
    (folder / "a.jpg").unlink()
    _coded(JPEGBaseline8Bit, stream[: len(stream) // 3], Rows=64, Columns=64)(folder)


def _without_syntax(folder: Path) -> None:
    made = data_set(ramp())
    made.compress(RLELossless)
    del made.file_meta.TransferSyntaxUID
    made.save_as(folder / "a.dcm", enforce_file_format=False, implicit_vr=False, little_endian=True)


def _deflate_bomb(folder: Path) -> None:
    """A tenth of a MiB that expands to 96 MiB of one private element."""
    path = write(folder / "a.dcm", ramp(), syntax=DeflatedExplicitVRLittleEndian)
    data = path.read_bytes()
    start = 132 + 12 + struct.unpack("<I", data[140:144])[0]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    with open(path, "wb") as file:
        file.write(data[:start])
        file.write(packer.compress(struct.pack("<HH2sHI", 9, 0x1001, b"OB", 0, 96 * 2**20)))
        zeros = bytes(2**24)
        for _ in range(6):
            file.write(packer.compress(zeros))
        file.write(packer.flush())


def _outside(folder: Path) -> None:
    outside = folder.parent / f"{folder.name}-outside"
    outside.mkdir()
    write(outside / "secret.dcm", ramp())
    (folder / "a.dcm").symlink_to(outside / "secret.dcm")


def _volume(
    voxels: NDArray | None = None, name: str = "a.nii", header: Any = None, affine: NDArray | None = None
) -> Any:
    def make(folder: Path) -> None:
        image = nibabel.Nifti1Image(_body() if voxels is None else voxels, np.eye(4) if affine is None else affine)
        if header is not None:
            header(image.header)
        nibabel.save(image, folder / name)

    return make


def good(folder: Path) -> None:
    """A file of either kind that is as it should be."""
    folder.mkdir()
    write(folder / "good.dcm", ramp())
    _volume(_body() - 1000, name="good.nii")(folder)  # in Hounsfield units too


def _body() -> NDArray:
    return np.random.default_rng(0).integers(100, 900, (12, 12, 12)).astype(np.int16)


def _edited(name: str, edit: Any) -> Any:
    """The bytes of a good volume, changed; compressed afterwards where the name says so."""

    def make(folder: Path) -> None:
        nibabel.save(nibabel.Nifti1Image(_body(), np.eye(4)), folder / "good.nii")
        data = edit(bytearray((folder / "good.nii").read_bytes()))
        (folder / "good.nii").unlink()
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)

    return make


def _at(place: int, value: bytes) -> Any:
    def edit(data: bytearray) -> bytearray:
        data[place : place + len(value)] = value
        return data

    return edit


def _half_a_gzip(folder: Path) -> None:
    _volume(name="a.nii.gz")(folder)
    data = (folder / "a.nii.gz").read_bytes()
    (folder / "a.nii.gz").write_bytes(data[: len(data) // 2])


def _nan(folder: Path) -> None:
    voxels = _body().astype(np.float32)
    voxels[3, 4, 5] = np.nan
    _volume(voxels)(folder)


def _header_alone(folder: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(_body(), np.eye(4)), folder / "a.hdr")
    (folder / "a.img").unlink()


def _connectivity(folder: Path) -> None:
    name = "row_major.dconn.nii"
    (folder / name).write_bytes((Path(str(nibabel.testing.data_path)) / name).read_bytes())


def _labelled(table: str) -> Any:
    def make(folder: Path) -> None:
        write(folder / "a.dcm", ramp())
        if table:
            (folder / "labels.csv").write_text(table)

    return make


DICOM: dict[str, Any] = {"reader": "dicom"}
NIFTI: dict[str, Any] = {"reader": "nifti", "modality": "mr"}
GRADED = DICOM | {
    "labels": {
        "file": "labels.csv",
        "key": "path",
        "tasks": {"grade": {"kind": "multi-class", "columns": ["grade"], "classes": ["low", "high"]}},
    }
}
BINARY = DICOM | {
    "labels": {"file": "labels.csv", "key": "path", "tasks": {"ill": {"kind": "binary", "columns": ["ill"]}}}
}


def _dicom(name: str, make: Any, aside: str, **options: Any) -> BadCase:
    return BadCase(name=f"DICOM: {name}", options=DICOM | options, make=make, aside=aside)


def _nifti(name: str, make: Any, aside: str, **options: Any) -> BadCase:
    return BadCase(name=f"NIfTI: {name}", options=NIFTI | options, make=make, aside=aside)


SIZES = "bad tags of the image's size"
CASES: tuple[BadCase, ...] = (
    _dicom("an empty file", lambda f: (f / "a.dcm").touch(), "no image: no tags of any"),
    _dicom("a text under its name", lambda f: (f / "a.dcm").write_text("hello " * 99), "no image: no tags of any"),
    _dicom("pixels cut short", _cut(PIXEL_DATA, 50), "truncated file"),
    _dicom("a header cut short", _cut(BITS_STORED), "missing tags: BitsStored, PixelRepresentation"),
    _dicom(
        "12 bits with missing tags",
        _tags(BitsStored=None, HighBit=None, PixelRepresentation=None),
        "missing tags: BitsStored, PixelRepresentation",
    ),
    _dicom("more bits stored than there are", _tags(BitsStored=20), SIZES),
    _dicom("no rows", _tags(Rows=0), SIZES),
    _dicom("an image of 16 GiB", _tags(Rows=65535, Columns=65535, BitsAllocated=32), "a frame of more than 1024 MiB"),
    _dicom("a number of frames that is none", _shipped("badVR.dcm"), "no image: RT Dose Storage"),
    _dicom(
        "CT values without a unit",
        _tags(modality="CT"),
        "no rescale: CT values without slope and intercept are no Hounsfield units",
    ),
    _dicom("a slope of 0", _tags(RescaleSlope=0, RescaleIntercept=0), "bad tag RescaleSlope"),
    _dicom("a modality nobody knows", _tags(Modality="OT"), "modality OT is not known: state it with `modality`"),
    _dicom("no modality", _tags(Modality=None), "modality missing is not known: state it with `modality`"),
    _dicom("a report", _shipped("reportsi.dcm"), "no image: Basic Text SR Storage"),
    _dicom("a segmentation", _shipped("liver_1frame.dcm"), "no image: Segmentation Storage"),
    _dicom("contours", _shipped("rtstruct.dcm"), "no image: RT Structure Set Storage"),
    _dicom("a table of contents", _shipped("dicomdirtests/DICOMDIR-implicit"), "no image: DICOMDIR"),
    _dicom("compressed pixels without a transfer syntax", _without_syntax, "no transfer syntax"),
    _dicom("a video", _coded(MPEG4HP41, b"\x00" * 64), "undecodable pixels: MPEG-4 AVC/H.264 High Profile / Level 4.1"),
    _dicom("half a JPEG", _half_a_jpeg, "undecodable pixels: JPEG Baseline"),
    _dicom("a bad frame among good ones", _bad_rle_frame, "undecodable pixels: RLE Lossless"),
    _dicom("a deflated file that never ends", _deflate_bomb, "expands beyond all measure"),
    _dicom(
        "a look-up table that is too short",
        _tags(VOILUTSequence=[item(LUTDescriptor=[256, 0, 8], LUTExplanation="x", LUTData=b"\x00" * 10)]),
        "damaged look-up table",
    ),
    _dicom(
        "a palette that is missing",
        _tags(np.zeros((4, 4), np.uint8), "US", PhotometricInterpretation="PALETTE COLOR"),
        "damaged look-up table",
    ),
    _dicom(
        "nothing inside the scanner's circle",
        _tags(np.full((4, 4), -2000, np.int16), PixelPaddingValue=-2000),
        "nothing but padding",
    ),
    _dicom("one grey all over", _tags(np.full((9, 9), 7, np.uint16)), "blank: every pixel is the same"),
    _dicom("text burned into the pixels", _tags(BurnedInAnnotation="YES"), "burned-in annotation"),
    _dicom("a scout", _tags(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "localizer or slide label"),
    _dicom(
        "a path without the group it should have",
        _tags(),
        "the pattern of `group` finds nothing in the path",
        group=r"^patient(\d+)/",
    ),
    BadCase(
        name="DICOM: a link out of the folder",
        options=DICOM,
        make=_outside,
        aside="a link out of the folder or to nothing",
    ),
    BadCase(name="DICOM: an empty folder", options=DICOM, make=lambda _: None, error="no DICOM file"),
    _nifti("an empty file", lambda f: (f / "a.nii").touch(), "truncated file"),
    _nifti("a text under its name", lambda f: (f / "a.nii").write_text("hello " * 99), "damaged header"),
    _nifti("a text under a compressed name", lambda f: (f / "a.nii.gz").write_text("hello " * 99), "damaged gzip"),
    _nifti("voxels cut short", _edited("a.nii", lambda data: data[:-1000]), "truncated file"),
    _nifti("half a gzip file", _half_a_gzip, "truncated file"),
    _nifti(
        "a header that claims 14 TiB",
        _edited("a.nii.gz", _at(42, struct.pack("<3h", 20000, 20000, 20000))),
        "a compressed volume of more than 4 GiB",
    ),
    _nifti(
        "voxels that begin beyond the file", _edited("a.nii.gz", _at(108, struct.pack("<f", 1e12))), "damaged header"
    ),
    _nifti(
        "a negative length", _edited("a.nii", _at(42, struct.pack("<h", -5))), "no image: lengths of its dimensions"
    ),
    _nifti("an affine of zeros", _edited("a.nii", _at(280, bytes(48))), "no orientation: the affine is singular"),
    _nifti(
        "CT without its intercept",
        _volume((_body() + 900).astype(np.int16)),
        "no rescale: the values of this CT are no Hounsfield units",
        modality="ct",
    ),
    _nifti("NaN voxels", _nan, "1 of 144 pixels are NaN or infinite"),
    _nifti("a volume of one value", _volume(np.full((9, 9, 9), 5, np.int16)), "blank volume"),
    _nifti("slices of nothing", _volume(np.pad(_body(), ((0, 0), (0, 0), (2, 2)))), "almost empty slice"),
    _nifti("complex voxels", _volume(_body().astype(np.complex64)), "complex voxels"),
    _nifti("vectors", _volume(np.zeros((4, 4, 4, 1, 3), np.float32)), "no image: vectors in place of voxels"),
    _nifti("a mask", _volume(name="case_seg.nii"), "no image: a mask by its name"),
    _nifti("labels of structures", _volume(header=lambda h: h.set_intent("label")), "no image: a map of labels"),
    _nifti("a header without voxels", _header_alone, "no .img beside the .hdr"),
    _nifti("connectivity of a surface", _connectivity, "no image: CIFTI"),
    BadCase(name="NIfTI: no modality", options={"reader": "nifti"}, make=_volume(), error="state it, such as"),
    BadCase(name="labels: no table", options=GRADED, make=_labelled(""), error="labels.csv': No such file"),
    BadCase(
        name="labels: a column is missing", options=GRADED, make=_labelled("path\na.dcm\n"), error="no column 'grade'"
    ),
    BadCase(
        name="labels: out of range",
        options=GRADED,
        make=_labelled("path,grade\na.dcm,huge\n"),
        error="line 2 (a.dcm): 'huge' is no class of grade: low, high",
    ),
    BadCase(
        name="labels: two rows say otherwise",
        options=GRADED,
        make=_labelled("path,grade\na.dcm,low\na.dcm,high\n"),
        error="line 3 (a.dcm): another row with this key says otherwise",
    ),
    BadCase(
        name="labels: paths of other files",
        options=GRADED,
        make=_labelled("path,grade\nimages\\a.dcm,low\n"),
        error="no key is the path of a file below the folder",
    ),
    BadCase(
        name="labels: three classes for two",
        options=BINARY,
        make=_labelled("path,ill\na.dcm,0\nb.dcm,1\nc.dcm,2\n"),
        error="a binary task has 2 classes, not 3",
    ),
)
