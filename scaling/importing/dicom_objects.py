"""What a DICOM file is, by its tags: of which modality, whose, an image at all. Row of data/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from scaling.importing.pseudonym import pseudonym
from scaling.importing.reader import Unreadable

Header = Any
"""A pydicom Dataset; pydicom is imported only where files are read."""

MODALITIES: Mapping[str, str] = MappingProxyType(
    {
        # Defined terms of Modality (0008,0060), DICOM PS3.3 C.7.3.1.1.1 and PS3.16 CID 29. Left out, so that the user
        # has to say: OT (other), HC and FILMD (scanned film), and those that are no modality of ours.
        "CT": "ct",
        "MR": "mr",
        "CR": "xray",  # computed radiography
        "DX": "xray",  # digital radiography
        "RG": "xray",  # radiographic film
        "XA": "xray",  # angiography
        "RF": "xray",  # fluoroscopy
        "PX": "xray",  # panoramic
        "IO": "xray",  # intra-oral
        "BMD": "xray",  # bone densitometry
        "RTIMAGE": "xray",  # portal images of radiotherapy
        "DS": "xray",  # retired: subtraction angiography
        "DF": "xray",  # retired: digital fluoroscopy
        "MG": "mammography",
        "US": "ultrasound",
        "IVUS": "ultrasound",  # intravascular
        "BDUS": "ultrasound",  # bone densitometry
        "EC": "ultrasound",  # retired: echocardiography
        "NM": "nuclear",
        "ST": "nuclear",  # retired: SPECT
        "PT": "pet",
        "OP": "fundus",  # ophthalmic photography
        "OPT": "oct",  # ophthalmic tomography
        "OPTENF": "octa",  # en face images of it
        "OCT": "oct",  # of other organs
        "IVOCT": "oct",  # intravascular
        "ES": "endoscopy",
        "DMS": "dermoscopy",
        "XC": "photo",  # external camera
        "SM": "histology",  # slide microscopy
        "GM": "microscopy",  # general microscopy
        "CFM": "microscopy",  # confocal
    }
)
NO_IMAGE = MappingProxyType(
    {
        # Pixel data that is no picture of a patient: SOP classes of PS3.4 B.5.
        "1.2.840.10008.5.1.4.1.1.66.4": "Segmentation Storage",
        "1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation Storage",
        "1.2.840.10008.5.1.4.1.1.481.2": "RT Dose Storage",
    }
)
DIRECTORY = "1.2.840.10008.1.3.10"
"""Media Storage SOP Class of a DICOMDIR, the table of contents of a disk."""
NOBODY = frozenset({"", "0", "anon", "anonymous", "anonymized", "anonymised", "n/a", "na", "none", "null", "unknown"})
"""Patient ids that de-identification leaves to everybody, lower case: taken for no id, lest all patients be one."""
LEVELS = ("patient", "study", "series", "file")
ID_OF = MappingProxyType(
    {
        "patient": "PatientID",
        "study": "StudyInstanceUID",
        "series": "SeriesInstanceUID",
        "instance": "SOPInstanceUID",
    }
)


def text(header: Header, keyword: str) -> str:
    """A tag's value as text without padding; empty where it is absent or cannot be read."""
    try:
        value = header.get(keyword)
    except Exception:  # a value that its own type forbids: as if it were not there
        return ""
    return "" if value is None else str(value).strip().strip("\0").strip()


def modality_of(header: Header, stated: str | Mapping[str, str] | None) -> str:
    """By the user's statement, else by the table. Raises Unreadable where neither knows."""
    if isinstance(stated, str):
        return stated
    code = text(header, "Modality").upper()
    known = {**MODALITIES, **{key.upper(): value for key, value in (stated or {}).items()}}
    found = known.get(code or "MISSING")
    if found is None:
        raise Unreadable(f"modality {code or 'missing'} is not known: state it with `modality`")
    return found


def group_of(header: Header, level: str, image_id: str, key: bytes) -> str:
    """Pseudonym of the patient, or from `level` on of the first of study, series and file that the tags tell."""
    for each in LEVELS[LEVELS.index(level) : -1]:
        value = text(header, ID_OF[each])
        if value.lower() not in NOBODY:
            return pseudonym(each, value, key)
    return pseudonym("file", image_id, key)


def refuse_non_images(header: Header, include: Sequence[str]) -> None:
    """Raises Unreadable for reports, plans, segmentations, doses, and for what is set aside unless included."""
    sop_class, modality = header.get("SOPClassUID"), text(header, "Modality")
    if header.file_meta.get("MediaStorageSOPClassUID") == DIRECTORY:
        raise Unreadable("no image: DICOMDIR")
    name = NO_IMAGE.get(str(sop_class))
    if name is None and header.get("Rows") is None:
        name = getattr(sop_class, "name", "") or modality or "no tags of any"
    if name is not None:
        raise Unreadable(f"no image: {name}")
    kind = {str(word).upper() for word in header.get("ImageType") or ()}
    scouts = {"LOCALIZER", "LABEL", "OVERVIEW"} if modality == "SM" else {"LOCALIZER"}
    if "localizer" not in include and kind & scouts:
        raise Unreadable("localizer or slide label")
    if "mosaic" not in include and "MOSAIC" in kind:
        raise Unreadable("mosaic of slices")
    if "burned-in" not in include and text(header, "BurnedInAnnotation").upper() == "YES":
        raise Unreadable("burned-in annotation")
    if "raw" not in include and text(header, "PresentationIntentType").upper() == "FOR PROCESSING":
        raise Unreadable("raw detector image (FOR PROCESSING)")
