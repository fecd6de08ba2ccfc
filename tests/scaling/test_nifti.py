"""The NIfTI reader: bodies whose corners are known, stored in every order; every file nibabel ships."""

from __future__ import annotations

import gzip
import itertools
import json
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel
import nibabel.testing
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, inv_ornt_aff
from numpy.typing import NDArray

from scaling.errors import SpecError
from scaling.importing.conversion import Target, convert
from scaling.importing.nifti import Nifti
from scaling.importing.nifti_volume import MAX_VOLUME_BYTES
from scaling.importing.reader import Frame, Item, Unreadable
from scaling.medical_reader_options import NiftiOptions

SHIPPED = Path(str(nibabel.testing.data_path))
PLANES = ("axial", "coronal", "sagittal")


def reader(path: Path, **options: Any) -> Nifti:
    values = {"reader": "nifti", "path": str(path), "modality": "mr"} | options
    return Nifti(NiftiOptions.model_validate_json(json.dumps(values)))


def frames(path: Path, **options: Any) -> list[Frame | Unreadable]:
    opened = reader(path, **options)
    return [frame for listed in opened.items() for frame in opened.frames(listed)]


def images(path: Path, **options: Any) -> list[Frame]:
    return [frame for frame in frames(path, **options) if isinstance(frame, Frame)]


def reason(path: Path, **options: Any) -> str:
    with pytest.raises(Unreadable) as caught:
        frames(path, **options)
    return str(caught.value)


def save(path: Path, voxels: NDArray, affine: NDArray | None = None, kind: Any = nibabel.Nifti1Image) -> Path:
    nibabel.save(kind(voxels, np.eye(4) if affine is None else affine), path)
    return path


def body(*shape: int) -> NDArray[np.int16]:
    """(right, anterior, superior) voxels, all different and none zero."""
    shape = shape or (5, 6, 7)
    return np.random.default_rng(0).permutation(np.prod(shape)).reshape(shape).astype(np.int16) + 100


# --- how slices lie ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plane", "corner"),
    # by convention of radiologists: patient's right on the left; anterior, or superior, on top; sagittal to the left
    [("axial", (-1, -1, 3)), ("coronal", (-1, 3, -1)), ("sagittal", (3, -1, -1))],
)
def test_slices_lie_as_radiologists_show_them(tmp_path: Path, plane: str, corner: tuple[int, int, int]) -> None:
    voxels = body()
    [shown] = [frame for frame in images(save(tmp_path / "a.nii", voxels), plane=plane) if frame.id == "a.nii#3"]
    assert shown.pixels[0, 0] == voxels[corner]
    down, across = {"axial": (1, 0), "coronal": (2, 0), "sagittal": (2, 1)}[plane]
    below, beside = list(corner), list(corner)
    below[down], beside[across] = -2, -2
    assert shown.pixels[1, 0] == voxels[tuple(below)]
    assert shown.pixels[0, 1] == voxels[tuple(beside)]


ORDERS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


@pytest.mark.parametrize("plane", PLANES)
def test_one_body_gives_the_same_pictures_in_every_storage_order(tmp_path: Path, plane: str) -> None:
    voxels, affine = body(), np.diag([1.0, 1.0, 1.0, 1.0])
    expected = images(save(tmp_path / "ras.nii", voxels, affine), plane=plane)
    assert len(ORDERS) == 48
    for axes, flips in ORDERS:
        order = np.array(list(zip(axes, flips, strict=True)), float)
        stored = apply_orientation(voxels, order)
        path = save(tmp_path / "ras.nii", stored, affine @ inv_ornt_aff(order, voxels.shape))
        found = images(path, plane=plane)
        assert [frame.id for frame in found] == [frame.id for frame in expected]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one.pixels, other.pixels)


def test_a_tilted_scan_is_sliced_along_its_nearest_axis(tmp_path: Path) -> None:
    tilt = np.deg2rad(30)
    affine = np.eye(4)
    affine[1:3, 1:3] = [[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]]
    tilted, straight = (images(save(tmp_path / "a.nii", body(), each)) for each in (affine, np.eye(4)))
    for one, other in zip(tilted, straight, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)


