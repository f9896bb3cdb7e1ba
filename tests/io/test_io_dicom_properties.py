"""Whatever way a series lies, is stored and is ordered: what is read lies on the ramp, or is refused."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    RLELossless,
)

from medseg.core.errors import DataError
from medseg.io.dicom import Options, choose_scans, find_series, read_scan
from tests.dicom_enhanced import Object, in_order, write_enhanced
from tests.dicom_files import Grid, Ramp, Store, Truth, to_vector, write_series
from tests.ramp_checks import why_not, why_not_repaired

SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLosslessSV1,
)
thirty = settings(max_examples=30, deadline=None, derandomize=True)


@st.composite
def grids(draw: st.DrawFn, *, slices: tuple[int, int] = (2, 6)) -> Grid:
    """Any orientation, spacing and place; slices in any order."""
    angles = [draw(st.floats(-180, 180)) for _ in range(3)]
    spacing = draw(st.tuples(st.floats(0.3, 3), st.floats(0.3, 3)))
    at = draw(st.permutations([float(k) for k in range(draw(st.integers(*slices)))]))
    origin = draw(st.tuples(*[st.floats(-300, 300)] * 3))
    step_mm = (0.0, 0.0, draw(st.floats(0.5, 8)))
    grid = Grid(
        origin_mm=origin,
        pixel_mm=spacing,
        step_mm=step_mm,
        rows=draw(st.integers(2, 8)),
        columns=draw(st.integers(2, 8)),
        at=tuple(at),
    )
    return grid.turned(*angles)


@st.composite
def stores(draw: st.DrawFn) -> Store:
    """Any syntax and type; the rescale is found for the values, see `fit`."""
    syntax = draw(st.sampled_from(SYNTAXES))
    stored = draw(st.sampled_from([0, 12]))
    return Store(stored=stored, signed=draw(st.booleans()), syntax=syntax)


def fit(store: Store, grid: Grid, ramp: Ramp, slopes: Sequence[float]) -> Store:
    """Choose slopes and an intercept that let the values fill what the type holds."""
    values = np.stack([ramp.at(grid.points(k)) for k in range(len(grid.at))])
    least = float(np.ptp(values)) / (2**store.stored_bits - 3)
    middle = float(values.mean() if store.signed else values.min())
    if store.signed:
        least = max(least, float(np.abs(values - middle).max()) / (2 ** (store.stored_bits - 1) - 2))
    rescale = tuple((round(max(slope, least), 6) + 1e-6, round(middle, 3) - 0.001) for slope in slopes)
    return replace(store, rescale=rescale)


def load(folder: Path, options: Options | None = None) -> tuple[np.ndarray, np.ndarray]:
    (scan,) = choose_scans(find_series(folder, options or Options()))
    volume = read_scan(scan)
    return volume.array[0].astype(np.float64), volume.geometry.affine


def loosen(truth: Truth) -> Truth:
    """Allow for float32 and for decimal strings of 16 digits beside the rounding to stored numbers."""
    return replace(truth, slack=truth.slack + 0.01)


@given(grids(), stores(), st.lists(st.floats(0.05, 2), min_size=1, max_size=3))
@thirty
def test_single_frame_series_lies_on_its_ramp(grid: Grid, store: Store, slopes: list[float]) -> None:
    ramp = Ramp()
    with tempfile.TemporaryDirectory() as folder:
        fitted = fit(store, grid, ramp, slopes)
        truth = write_series(Path(folder), grid, ramp=ramp, store=fitted, kind="MR", name="{folder}/{h}")
        assert why_not(*load(Path(folder)), loosen(truth)) == ""


@given(grids(), stores(), st.sets(st.sampled_from(["orientation", "measures", "rescale"])))
@thirty
def test_multi_frame_object_lies_on_its_ramp(grid: Grid, store: Store, shared: set[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = Object(store=fit(store, grid, Ramp(), [0.25, 0.5]), shared=shared)
        truth = write_enhanced(Path(folder) / "image", in_order(range(len(grid.at)), grid), made)
        assert why_not(*load(Path(folder)), loosen(truth)) == ""


@given(grids(slices=(4, 7)), st.data())
@thirty
def test_missing_slice_between_others_is_a_gap(grid: Grid, data: st.DataObject) -> None:
    missing = data.draw(st.integers(1, len(grid.at) - 2))
    rest = replace(grid, at=tuple(at for at in grid.at if at != missing))
    with tempfile.TemporaryDirectory() as folder, pytest.raises(DataError) as caught:
        write_series(Path(folder), rest, store=fit(Store(), rest, Ramp(), [1]))
        load(Path(folder), Options(allow_tilt=True, allow_resample_z=True))
    assert caught.value.code == "DICOM_GAP"


@given(grids(slices=(3, 6)), st.floats(3, 30), st.booleans())
@thirty
def test_tilted_series_is_refused_and_its_repair_lies_on_the_ramp(
    grid: Grid, degrees: float, sideways: bool
) -> None:
    along = np.array(grid.row if sideways else grid.column) * np.tan(np.deg2rad(degrees))
    grid = replace(
        grid, step_mm=to_vector(grid.step + along * np.linalg.norm(grid.step)), rows=24, columns=24
    )
    shear_mm = float(np.linalg.norm(along)) * 3
    assume(shear_mm > 0.1)  # less than a twentieth over the whole stack is what rounding does
    with tempfile.TemporaryDirectory() as folder:
        truth = write_series(Path(folder), grid, store=fit(Store(), grid, Ramp(), [0.05]))
        with pytest.raises(DataError) as caught:
            load(Path(folder))
        assert caught.value.code == "DICOM_TILT"
        volume = load(Path(folder), Options(allow_tilt=True))
        assert why_not_repaired(*volume, replace(truth, slack=truth.slack + 0.6)) == ""


@given(grids(slices=(4, 4)), st.floats(0.05, 0.4))
@thirty
def test_uneven_series_is_refused_and_its_repair_lies_on_the_ramp(grid: Grid, shift: float) -> None:
    grid = replace(grid, at=tuple(at + shift * (at == 1) for at in grid.at))
    with tempfile.TemporaryDirectory() as folder:
        truth = write_series(Path(folder), grid, store=fit(Store(), grid, Ramp(), [0.05]))
        with pytest.raises(DataError) as caught:
            load(Path(folder))
        assert caught.value.code == "DICOM_SPACING"
        volume = load(Path(folder), Options(allow_resample_z=True))
        assert why_not_repaired(*volume, replace(truth, slack=truth.slack + 0.6)) == ""


@pytest.mark.parametrize(
    ("syntax", "stride"), [(ExplicitVRLittleEndian, 7), (ImplicitVRLittleEndian, 13), (RLELossless, 61)]
)
def test_no_part_of_the_last_file_is_ever_left_out(syntax: str, stride: int, tmp_path: Path) -> None:
    truth = write_series(tmp_path, Grid(at=(0.0, 1.0, 2.0)), store=Store(syntax=syntax))
    last = tmp_path / "slice_002.dcm"
    data = last.read_bytes()
    codes: Counter[str] = Counter()
    for length in range(0, len(data), stride):
        last.write_bytes(data[:length])
        try:  # the last bytes of compressed data say only that they are the last
            assert why_not(*load(tmp_path), truth) == "", length
        except DataError as error:
            codes[error.code] += 1
    # A series UID that is cut off in its middle makes two series: refused, too.
    assert set(codes) <= {"DICOM_DAMAGED", "DICOM_TRUNCATED", "SERIES_AMBIGUOUS"}
    assert codes.total() >= len(data) // stride
