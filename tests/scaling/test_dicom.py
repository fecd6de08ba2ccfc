"""The DICOM reader: answers known by construction, pydicom's own arithmetic as reference, every file pydicom ships."""

from __future__ import annotations

import contextlib
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.data
import pytest
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels import apply_modality_lut, apply_windowing
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from scaling.errors import SpecError
from scaling.importing import dicom
from scaling.importing.conversion import RULES, Target, convert
from scaling.importing.dicom import Dicom
from scaling.importing.dicom_objects import MODALITIES
from scaling.importing.reader import Frame, Item, Unreadable
from scaling.medical_reader_options import DicomOptions
from tests.scaling.dicom_files import data_set, item, ramp, write

SHIPPED = Path(pydicom.data.__file__).parent / "test_files"
OT: dict[str, Any] = {"modality": {"OT": "photo", "missing": "photo"}}


def reader(path: Path, **options: Any) -> Dicom:
    return Dicom(DicomOptions.model_validate_json(json.dumps({"reader": "dicom", "path": str(path)} | options)))


def decoded(path: Path, **options: Any) -> list[Frame]:
    """All frames of all files below `path`; the first Unreadable is raised."""
    opened, frames = reader(path, **options), list[Frame]()
    for each in opened.items():
        for frame in opened.frames(each):
            if isinstance(frame, Unreadable):
                raise frame
            frames.append(frame)
    return frames


def seen(path: Path, **options: Any) -> NDArray[np.uint8]:
    """The one image of a file as it would be stored, at its own height (a square is cut by the importer)."""
    [frame] = decoded(path, **options)
    assert frame.about.modality is not None
    side = max(frame.pixels.shape[:2])
    target = Target(image_size=side, channels=3 if frame.pixels.ndim == 3 else 1, fit="pad", keep=("blank",))
    stored = convert(frame, frame.about.modality, target)
    top, left = ((side - n) // 2 for n in frame.pixels.shape[:2])
    cut = stored[:, top : top + frame.pixels.shape[0], left : left + frame.pixels.shape[1]]
    return cut[0] if len(cut) == 1 else cut.transpose(1, 2, 0)


def reason(path: Path, **options: Any) -> str:
    with pytest.raises(Unreadable) as caught:
        decoded(path, **options)
    return str(caught.value)


# --- windows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "low", "high"),
    # PS3.3 C.11.2.1.2: LINEAR spans width - 1 around center - 1/2, LINEAR_EXACT the width around the center
    [(None, 200.0, 455.0), ("LINEAR", 200.0, 455.0), ("LINEAR_EXACT", 200.0, 456.0)],
)
def test_a_window_becomes_0_to_255_as_the_standard_has_it(
    tmp_path: Path, function: str | None, low: float, high: float
) -> None:
    pixels = np.arange(100, 612, 2, dtype=np.uint16).reshape(16, 16)
    path = write(tmp_path / "a.dcm", pixels, WindowCenter=328, WindowWidth=256, VOILUTFunction=function)
    expected = np.rint(np.clip((pixels - low) / (high - low), 0, 1) * 255)
    np.testing.assert_allclose(seen(path), expected, atol=1)  # halves round either way in float32


def test_a_sigmoid_window_is_half_light_at_its_center(tmp_path: Path) -> None:
    pixels = np.array([[0, 1000, 1250, 2000]], np.uint16)
    path = write(tmp_path / "a.dcm", pixels, WindowCenter=1000, WindowWidth=1000, VOILUTFunction="SIGMOID")
    expected = 255 / (1 + np.exp(-4 * (pixels - 1000.0) / 1000))
    np.testing.assert_allclose(decoded(path)[0].pixels, expected, atol=0.51)


def test_of_several_windows_the_first_counts(tmp_path: Path) -> None:
    write(tmp_path / "a.dcm", ramp(), WindowCenter=[100, 600], WindowWidth=[101, 1001])
    write(tmp_path / "b.dcm", ramp(), WindowCenter=100, WindowWidth=101)
    first, second = decoded(tmp_path)
    assert first.window == second.window == (49.5, 149.5)


