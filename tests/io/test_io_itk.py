from __future__ import annotations

import bz2
import gzip
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medseg import io
from medseg.core.errors import DataError
from medseg.core.geometry import Geometry
from medseg.core.volume import Labels, Volume
from tests.bad_nifti import AFFINE, SHAPE, make_image, make_label

GRID = Geometry(SHAPE, AFFINE)
VOXELS = make_image().tobytes(order="F")
MHA = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = False
TransformMatrix = -1 0 0 0 -1 0 0 0 1
Offset = 5 -7 -11
ElementSpacing = 1 1.5 3
DimSize = 12 10 8
ElementType = MET_SHORT
ElementDataFile = LOCAL
"""
NRRD = """NRRD0004
# a comment
type: short
dimension: 3
space: left-posterior-superior
sizes: 12 10 8
space directions: (-1,0,0) (0,-1.5,0) (0,0,3)
kinds: domain domain domain
endian: little
encoding: raw
space origin: (5,-7,-11)

"""


def write(path: Path, header: str, voxels: bytes = VOXELS) -> Path:
    path.write_bytes(header.encode() + voxels)
    return path


def code_of(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        io.read_volume(path)
    assert caught.value.hint
    assert str(path.parent) not in str(caught.value)
    return caught.value.code


def assert_is_the_image(path: Path) -> None:
    volume = io.read_volume(path)
    assert np.array_equal(volume.array[0], make_image())
    assert np.allclose(volume.geometry.affine, AFFINE)
    assert np.allclose(io.read_geometry(path).affine, AFFINE)


@pytest.mark.parametrize(
    ("old", "new", "voxels"),
    [
        ("", "", VOXELS),
        ("CompressedData = False", "CompressedData = True", zlib.compress(VOXELS)),
        (
            "BinaryDataByteOrderMSB = False",
            "BinaryDataByteOrderMSB = True",
            make_image().T.astype(">i2").tobytes(),
        ),
    ],
)
def test_mha_is_read_in_ras(old: str, new: str, voxels: bytes, tmp_path: Path) -> None:
    assert_is_the_image(write(tmp_path / "a.mha", MHA.replace(old, new), voxels))


def test_mhd_is_read_with_the_file_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "a.raw", "", VOXELS)
    assert_is_the_image(write(tmp_path / "a.mhd", MHA.replace("LOCAL", "a.raw"), b""))


@pytest.mark.parametrize("name", ["../a.raw", "/etc/hostname", "..", ".", "b.raw", "sub/a.raw"])
def test_name_in_a_header_never_leaves_its_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "case" / "sub").mkdir(parents=True)
    for place in (tmp_path, tmp_path / "case" / "sub"):
        write(place / "a.raw", "", VOXELS)
    assert code_of(write(tmp_path / "case" / "a.mhd", MHA.replace("LOCAL", name), b"")) == "DETACHED_DATA"


def test_link_beside_a_header_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "case").mkdir()
    write(tmp_path / "secret.raw", "", VOXELS)
    (tmp_path / "case" / "a.raw").symlink_to(tmp_path / "secret.raw")
    assert code_of(write(tmp_path / "case" / "a.mhd", MHA.replace("LOCAL", "a.raw"), b"")) == "DETACHED_DATA"


@pytest.mark.parametrize(
    ("old", "new", "voxels", "code"),
    [
        ("", "", VOXELS[:-1], "MHA_TRUNCATED"),
        ("", "", b"", "MHA_TRUNCATED"),
        ("", "", VOXELS + b"more", "MHA_TRAILING"),
        ("CompressedData = False", "CompressedData = True", zlib.compress(VOXELS)[:-5], "MHA_TRUNCATED"),
        ("CompressedData = False", "CompressedData = True", zlib.compress(VOXELS)[:-1] + b"?", "MHA_CRC"),
        ("CompressedData = False", "CompressedData = True", zlib.compress(VOXELS[:-2]), "MHA_TRUNCATED"),
        ("12 10 8", "12 10 0", VOXELS, "MHA_HEADER"),
        ("12 10 8", "12 10", VOXELS, "MHA_HEADER"),
        ("12 10 8", "-12 10 8", VOXELS, "MHA_HEADER"),
        ("12 10 8", "99999 99999 99999", VOXELS, "MHA_TOO_LARGE"),
        ("12 10 8", "999 999 999", VOXELS, "MHA_TRUNCATED"),
        ("MET_SHORT", "MET_OTHER", VOXELS, "MHA_LAYOUT"),
        ("BinaryData = True", "BinaryData = False", VOXELS, "MHA_LAYOUT"),
        ("LOCAL", "LIST", VOXELS, "MHA_LAYOUT"),
        ("LOCAL", "slice%03d.raw 1 8 1", VOXELS, "MHA_LAYOUT"),
        ("TransformMatrix = -1 0 0 0 -1 0 0 0 1\n", "", VOXELS, "MHA_NO_ORIENTATION"),
        ("-1 0 0 0 -1 0 0 0 1", "-1 0 0 -0.1 -0.995 0 0 0 1", VOXELS, "MHA_SHEARED"),
        ("ElementDataFile = LOCAL\n", "", b"", "MHA_HEADER"),
    ],
)
def test_damaged_mha_is_refused(old: str, new: str, voxels: bytes, code: str, tmp_path: Path) -> None:
    assert code_of(write(tmp_path / "a.mha", MHA.replace(old, new), voxels)) == code


@pytest.mark.parametrize(
    ("old", "new", "voxels"),
    [
        ("", "", VOXELS),
        ("encoding: raw", "encoding: gzip", gzip.compress(VOXELS)),
        ("encoding: raw", "encoding: bzip2", bz2.compress(VOXELS)),
        ("(-1,0,0)", "( -1.0, 0e0, 0 )", VOXELS),
        ("type: short", "type: short\r\nkey:=value", VOXELS),
        ("endian: little", "endian: big", make_image().T.astype(">i2").tobytes()),
        (
            "left-posterior-superior\nsizes: 12 10 8\nspace directions: (-1,0,0) (0,-1.5,0) (0,0,3)",
            "right-anterior-superior\nsizes: 12 10 8\nspace directions: (1,0,0) (0,1.5,0) (0,0,3)",
            VOXELS,
        ),
    ],
)
def test_nrrd_is_read_in_ras(old: str, new: str, voxels: bytes, tmp_path: Path) -> None:
    header = NRRD.replace(old, new)
    if "right-" in header:
        header = header.replace("(5,-7,-11)", "(-5,7,-11)")
    assert_is_the_image(write(tmp_path / "a.nrrd", header, voxels))


@pytest.mark.parametrize(
    ("old", "new", "voxels", "code"),
    [
        ("", "", VOXELS[:-1], "NRRD_TRUNCATED"),
        ("", "", VOXELS + b"more", "NRRD_TRAILING"),
        ("encoding: raw", "encoding: gzip", gzip.compress(VOXELS)[:-4], "NRRD_TRUNCATED"),
        ("encoding: raw", "encoding: gzip", gzip.compress(VOXELS)[:-8] + bytes(8), "NRRD_CRC"),
        ("encoding: raw", "encoding: gzip", gzip.compress(VOXELS[:-2]), "NRRD_TRUNCATED"),
        ("encoding: raw", "encoding: bzip2", bz2.compress(VOXELS)[:-20], "NRRD_TRUNCATED"),
        ("encoding: raw", "encoding: bzip2", bz2.compress(VOXELS[:-2]), "NRRD_TRUNCATED"),
        ("encoding: raw", "encoding: bzip2", bz2.compress(VOXELS + b"more"), "NRRD_TRAILING"),
        ("encoding: raw", "encoding: bzip2", bz2.compress(VOXELS)[:100] + bytes(900), "NRRD_CRC"),
        ("endian: little\n", "", VOXELS, "NRRD_HEADER"),
        ("(-1,0,0)", "(-1,0)", VOXELS, "NRRD_HEADER"),
        ("(-1,0,0)", "(nan,0,0)", VOXELS, "NRRD_AFFINE"),
        ("(-1,0,0)", "(0,0,0)", VOXELS, "NRRD_AFFINE"),
        ("encoding: raw", "encoding: ascii", VOXELS, "NRRD_LAYOUT"),
        ("sizes: 12 10 8", "sizes: 12 10 -8", VOXELS, "NRRD_HEADER"),
        ("sizes: 12 10 8", "sizes: 12 10", VOXELS, "NRRD_HEADER"),
        ("type: short", "type: block", VOXELS, "NRRD_LAYOUT"),
        ("encoding: raw", "encoding: raw\ndata file: /etc/hostname", VOXELS, "NRRD_LAYOUT"),
        ("encoding: raw", "encoding: raw\nbyte skip: 2", VOXELS, "NRRD_LAYOUT"),
        ("encoding: raw", 'encoding: raw\nspace units: "m" "m" "m"', VOXELS, "NRRD_LAYOUT"),
        ("space: left-posterior-superior\n", "space dimension: 3\n", VOXELS, "NRRD_NO_ORIENTATION"),
        ("space origin: (5,-7,-11)\n", "", VOXELS, "NRRD_NO_ORIENTATION"),
        ("(0,-1.5,0)", "(0.1,-1.5,0)", VOXELS, "NRRD_SHEARED"),
    ],
)
def test_damaged_nrrd_is_refused(old: str, new: str, voxels: bytes, code: str, tmp_path: Path) -> None:
    assert code_of(write(tmp_path / "a.nrrd", NRRD.replace(old, new), voxels)) == code


def test_nrrd_channels_come_first(tmp_path: Path) -> None:
    header = (
        NRRD.replace("dimension: 3", "dimension: 4")
        .replace("sizes: ", "sizes: 2 ")
        .replace("directions: ", "directions: none ")
        .replace("kinds: ", "kinds: vector ")
    )
    both = np.stack([make_image(), -make_image()])
    volume = io.read_volume(write(tmp_path / "a.nrrd", header, both.tobytes(order="F")))
    assert np.array_equal(volume.array, both)


@settings(max_examples=30, deadline=None)
@given(
    turn=st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1),
    suffix=st.sampled_from([".nrrd", ".mha", ".mhd"]),
    compressed=st.booleans(),
    channels=st.integers(1, 3),
    dtype=st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]),
)
def test_what_simpleitk_writes_is_read_as_simpleitk_reads_it(
    turn: tuple[float, ...], suffix: str, compressed: bool, channels: int, dtype: str
) -> None:
    array = np.random.default_rng(1).integers(0, 100, (8, 10, 12, channels)).astype(dtype)
    image = SimpleITK.GetImageFromArray(array if channels > 1 else array[..., 0], isVector=channels > 1)
    image.SetDirection(Rotation.from_quat(turn).as_matrix().ravel().tolist())
    image.SetSpacing((1, 1.5, 3))
    image.SetOrigin((5, -7, -11))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        SimpleITK.WriteImage(image, str(path), useCompression=compressed)
        volume = io.read_volume(path)
    assert volume.array.dtype == dtype
    assert np.array_equal(volume.array, array.transpose(3, 2, 1, 0))
    corner = np.array(image.TransformIndexToPhysicalPoint((11, 9, 7))) * (-1, -1, 1)
    assert np.allclose(volume.geometry.to_world((11, 9, 7)), corner, atol=1e-4)


def test_2d_mha_has_one_slice(tmp_path: Path) -> None:
    image = SimpleITK.GetImageFromArray(np.arange(70, dtype=np.uint8).reshape(10, 7))
    SimpleITK.WriteImage(image, str(tmp_path / "a.mha"))
    volume = io.read_volume(tmp_path / "a.mha")
    assert np.array_equal(volume.array[0, :, :, 0], np.arange(70).reshape(10, 7).T)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_labels_come_back_on_an_oblique_grid(suffix: str, tmp_path: Path) -> None:
    turn = np.eye(4)
    turn[:2, :2] = [[0.8, 0.6], [-0.6, 0.8]]
    grid = Geometry(SHAPE, turn @ AFFINE)
    io.write_labels(tmp_path / f"a{suffix}", Labels(make_label(), grid))
    back = io.read_labels(tmp_path / f"a{suffix}")
    assert np.array_equal(back.array, make_label())
    assert np.allclose(back.geometry.affine, grid.affine)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii.gz"])
def test_channels_are_read_back_by_us_and_the_grid_by_simpleitk(suffix: str, tmp_path: Path) -> None:
    both = np.stack([make_image(), -make_image()])
    io.write_volume(tmp_path / f"a{suffix}", Volume(both, GRID))
    assert np.array_equal(io.read_volume(tmp_path / f"a{suffix}").array, both)
    image = SimpleITK.ReadImage(str(tmp_path / f"a{suffix}"))
    assert image.GetSpacing()[:3] == pytest.approx((1, 1.5, 3))
    assert image.GetOrigin()[:3] == pytest.approx((5, -7, -11))


def test_mhd_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        io.write_labels(tmp_path / "a.mhd", Labels(make_label(), GRID))
    assert caught.value.code == "ITK_WRITE"
    assert not list(tmp_path.iterdir())


def test_nrrd_as_like_gives_scanner_coordinates(tmp_path: Path) -> None:
    like = write(tmp_path / "a.nrrd", NRRD)
    io.write_labels(tmp_path / "a.nii.gz", Labels(make_label(), GRID), like)
    assert np.allclose(io.read_geometry(tmp_path / "a.nii.gz").affine, AFFINE)