def test_the_plane_of_acquisition_is_the_one_stored(tmp_path: Path) -> None:
    sagittal = np.array([[0, 0, 1.0, 0], [1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1.0]])  # the last axis is right
    path = save(tmp_path / "a.nii", body(), sagittal)
    for one, other in zip(images(path, plane="acquisition"), images(path, plane="sagittal"), strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
    image = nibabel.Nifti1Image(body(), sagittal)
    image.header.set_dim_info(slice=0)
    nibabel.save(image, path)
    assert len(images(path, plane="acquisition")) == 5


def test_voxels_of_other_lengths_become_square_pixels(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", body(), np.diag([1.0, 1.0, 4.0, 1.0]))
    assert images(path, plane="axial")[0].pixels.shape == (6, 5)
    assert images(path, plane="coronal")[0].pixels.shape == (28, 5)


def test_a_singular_affine_is_no_orientation_and_stops_only_who_needs_one(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", body())
    broken = bytearray(path.read_bytes())
    broken[280:328] = bytes(48)  # srow_x, srow_y, srow_z
    path.write_bytes(broken)
    assert reason(path) == "no orientation: the affine is singular"
    assert len(images(path, plane="acquisition")) == 7


# --- values ------------------------------------------------------------------------------------------------------


def test_the_files_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(body(), np.eye(4))
    image.header.set_slope_inter(2.0, -100.0)
    nibabel.save(image, tmp_path / "a.nii")
    plain = images(save(tmp_path / "b.nii", body()))
    for scaled, raw in zip(images(tmp_path / "a.nii"), plain, strict=True):
        np.testing.assert_allclose(scaled.pixels, raw.pixels * 2.0 - 100, atol=1)
        assert scaled.window is not None
        assert raw.window is not None
        np.testing.assert_allclose(scaled.window, np.array(raw.window) * 2 - 100, atol=1)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.nii.gz", nibabel.Nifti1Image),
        ("a.nii", nibabel.Nifti2Image),
        ("a.nii.gz", nibabel.Nifti2Image),
        ("a.img", nibabel.Nifti1Pair),
    ],
)
def test_the_same_volume_comes_out_of_every_kind_of_file(tmp_path: Path, name: str, kind: Any) -> None:
    expected = images(save(tmp_path / "plain.nii", body()))
    folder = tmp_path / "other"
    folder.mkdir()
    save(folder / name, body(), kind=kind)
    for one, other in zip(images(folder), expected, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        assert one.window == other.window


def test_big_endian_voxels_are_read(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(body(), np.eye(4), nibabel.Nifti1Header(endianness=">"))
    nibabel.save(image, tmp_path / "a.nii")
    np.testing.assert_array_equal(images(tmp_path / "a.nii")[0].pixels.sum(), body()[:, :, 0].sum())


def test_one_window_holds_for_a_whole_volume_and_leaves_zeros_out(tmp_path: Path) -> None:
    voxels = np.zeros((10, 10, 10), np.int16)
    voxels[2:8, 2:8] = np.arange(1, 361).reshape(6, 6, 10)
    found = images(save(tmp_path / "a.nii", voxels), percentiles=[10, 90])
    assert {frame.window for frame in found} == {tuple(np.percentile(np.arange(1, 361), (10, 90)))}
    assert {frame.window for frame in images(tmp_path / "a.nii", window=[5, 50])} == {(5.0, 50.0)}


def test_ct_keeps_its_units_and_no_window_of_its_own(tmp_path: Path) -> None:
    voxels = np.full((8, 8, 3), -1000, np.int16)
    voxels[2:6, 2:6] = 40
    found = images(save(tmp_path / "a.nii", voxels), modality="ct")
    assert [frame.window for frame in found] == [None, None, None]
    assert found[0].pixels.min() == -1000


def test_ct_in_units_that_cannot_be_hounsfields_is_set_aside(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(40, 20, (20, 20, 3))
    values[:5] = -1000
    save(tmp_path / "a.nii", values.astype(np.int16))
    assert len(images(tmp_path / "a.nii", modality="ct")) == 3
    save(tmp_path / "b.nii", (values + 1024).astype(np.int16))
    assert reason(tmp_path / "b.nii", modality="ct") == "no rescale: the values of this CT are no Hounsfield units"
    assert len(images(tmp_path / "b.nii", modality="ct", window=[864, 1264])) == 3


def test_a_plain_picture_is_one_slice(tmp_path: Path) -> None:
    picture = body(6, 5, 1)[..., 0]
    [shown] = images(save(tmp_path / "a.nii", picture))
    np.testing.assert_array_equal(shown.pixels, picture[::-1, ::-1].T)


def test_colour_voxels_are_colour_images(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (4, 5, 2, 3), dtype=np.uint8)
    voxels = colour.view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    [first, _] = images(save(tmp_path / "a.nii", voxels))
    np.testing.assert_array_equal(first.pixels, colour[::-1, ::-1, 0].transpose(1, 0, 2))


def test_nan_voxels_cost_their_slices_alone_and_move_no_window(tmp_path: Path) -> None:
    voxels = body().astype(np.float32)
    whole = images(save(tmp_path / "a.nii", voxels), percentiles=[0, 100])
    voxels[2, 2, 4] = np.nan
    torn = images(save(tmp_path / "a.nii", voxels), percentiles=[0, 100])
    assert whole[0].window is not None
    np.testing.assert_allclose(torn[0].window, whole[0].window, atol=1)  # type: ignore[arg-type]
    target = Target(image_size=8, channels=1)
    for number, frame in enumerate(torn):
        if number == 4:
            with pytest.raises(Unreadable, match="1 of 30 pixels are NaN or infinite"):
                convert(frame, "mr", target)
        else:
            convert(frame, "mr", target)


def test_a_map_of_two_values_is_black_and_white(tmp_path: Path) -> None:
    voxels = np.zeros((4, 4, 4), np.int16)
    voxels[1:] = 1
    assert images(save(tmp_path / "a.nii", voxels))[0].window == (0.0, 1.0)


# --- which slices ------------------------------------------------------------------------------------------------


def test_stride_and_margin_choose_slices(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", body(4, 4, 20))
    numbers = [int(frame.id.split("#")[1]) for frame in images(path, stride=4, margin=0.1)]
    assert numbers == [2, 6, 10, 14]


def test_almost_empty_slices_are_set_aside_one_by_one(tmp_path: Path) -> None:
    voxels = np.zeros((10, 10, 5), np.int16)
    voxels[:, :, 2] = body(10, 10, 1)[:, :, 0]
    voxels[0, :2, 1] = 150
    found = frames(save(tmp_path / "a.nii", voxels))
    aside = [(each.image_id, str(each)) for each in found if isinstance(each, Unreadable)]
    assert aside == [(f"a.nii#{number}", "almost empty slice") for number in (0, 1, 3, 4)]
    assert len(images(tmp_path / "a.nii", min_tissue=0.01)) == 2
    assert len(images(tmp_path / "a.nii", min_tissue=0)) == 5


def test_air_is_no_tissue_in_ct(tmp_path: Path) -> None:
    voxels = np.full((10, 10, 3), -1000, np.int16)
    voxels[..., 1] = -600  # lung, mostly air
    voxels[..., 2] = -90  # fat
    assert [frame.id for frame in images(save(tmp_path / "a.nii", voxels), modality="ct")] == ["a.nii#2"]


@pytest.mark.parametrize(("volumes", "numbers"), [("first", [0]), (1, [0, 1, 2, 3, 4]), (2, [0, 2, 4])])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_volumes_of_a_4d_file_are_chosen_by_stride(tmp_path: Path, name: str, volumes: Any, numbers: list[int]) -> None:
    voxels = np.stack([body() + 1000 * n for n in range(5)], axis=3).astype(np.int16)
    found = images(save(tmp_path / name, voxels), volumes=volumes)
    assert len(found) == 7 * len(numbers)
    assert len({frame.id for frame in found}) == len(found)
    assert sorted({int(frame.pixels.min()) // 1000 for frame in found}) == numbers


def test_a_blank_volume_of_a_4d_file_costs_that_volume_alone(tmp_path: Path) -> None:
    voxels = np.stack([body(), np.zeros_like(body()), body()], axis=3)
    found = frames(save(tmp_path / "a.nii", voxels), volumes=1)
    assert [(each.image_id, str(each)) for each in found if isinstance(each, Unreadable)] == [
        ("a.nii#1.0", "blank volume")
    ]
    assert len(found) == 15


# --- bad files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize(("kept", "why"), [(0.6, "truncated file"), (0.0, "truncated file")])
def test_a_file_cut_short_is_told(tmp_path: Path, name: str, kept: float, why: str) -> None:
    path = save(tmp_path / name, body(20, 20, 20))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    assert reason(path) == why


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.hdr"])
def test_junk_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(np.random.default_rng(0).bytes(5000))
    assert reason(tmp_path / name) in ("damaged header", "damaged gzip")


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.999])
def test_a_flipped_bit_in_a_compressed_file_is_told(tmp_path: Path, share: float) -> None:
    path = save(tmp_path / "a.nii.gz", body(30, 30, 30))
    data = bytearray(path.read_bytes())
    data[int(len(data) * share)] ^= 1
    path.write_bytes(data)
    assert reason(path) in ("damaged gzip", "truncated file")


@pytest.mark.parametrize("name", ["anatomical.nii", "example_nifti2.nii.gz", "functional.nii"])
def test_random_damage_gives_slices_or_reasons_and_nothing_else(tmp_path: Path, name: str) -> None:
    random, good = np.random.default_rng(0), (SHIPPED / name).read_bytes()
    path = tmp_path / name
    n_told = 0
    for _ in range(60):
        data = bytearray(good)
        for place in random.integers(0, 540, random.integers(1, 6)):
            data[place] = random.integers(256)
        path.write_bytes(data if random.random() < 0.7 else data[: random.integers(len(data))])
        try:
            for frame in reader(path).frames(Item(id=name, path=path, n_bytes=len(data), stamp="")):
                n_told += isinstance(frame, Unreadable)
        except Unreadable:
            n_told += 1
    assert n_told > 10


def test_a_bomb_is_never_expanded(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", body())
    with gzip.open(tmp_path / "bomb.nii.gz", "wb", compresslevel=1) as file:
        file.write(path.read_bytes())
        for _ in range(20):
            file.write(bytes(2**24))
    tracemalloc.start()
    assert len(images(tmp_path / "bomb.nii.gz")) == 7
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23


@pytest.mark.parametrize("place", [40, 108])
def test_a_header_that_claims_the_sky_is_refused_before_memory_is_taken(tmp_path: Path, place: int) -> None:
    data = bytearray(save(tmp_path / "a.nii", body()).read_bytes())
    if place == 40:
        data[42:48] = np.array([20000, 20000, 20000], "<i2").tobytes()
        assert MAX_VOLUME_BYTES < 20000**3 * 2
    else:
        data[108:112] = np.array([1e12], "<f4").tobytes()
    with gzip.open(tmp_path / "b.nii.gz", "wb") as file:
        file.write(data)
    expected = {40: "a compressed volume of more than 4 GiB", 108: "damaged header"}
    assert reason(tmp_path / "b.nii.gz") == expected[place]


def test_a_volume_of_one_value_is_blank(tmp_path: Path) -> None:
    assert reason(save(tmp_path / "a.nii", np.full((4, 4, 4), 7, np.int16))) == "blank volume"


def test_complex_voxels_and_vectors_are_no_pictures(tmp_path: Path) -> None:
    assert reason(save(tmp_path / "a.nii", body().astype(np.complex64))) == "complex voxels"
    vectors = np.zeros((4, 4, 4, 1, 3), np.float32)
    assert reason(save(tmp_path / "b.nii", vectors)) == "no image: vectors in place of voxels"


@pytest.mark.parametrize("name", ["sub-1_mask", "case_seg", "segmentation-12", "sub-2_desc-x_dseg", "liver-label"])
def test_masks_are_set_aside_by_their_names(tmp_path: Path, name: str) -> None:
    assert reason(save(tmp_path / f"{name}.nii", body())) == "no image: a mask by its name"


def test_a_map_of_labels_is_set_aside_by_its_header(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(body(), np.eye(4))
    image.header.set_intent("label")
    nibabel.save(image, tmp_path / "a.nii")
    assert reason(tmp_path / "a.nii") == "no image: a map of labels"


def test_links_that_are_not_followed_are_told(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    save(outside / "b.nii", body())
    (inside / "b.nii").symlink_to(outside / "b.nii")
    assert reason(inside) == "a link out of the folder or to nothing"
    (inside / "b.nii").unlink()
    (inside / "more").symlink_to(outside)
    assert "is not followed" in reason(inside)


def test_voxels_behind_a_link_out_of_the_folder_are_not_read(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    save(outside / "a.img", body(), kind=nibabel.Nifti1Pair)
    (inside / "a.hdr").write_bytes((outside / "a.hdr").read_bytes())
    assert reason(inside) == "no .img beside the .hdr"
    (inside / "a.img").symlink_to(outside / "a.img")
    assert reason(inside) == "a link out of the folder"


EXPECTED: dict[str, str | int] = {
    "analyze.hdr": "no .img beside the .hdr",
    "anatomical.nii": 25,
    "example4d.nii.gz": 24,
    "example_nifti2.nii.gz": 12,
    "functional.nii": 3,
    "nifti1.hdr": "no .img beside the .hdr",
    "nifti2.hdr": "no .img beside the .hdr",
    "reoriented_anat_moved.nii": 17,
    "resampled_anat_moved.nii": 3,
    "row_major.dconn.nii": "no image: CIFTI",
    "standard.nii.gz": 7,
}


def shipped() -> list[Item]:
    return list(reader(SHIPPED).items())


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("listed", [pytest.param(each, id=each.id) for each in shipped()])
def test_every_file_that_nibabel_ships_is_sliced_or_set_aside_for_the_stated_reason(listed: Item, plane: str) -> None:
    opened = reader(SHIPPED, plane=plane, keep=["nan"])
    try:
        found: str | int = 0
        for frame in opened.frames(listed):
            if isinstance(frame, Frame):
                convert(frame, "mr", Target(image_size=32, channels=1, keep=("nan", "blank")))
                found += 1
    except Unreadable as why:
        found = str(why)
    expected = EXPECTED[listed.id]
    if plane == "axial" or isinstance(expected, str):
        assert found == expected
    else:
        assert found > 0


def test_the_shipped_scan_and_its_moved_copy_are_both_axial_brains() -> None:
    # anatomical.nii is LAS on disk; the ventricles of its 13th slice are dark and lie in the middle of the picture
    [shown] = [frame for frame in images(SHIPPED / "anatomical.nii") if frame.id.endswith("#12")]
    height, width = shown.pixels.shape
    middle = shown.pixels[height // 4 : height // 2, width // 3 : 2 * width // 3]
    assert middle.min() < 0.5 * np.median(shown.pixels)


# --- whose and of what -------------------------------------------------------------------------------------------


def bids(tmp_path: Path) -> Path:
    for subject in ("sub-01", "sub-02"):
        (tmp_path / subject / "anat").mkdir(parents=True)
        save(tmp_path / subject / "anat" / f"{subject}_T1w.nii.gz", body())
        (tmp_path / subject / "pet").mkdir()
        save(tmp_path / subject / "pet" / f"{subject}_pet.nii", body())
    return tmp_path


def test_bids_names_tell_modality_and_patient(tmp_path: Path) -> None:
    found = images(bids(tmp_path), modality=None, plane="axial", stride=7)
    assert [frame.about.modality for frame in found] == ["mr", "pet", "mr", "pet"]
    one, two, three, four = (frame.about.group for frame in found)
    assert one == two != three == four
    assert one is not None
    assert "sub-01" not in one


def test_the_user_states_modalities_by_pattern(tmp_path: Path) -> None:
    found = images(bids(tmp_path), modality={"*/pet/*": "ct", "*": "mr"}, stride=7)
    assert [frame.about.modality for frame in found] == ["mr", "ct", "mr", "ct"]


def test_a_folder_that_says_no_modality_needs_one_stated(tmp_path: Path) -> None:
    save(tmp_path / "scan.nii", body())
    with pytest.raises(SpecError, match="state it, such as `modality: mr`"):
        list(reader(tmp_path, modality=None).items())


@pytest.mark.parametrize(("group", "n_groups"), [(None, 3), ("folder", 2), ("file", 3), (r"(p\d)", 1)])
def test_groups_are_files_folders_or_what_a_pattern_finds(tmp_path: Path, group: str | None, n_groups: int) -> None:
    for name in ("x/p1_a.nii", "x/p1_b.nii", "y/p1_c.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save(tmp_path / name, body())
    assert len({frame.about.group for frame in images(tmp_path, group=group)}) == n_groups


def test_only_files_that_fit_the_pattern_are_listed(tmp_path: Path) -> None:
    assert len(list(reader(bids(tmp_path), files="*_T1w.nii.gz").items())) == 2


def test_labels_of_patients_come_from_a_participants_table(tmp_path: Path) -> None:
    bids(tmp_path)
    (tmp_path / "participants.tsv").write_text("participant_id\tsex\nsub-01\tF\nsub-02\tM\n")
    table = {
        "file": "participants.tsv",
        "key": "participant_id",
        "of": "patient",
        "tasks": {"sex": {"kind": "binary", "columns": ["sex"]}},
    }
    assert reader(tmp_path, labels=table).tasks()["sex"].classes == ("F", "M")
    assert [frame.about.labels["sex"] for frame in images(tmp_path, labels=table, stride=7)] == [0, 0, 1, 1]
    with pytest.raises(SpecError, match="'study' is of DICOM alone"):
        reader(tmp_path, labels=table | {"of": "study"})


def test_a_pair_is_one_item_with_the_stamp_of_both(tmp_path: Path) -> None:
    save(tmp_path / "a.img", body(), kind=nibabel.Nifti1Pair)
    [listed] = reader(tmp_path).items()
    assert listed.id == "a.hdr"
    assert listed.n_bytes == sum((tmp_path / name).stat().st_size for name in ("a.hdr", "a.img"))
    (tmp_path / "a.img").write_bytes(bytes(10))
    [changed] = reader(tmp_path).items()
    assert changed.stamp != listed.stamp