@pytest.mark.parametrize("width", [0, 1, -5])
def test_a_window_without_width_says_nothing(tmp_path: Path, width: int) -> None:
    path = write(tmp_path / "a.dcm", ramp(), WindowCenter=100, WindowWidth=width)
    assert decoded(path)[0].window is None


def test_the_users_choice_of_window_wins(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", ramp(), WindowCenter=100, WindowWidth=101)
    assert decoded(path, voi="rule")[0].window is None
    assert decoded(path, window=[5, 25])[0].window == (5.0, 25.0)


def test_eight_bits_stay_as_they_are_but_for_the_files_own_window(tmp_path: Path) -> None:
    pixels = ramp(dtype=np.uint8, step=2)
    plain = write(tmp_path / "a.dcm", pixels, modality="US")
    np.testing.assert_array_equal(seen(plain, window=[0, 100]), pixels)
    full = write(tmp_path / "b.dcm", pixels, modality="US", WindowCenter=128, WindowWidth=256)
    np.testing.assert_array_equal(seen(full), pixels)
    narrow = write(tmp_path / "c.dcm", pixels, modality="US", WindowCenter=100.5, WindowWidth=101)
    np.testing.assert_allclose(seen(narrow), np.clip((pixels - 50.0) * 2.55, 0, 255), atol=0.51)


def test_a_voi_lut_maps_what_no_window_can(tmp_path: Path) -> None:
    lut = item(LUTDescriptor=[4, 10, 8], LUTData=[0, 200, 100, 255])
    lut["LUTDescriptor"].VR = lut["LUTData"].VR = "US"
    path = write(tmp_path / "a.dcm", np.array([[0, 10, 11, 12, 13, 99]], np.uint16), VOILUTSequence=[lut])
    assert decoded(path)[0].pixels.tolist() == [[0, 0, 200, 100, 255, 255]]


def test_a_lut_of_signed_values_may_begin_below_zero(tmp_path: Path) -> None:
    lut = item(LUTDescriptor=[3, 2**16 - 10, 8], LUTData=[20, 30, 40])  # -10, written without a sign
    lut["LUTDescriptor"].VR = lut["LUTData"].VR = "US"
    path = write(tmp_path / "a.dcm", np.array([[-99, -10, -9, -8, 0]], np.int16), VOILUTSequence=[lut])
    assert decoded(path)[0].pixels.tolist() == [[20, 20, 30, 40, 40]]


def test_a_modality_lut_comes_before_the_window(tmp_path: Path) -> None:
    lut = item(LUTDescriptor=[3, 0, 16], LUTData=[1000, 3000, 2000], ModalityLUTType="US")
    lut["LUTDescriptor"].VR = lut["LUTData"].VR = "US"
    pixels = np.array([[0, 1, 2]], np.uint16)
    path = write(tmp_path / "a.dcm", pixels, ModalityLUTSequence=[lut], WindowCenter=2000.5, WindowWidth=2001)
    assert seen(path).tolist() == [[0, 255, 128]]


@pytest.mark.parametrize("name", ["MR_small.dcm", "examples_overlay.dcm", "dicomdirtests/77654033/CR1/6154"])
def test_windows_agree_with_pydicoms_own_arithmetic(name: str) -> None:
    header = pydicom.dcmread(SHIPPED / name)
    shown = apply_windowing(apply_modality_lut(header.pixel_array, header), header)
    top = 2.0 ** int(header.BitsStored) - 1
    bottom = -(top + 1) / 2 if header.PixelRepresentation else 0.0
    if header.get("RescaleSlope") is not None:
        slope, intercept = float(header.RescaleSlope), float(header.RescaleIntercept)
        bottom, top = bottom * slope + intercept, top * slope + intercept
    elif header.PixelRepresentation:
        top = (top - 1) / 2
    expected = (shown - bottom) / (top - bottom) * 255
    if header.PhotometricInterpretation == "MONOCHROME1":
        expected = 255 - expected
    np.testing.assert_allclose(seen(SHIPPED / name), expected, atol=1)


# --- light and dark, values and bits -----------------------------------------------------------------------------


@pytest.mark.parametrize("tags", [{}, {"WindowCenter": 400, "WindowWidth": 300}], ids=["rule", "window"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_monochrome1_is_the_negative_of_monochrome2(tmp_path: Path, dtype: Any, tags: dict[str, int]) -> None:
    # twenty pixels, so that the percentiles of the rule are the extremes of either
    pixels = np.linspace(0, 120 if dtype == np.uint8 else 900, 20).reshape(4, 5).astype(dtype)
    one = seen(write(tmp_path / "a.dcm", pixels, PhotometricInterpretation="MONOCHROME2", **tags))
    other = seen(write(tmp_path / "b.dcm", pixels, PhotometricInterpretation="MONOCHROME1", **tags))
    # by the rule of the modality the darkest value is left out of the percentiles, which is the other end in a negative
    np.testing.assert_allclose(other.astype(int), 255 - one.astype(int), atol=1 if tags or dtype == np.uint8 else 16)


def test_ct_comes_in_hounsfield_units_whatever_its_window_or_polarity(tmp_path: Path) -> None:
    tags = {"RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 80}
    pixels = ramp(dtype=np.int16)
    for name, photometric in (("a.dcm", "MONOCHROME1"), ("b.dcm", "MONOCHROME2")):
        write(tmp_path / name, pixels, modality="CT", PhotometricInterpretation=photometric, **tags)
    for frame in decoded(tmp_path):
        assert frame.window is None
        np.testing.assert_array_equal(frame.pixels, pixels * 2.0 - 1024)
    np.testing.assert_array_equal(seen(tmp_path / "b.dcm"), np.rint(np.clip((pixels * 2.0 - 864) / 400, 0, 1) * 255))


def test_ct_without_rescale_is_set_aside_unless_a_window_is_given(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", ramp(), modality="CT", WindowCenter=40, WindowWidth=80)
    assert reason(path) == "no rescale: CT values without slope and intercept are no Hounsfield units"
    assert decoded(path, voi="file")[0].window == (0.0, 79.0)
    assert decoded(path, window=[0, 100])[0].window == (0.0, 100.0)


@pytest.mark.parametrize("signed", [False, True])
def test_bits_above_those_stored_are_ignored(tmp_path: Path, signed: bool) -> None:
    values = np.array([[-2048, -1, 0, 2047]], np.int16) if signed else np.array([[0, 1, 2048, 4095]], np.uint16)
    words = (values.astype(np.int32) & 0x0FFF).astype(np.uint16)
    words[0, ::2] |= 0xF000  # an old overlay
    path = write(tmp_path / "a.dcm", words, BitsStored=12, HighBit=11, PixelRepresentation=int(signed))
    np.testing.assert_array_equal(decoded(path)[0].pixels, values)


def test_few_bits_in_a_byte_span_the_whole_range(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", np.array([[0, 3, 7]], np.uint8), modality="US", BitsStored=3, HighBit=2)
    assert seen(path).tolist() == [[0, 109, 255]]


def test_padding_is_as_dark_as_the_darkest_pixel_that_is_none(tmp_path: Path) -> None:
    pixels = np.array([[-2000, -2000, 5, 7]], np.int16)
    path = write(tmp_path / "a.dcm", pixels, PixelPaddingValue=-2000)
    assert decoded(path)[0].pixels.tolist() == [[5, 5, 5, 7]]
    negative = write(tmp_path / "b.dcm", pixels, PixelPaddingValue=-2000, PhotometricInterpretation="MONOCHROME1")
    assert decoded(negative)[0].pixels.tolist() == [[5, 5, 7, 5]]
    nothing = write(tmp_path / "c.dcm", np.full((2, 2), -2000, np.int16), PixelPaddingValue=-2000)
    assert reason(nothing) == "nothing but padding"


# --- colour ------------------------------------------------------------------------------------------------------


def test_colour_planes_and_colour_pixels_are_the_same_picture(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    write(tmp_path / "a.dcm", pixels, modality="OT")
    made = data_set(pixels, modality="OT", PlanarConfiguration=1)
    made.PixelData = pixels.transpose(2, 0, 1).tobytes()
    made.save_as(tmp_path / "b.dcm", enforce_file_format=True)
    for frame in decoded(tmp_path, **OT):
        np.testing.assert_array_equal(frame.pixels, pixels)


def test_a_palette_gives_colours(tmp_path: Path) -> None:
    red, green, blue = ([0, 100, 255], [5, 6, 7], [255, 0, 9])
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, values in (("Red", red), ("Green", green), ("Blue", blue)):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [3, 0, 8]
        tags[f"{name}PaletteColorLookupTableData"] = bytes(values)
    path = write(tmp_path / "a.dcm", np.array([[0, 1, 2, 3]], np.uint8), modality="US", **tags)
    assert decoded(path)[0].pixels.tolist() == [[[0, 5, 255], [100, 6, 0], [255, 7, 9], [255, 7, 9]]]


# The same bars of colour under a dozen encodings; lossy ones and those with thinned-out chroma are near.
BARS = ["dcmtk_+eb+cr", "dcmtk_+eb+cy+n1", "dcmtk_+eb+cy+n2", "dcmtk_+eb+cy+np", "dcmtk_+eb+cy+s2", "dcmtk_+eb+cy+s4"]
BARS += ["gdcm_KY", "jls_lossy_line", "jls_lossy_sample", "jpeg_dcmtk", "jpeg_gdcm", "jpeg_lossy_gdcm", "rle_16bit"]
BARS += ["rle_32bit"]


@pytest.mark.parametrize("name", BARS)
def test_the_same_picture_comes_out_of_every_encoding(name: str) -> None:
    [plain] = decoded(SHIPPED / "SC_rgb_rle.dcm", **OT)
    [other] = decoded(SHIPPED / f"SC_rgb_{name}.dcm", **OT)
    inside = np.r_[3:7, 13:17, 23:27, 33:37, 43:47, 53:57, 63:67, 73:77, 83:87, 93:97]  # away from the bars' edges
    assert np.abs(other.pixels[inside].astype(int) - plain.pixels[inside].astype(int)).max() <= 8


@pytest.mark.parametrize(
    "name",
    ["RLE", "bigendian", "expb", "implicit", "jp2klossless", "jpeg_ls_lossless", "padded"],
)
def test_the_same_scan_comes_out_of_every_lossless_syntax(name: str) -> None:
    np.testing.assert_array_equal(seen(SHIPPED / f"MR_small_{name}.dcm"), seen(SHIPPED / "MR_small.dcm"))


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_byte_order_and_deflation_change_nothing(tmp_path: Path, syntax: str) -> None:
    write(tmp_path / "a.dcm", ramp())
    write(tmp_path / "b.dcm", ramp(), syntax=syntax)
    one, other = decoded(tmp_path)
    np.testing.assert_array_equal(one.pixels, other.pixels)


def test_baseline_jpeg_is_never_handed_to_the_decoder_that_dies_of_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    handed = list[object]()
    monkeypatch.setattr("gdcm.Fragment", lambda: handed.append(1))
    assert len(decoded(SHIPPED / "SC_rgb_jpeg_dcmtk.dcm", **OT)) == 1
    assert not handed
    with contextlib.suppress(Unreadable):
        decoded(SHIPPED / "SC_rgb_jpeg_gdcm.dcm", **OT)  # lossless: to nobody else
    assert handed


def test_twelve_bit_jpeg_is_decoded(capfd: pytest.CaptureFixture[str]) -> None:
    # two values of this file that pydicom's own tests state of every decoder
    [frame] = decoded(SHIPPED / "JPGExtended.dcm")
    assert (frame.pixels[420, 140], frame.pixels[230, 120]) == (244, 95)


# --- frames ------------------------------------------------------------------------------------------------------


def frames_of(n: int) -> NDArray:
    return np.stack([ramp() + 1000 * number for number in range(n)]).astype(np.uint16)


def test_frames_are_images_of_their_own_by_stride(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", frames_of(5), NumberOfFrames=5)
    assert [frame.id for frame in decoded(path)] == [f"a.dcm#{n}" for n in range(5)]
    every_second = decoded(path, stride=2)
    assert [frame.id for frame in every_second] == ["a.dcm#0", "a.dcm#2", "a.dcm#4"]
    np.testing.assert_array_equal(every_second[1].pixels, ramp() + 2000)


@pytest.mark.parametrize("bad", [0, 1, 3])
def test_a_bad_frame_costs_that_frame_alone(tmp_path: Path, bad: int) -> None:
    from pydicom.encaps import encapsulate, generate_frames

    made = data_set(frames_of(4), NumberOfFrames=4)
    made.compress(RLELossless)
    coded = list(generate_frames(made.PixelData, number_of_frames=4))
    coded[bad] = coded[bad][:70]  # its header and a few bytes
    made.PixelData = encapsulate(coded)
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    opened = reader(tmp_path)
    [listed] = opened.items()
    found = list(opened.frames(listed))
    assert [n for n, frame in enumerate(found) if isinstance(frame, Unreadable)] == [bad]
    assert [(str(each), each.image_id) for each in found if isinstance(each, Unreadable)] == [
        ("undecodable pixels: RLE Lossless", f"a.dcm#{bad}")
    ]
    for number, frame in enumerate(found):
        if isinstance(frame, Frame):
            np.testing.assert_array_equal(frame.pixels, ramp() + 1000 * number)


def test_frames_of_enhanced_objects_have_their_own_tags(tmp_path: Path) -> None:
    own = [
        item(
            PixelValueTransformationSequence=[item(RescaleSlope=1 + n, RescaleIntercept=-n, RescaleType="US")],
            FrameVOILUTSequence=[item(WindowCenter=100 * (n + 1), WindowWidth=11)],
        )
        for n in range(2)
    ]
    shared = [item(PixelMeasuresSequence=[item(PixelSpacing=[2.0, 1.0])])]
    path = write(
        tmp_path / "a.dcm",
        frames_of(2),
        NumberOfFrames=2,
        PerFrameFunctionalGroupsSequence=own,
        SharedFunctionalGroupsSequence=shared,
    )
    first, second = decoded(path)
    assert (first.window, second.window) == ((94.5, 104.5), (194.5, 204.5))
    assert first.pixels.shape == second.pixels.shape == (16, 16)
    np.testing.assert_allclose(second.pixels[0], (ramp()[0] + 1000) * 2.0 - 1)


def test_oblong_pixels_are_made_square(tmp_path: Path) -> None:
    for name, tags in (("a.dcm", {"PixelSpacing": [1.5, 0.5]}), ("b.dcm", {"PixelAspectRatio": [3, 1]})):
        write(tmp_path / name, ramp(8, 16), **tags)
    for frame in decoded(tmp_path):
        assert frame.pixels.shape == (24, 16)


# --- what is no image --------------------------------------------------------------------------------------------

NO_IMAGE = "no image: "
BROKEN = {
    "ExplVR_BigEndNoMeta.dcm": NO_IMAGE + "RT Ion Plan Storage",
    "ExplVR_LitEndNoMeta.dcm": NO_IMAGE + "RT Ion Plan Storage",
    "JPEG2000-embedded-sequence-delimiter.dcm": "undecodable pixels: JPEG 2000 Image Compression",
    "MR_truncated.dcm": "truncated file",
    "UN_sequence.dcm": NO_IMAGE + "no tags of any",
    "badVR.dcm": NO_IMAGE + "RT Dose Storage",
    "empty_charset_LEI.dcm": NO_IMAGE + "no tags of any",
    "liver_1frame.dcm": NO_IMAGE + "Segmentation Storage",
    "liver_expb_1frame.dcm": NO_IMAGE + "Segmentation Storage",
    "meta_missing_tsyntax.dcm": NO_IMAGE + "no tags of any",
    "nested_priv_SQ.dcm": NO_IMAGE + "no tags of any",
    "no_meta.dcm": NO_IMAGE + "no tags of any",
    "no_meta_group_length.dcm": NO_IMAGE + "no tags of any",
    "priv_SQ.dcm": NO_IMAGE + "no tags of any",
    "reportsi.dcm": NO_IMAGE + "Basic Text SR Storage",
    "reportsi_with_empty_number_tags.dcm": NO_IMAGE + "Basic Text SR Storage",
    "rtdose.dcm": NO_IMAGE + "RT Dose Storage",
    "rtdose_1frame.dcm": NO_IMAGE + "RT Dose Storage",
    "rtdose_expb.dcm": NO_IMAGE + "RT Dose Storage",
    "rtdose_expb_1frame.dcm": NO_IMAGE + "RT Dose Storage",
    "rtdose_rle.dcm": NO_IMAGE + "RT Dose Storage",
    "rtdose_rle_1frame.dcm": NO_IMAGE + "RT Dose Storage",
    "rtplan.dcm": NO_IMAGE + "RT Plan Storage",
    "rtplan_truncated.dcm": NO_IMAGE + "RT Plan Storage",
    "rtstruct.dcm": NO_IMAGE + "RT Structure Set Storage",
    "test-SR.dcm": NO_IMAGE + "Comprehensive SR Storage",
    "waveform_ecg.dcm": NO_IMAGE + "12-lead ECG Waveform Storage",
    "dicomdirtests/98892001/CT2N/6293": "localizer or slide label",
    "dicomdirtests/98892001/CT2N/6924": "localizer or slide label",
}


def shipped() -> list[Item]:
    return list(reader(SHIPPED, **OT).items())


@pytest.mark.parametrize("listed", [pytest.param(each, id=each.id) for each in shipped()])
def test_every_file_that_pydicom_ships_is_decoded_or_set_aside_for_the_stated_reason(
    listed: Item, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = BROKEN.get(listed.id)
    if "DICOMDIR" in listed.id:
        expected = "no image: DICOMDIR"
    elif "TINY_ALPHA" in listed.id:
        expected = "no image: CT Image Storage"  # without any pixels
    found = None
    try:
        for frame in reader(SHIPPED, **OT).frames(listed):
            assert isinstance(frame, Frame)
            assert frame.about.modality in RULES
            convert(frame, frame.about.modality, Target(image_size=32, channels=1, keep=("blank",)))
    except Unreadable as why:
        found = str(why)
    assert found == expected


def test_some_hundred_shipped_files_are_listed_and_half_of_them_are_images() -> None:
    names = [each.id for each in shipped()]
    assert names == sorted(names)
    assert len(names) >= 165
    assert not {"README.txt", "rtplan.dump", "crayons.icc", "test1.json", "zipMR.gz"} & set(names)
    assert not [name for name in names if name.endswith("/DICOMDIR")]


@pytest.mark.parametrize(
    ("tags", "why", "option"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer or slide label", "localizer"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "mosaic of slices", "mosaic"),
        ({"BurnedInAnnotation": "YES"}, "burned-in annotation", "burned-in"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "raw detector image (FOR PROCESSING)", "raw"),
    ],
)
def test_what_nobody_wants_to_train_on_is_set_aside_unless_included(
    tmp_path: Path, tags: dict[str, Any], why: str, option: str
) -> None:
    path = write(tmp_path / "a.dcm", ramp(), modality="DX", **tags)
    assert reason(path) == why
    assert len(decoded(path, include=[option])) == 1


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        (
            {"BitsStored": None, "PixelRepresentation": None, "Rows": 8},
            "missing tags: BitsStored, PixelRepresentation",
        ),
        ({"PhotometricInterpretation": None}, "missing tags: PhotometricInterpretation"),
        ({"BitsStored": 20}, "bad tags of the image's size"),
        ({"Columns": 17}, "truncated file"),
        ({"Modality": "OT"}, "modality OT is not known: state it with `modality`"),
        ({"Modality": None}, "modality missing is not known: state it with `modality`"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "bad tag RescaleSlope"),
        ({"NumberOfFrames": 3}, "truncated file"),
    ],
)
def test_tags_without_which_pixels_mean_nothing_are_named(tmp_path: Path, tags: dict[str, Any], why: str) -> None:
    assert reason(write(tmp_path / "a.dcm", ramp(), **tags)) == why


@pytest.mark.parametrize(
    "name", ["MR_small.dcm", "MR_small_RLE.dcm", "SC_rgb_small_odd_jpeg.dcm", "MR_small_implicit.dcm"]
)
def test_random_damage_gives_images_or_reasons_and_nothing_else(tmp_path: Path, name: str) -> None:
    random, good = np.random.default_rng(0), (SHIPPED / name).read_bytes()
    path = tmp_path / "a.dcm"
    n_told = 0
    for _ in range(60):
        data = bytearray(good)
        for place in random.integers(0, 2500, random.integers(1, 6)):
            data[place % len(data)] = random.integers(256)
        path.write_bytes(data if random.random() < 0.7 else data[: random.integers(len(data))])
        try:
            for _ in reader(path, **OT).frames(Item(id="a.dcm", path=path, n_bytes=len(data), stamp="")):
                pass
        except Unreadable:
            n_told += 1
    assert n_told > 10


def test_tags_that_follow_from_others_may_be_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", ramp(), SamplesPerPixel=None, HighBit=None)
    np.testing.assert_array_equal(decoded(path)[0].pixels, ramp())


def bare(path: Path) -> None:
    """A data set without preamble or file meta information, as network captures hold."""
    made = Dataset()
    made.update(data_set(ramp()))
    made.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)


# --- listing -----------------------------------------------------------------------------------------------------


def test_files_are_found_by_content_where_their_name_says_nothing(tmp_path: Path) -> None:
    write(tmp_path / "scan.dcm", ramp())
    write(tmp_path / "IM0001", ramp())
    bare(tmp_path / "bare")
    write(tmp_path / "DICOMDIR", ramp())
    write(tmp_path / ".hidden.dcm", ramp())
    (tmp_path / "notes").write_text("not an image")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "table.csv").write_text("a,b")
    assert [each.id for each in reader(tmp_path).items()] == ["IM0001", "bare", "scan.dcm"]
    assert len(decoded(tmp_path)) == 3


def test_files_named_as_dicom_are_listed_unopened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.dcm", ramp())

    def no(*_: object, **__: object) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr(dicom, "open", no, raising=False)
    assert [each.id for each in reader(tmp_path).items()] == ["a.dcm"]


def test_a_link_out_of_the_folder_and_a_loop_of_folders_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    inside = tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    write(outside / "secret.dcm", ramp())
    write(inside / "a.dcm", ramp())
    (inside / "link.dcm").symlink_to(outside / "secret.dcm")
    (inside / "folder").symlink_to(outside)
    (inside / "loop").symlink_to(inside)
    (inside / "same.dcm").symlink_to(inside / "a.dcm")
    faults = {each.id: each.fault for each in reader(inside).items()}
    to_folder = "a link to a folder, which is not followed; import that as a source of its own"
    out = "a link out of the folder or to nothing"
    assert faults == {"a.dcm": None, "same.dcm": None, "link.dcm": out, "folder": to_folder, "loop": to_folder}


def test_one_file_is_a_source_too(tmp_path: Path) -> None:
    [listed] = reader(write(tmp_path / "a.dcm", ramp())).items()
    assert listed.id == "a.dcm"


def test_a_stamp_changes_with_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", ramp())
    [before] = reader(tmp_path).items()
    write(path, ramp(9, 16))
    [after] = reader(tmp_path).items()
    assert before.stamp != after.stamp
    assert after.n_bytes == path.stat().st_size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no DICOM file"),
        ({"group": "(a)(b)"}, "has 2 groups in parentheses"),
        ({"group": "(a"}, "is no regular expression"),
        ({"key_file": "nowhere"}, "No such file"),
    ],
)
def test_what_cannot_be_imported_is_said_at_once(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    (tmp_path / "a.txt").write_text("no image")
    with pytest.raises(SpecError, match=message.replace("(", r"\(").replace(")", r"\)")):
        list(reader(tmp_path, **options).items())


# --- who and what ------------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="does not exist; give the folder with the files"):
        reader(tmp_path / "nowhere")


def test_every_modality_of_the_table_has_a_rule() -> None:
    assert set(MODALITIES.values()) <= set(RULES)


def test_the_users_word_on_modality_wins(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", ramp(), modality="US")
    assert decoded(path)[0].about.modality == "ultrasound"
    assert decoded(path, modality="oct")[0].about.modality == "oct"
    assert decoded(path, modality={"us": "endoscopy"})[0].about.modality == "endoscopy"


def groups(path: Path, **options: Any) -> list[str | None]:
    return [frame.about.group for frame in decoded(path, **options)]


def test_images_of_a_patient_are_one_group(tmp_path: Path) -> None:
    write(tmp_path / "a.dcm", ramp(), PatientID="A", StudyInstanceUID="1.1")
    write(tmp_path / "b.dcm", ramp(), PatientID="A ", StudyInstanceUID="1.2")
    write(tmp_path / "c.dcm", ramp(), PatientID="B", StudyInstanceUID="1.3")
    a, b, c = groups(tmp_path)
    assert a == b != c
    a, b, c = groups(tmp_path, group="study")
    assert len({a, b, c}) == 3


@pytest.mark.parametrize("nobody", [None, "", "ANONYMOUS", "0"])
def test_without_a_patient_the_study_is_the_group_then_the_series_then_the_file(
    tmp_path: Path, nobody: str | None
) -> None:
    write(tmp_path / "a.dcm", ramp(), PatientID=nobody)
    write(tmp_path / "b.dcm", ramp(), PatientID=nobody, SeriesInstanceUID="1.9")
    write(tmp_path / "c.dcm", ramp(), PatientID=nobody, StudyInstanceUID=None)
    write(tmp_path / "d.dcm", ramp(), PatientID=nobody, StudyInstanceUID=None)
    write(tmp_path / "e.dcm", ramp(), PatientID=nobody, StudyInstanceUID=None, SeriesInstanceUID=None)
    write(tmp_path / "f.dcm", ramp(), PatientID=nobody, StudyInstanceUID=None, SeriesInstanceUID=None)
    a, b, c, d, e, f = groups(tmp_path)
    assert a == b
    assert c == d
    assert len({a, c, e, f}) == 4


def test_a_group_may_be_found_in_the_path(tmp_path: Path) -> None:
    for name in ("p1_a.dcm", "p1_b.dcm", "p2_a.dcm"):
        write(tmp_path / name, ramp(), PatientID=name)
    a, b, c = groups(tmp_path, group=r"^(p\d+)_")
    assert a == b != c
    write(tmp_path / "other.dcm", ramp())
    assert reason(tmp_path / "other.dcm", group=r"^(p\d+)_") == "the pattern of `group` finds nothing in the path"


def test_names_and_ids_of_patients_never_leave_the_reader_and_depend_on_the_key(tmp_path: Path) -> None:
    write(tmp_path / "a.dcm", ramp())
    (tmp_path / "key.txt").write_text("of this hospital alone")
    keys = set[str | None]()
    for options in ({}, {"key_file": "key.txt"}):
        [frame] = decoded(tmp_path / "a.dcm" if not options else tmp_path, **options)
        said = repr((frame.id, frame.about))
        for secret in ("0815", "Mustermann", "Erika", "1.2.3.1"):
            assert secret not in said
        assert frame.id == "a.dcm"
        keys.add(frame.about.group)
    assert len(keys) == 2


def test_labels_come_from_a_table_by_any_id(tmp_path: Path) -> None:
    for name, patient, study in (("a.dcm", "A", "1.1"), ("b.dcm", "B", "1.2"), ("c.dcm", "C", "1.3")):
        write(tmp_path / name, ramp(), PatientID=patient, StudyInstanceUID=study)
    (tmp_path / "labels.csv").write_text("who,file,study,grade,set\nA,a.dcm,1.1,mild,train\nB,b.dcm,1.2,severe,test\n")
    for of, key in (("path", "file"), ("patient", "who"), ("study", "study")):
        task = {"kind": "ordinal", "columns": ["grade"], "classes": ["none", "mild", "severe"]}
        table = {"file": "labels.csv", "key": key, "of": of, "tasks": {"grade": task}, "split": "set"}
        opened = reader(tmp_path, labels=table)
        assert opened.tasks()["grade"].classes == ("none", "mild", "severe")
        found = [(frame.about.split, dict(frame.about.labels)) for frame in decoded(tmp_path, labels=table)]
        assert found == [("train", {"grade": 1}), ("test", {"grade": 2}), (None, {})]


def test_the_warnings_of_a_file_are_not_the_users_business(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = write(tmp_path / "a.dcm", ramp(), PatientID="x" * 80, StudyDate="yesterday")
    caplog.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(decoded(path)) == 1
    with contextlib.suppress(Unreadable):
        decoded(SHIPPED / "MR_truncated.dcm")
    assert not caplog.records
