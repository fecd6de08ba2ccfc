"""What an import may say about the readers of clinical files: DICOM and NIfTI. Row 1."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from scaling.options import Fraction, Options
from scaling.reader_options import ReaderOptions, TaskColumns

Plane = Literal["axial", "coronal", "sagittal", "acquisition"]
Key = Literal["path", "instance", "series", "study", "patient"]


class LabelTable(Options):
    """A CSV beside the images with a label, or a split, per image, series, study or patient."""

    file: str
    """Below the import's folder, or an absolute path. UTF-8, with a header."""
    key: str
    """Its column that names what a row is about."""
    of: Key = "path"
    """What that column holds: the image's path below the import's folder, or (DICOM) SOPInstanceUID,
    SeriesInstanceUID, StudyInstanceUID, PatientID. An image without a row has no label."""
    tasks: dict[str, TaskColumns]
    """Task -> its columns."""
    split: str | None = None
    """Column with train, val or test."""


class MedicalReaderOptions(ReaderOptions):
    """What the readers of DICOM and NIfTI take."""

    key_file: str | None = None
    """File whose bytes key the hashes that stand for patients in the manifest; an absolute path, or below the import's
    folder. Without one the key is public: whoever has the store and a guess of an id can check the guess."""
    labels: LabelTable | None = None


class DicomOptions(MedicalReaderOptions):
    """`modality`: of all, or per value of the Modality tag, `missing` for files without one: {OT: dermoscopy}; beside
    the table in `importing/dicom_objects.py`. `group`: patient (default), study, series, file, or a regular expression
    with one group on the path. A file without that id falls back on the next of patient, study, series, file."""

    reader: Literal["dicom"]
    voi: Literal["auto", "file", "rule"] = "auto"
    """Which window maps values to 8 bits, where `window` gives none. file: the first window or VOI LUT of the file,
    else the modality's rule; rule: always the modality's; auto: rule for CT, whose units are absolute, so that scans
    compare whatever was on the reader's screen; file for all others."""
    stride: int = Field(default=1, gt=0)
    """Every n-th frame of a multi-frame file, from the first."""
    include: list[Literal["localizer", "mosaic", "burned-in", "raw"]] = []
    """Set aside unless named: scouts and slide labels; mosaics, a volume's slices side by side in one image; images
    whose pixels bear text by their BurnedInAnnotation, often the patient's name; detector images FOR PROCESSING, which
    nobody looks at and which double the processed ones."""


class NiftiOptions(MedicalReaderOptions):
    """`modality`: of all, or per pattern on the path as of a shell, the first that fits: {"*/ct/*": ct}; null takes
    what BIDS names say. `group`: folder, file, or a regular expression with one group on the path; null takes BIDS's
    `sub-XX`, else the file."""

    reader: Literal["nifti"]
    files: str = "*"
    """Shell pattern that a path must fit, such as `*_T1w.nii.gz`. Masks are set aside by their names anyhow."""
    plane: Plane = "axial"
    """Of the slices, by the affine; shown as radiologists do: patient's right on the left, anterior or superior on top.
    acquisition: the plane that the slices are stored in."""
    stride: int = Field(default=1, gt=0)
    """Every n-th slice, from the first after the margin."""
    margin: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of the slices left out at either end."""
    min_tissue: Fraction = 0.05
    """Slices with a smaller share of pixels above the background are set aside: above -500 HU in CT, else above a
    twentieth of the window."""
    percentiles: tuple[Annotated[float, Field(ge=0, le=100)], Annotated[float, Field(ge=0, le=100)]] = (0.5, 99.5)
    """Of a volume's voxels that are not zero: they become 0 and 255, unless `window` or Hounsfield units say."""
    volumes: Literal["first"] | Annotated[int, Field(gt=0)] = "first"
    """Of a 4D file: the first, or every n-th."""

    @field_validator("percentiles")
    @classmethod
    def _percentiles_rise(cls, percentiles: tuple[float, float]) -> tuple[float, float]:
        if percentiles[0] >= percentiles[1]:
            raise PydanticCustomError("percentiles", "the one that becomes 0 is below the one that becomes 255")
        return percentiles
