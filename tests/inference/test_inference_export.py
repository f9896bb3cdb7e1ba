"""The way back: the output grid is the input grid, however the scan was stored, cropped or spaced."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.core.geometry import Geometry
from medseg.core.volume import Volume, to_canonical
from medseg.data.preprocess import Placement, preprocess_image
from medseg.inference import export, layers
from medseg.inference.export import Exporter, Mask
from medseg.inference.head import Head
from medseg.inference.predict import Slab
from medseg.inference.restore import restore_image
from medseg.io import stream_probabilities, write_volume
from tests.builders import STORAGES, Storage, make_plan
from tests.builders import restore as store_as
from tests.whole_export import cut_slabs, export_classes, export_probabilities, put_back, resample_whole

SPACING_MM = (0.75, 1.5, 3.0)
SHAPE = (7, 6, 5)


def make_scan(storage: Storage = STORAGES[0]) -> Volume:
    """Noise on an oblique grid inside a rim of zeros, one voxel wide, which preprocessing crops."""
    array = np.zeros((1, *SHAPE), np.float32)
    array[0, 1:-1, 1:-1, 1:-1] = np.random.default_rng(0).uniform(1, 2, [n - 2 for n in SHAPE])
    affine = np.diag([*SPACING_MM, 1.0])
    cosine, sine = np.cos(0.3), np.sin(0.3)
    affine[:2, :2] = np.array([[cosine, -sine], [sine, cosine]]) @ affine[:2, :2]
    affine[:3, 3] = (10, -20, 30)
    return Volume(*store_as(array, Geometry(SHAPE, affine), storage))


def one_hot(classes: np.ndarray, n: int = 3) -> np.ndarray:
    return np.stack([(classes == value) for value in range(n)]).astype(np.float32) * 9


@pytest.mark.parametrize("storage", STORAGES)
def test_classes_come_back_to_their_voxels_in_every_storage_order(storage: Storage):
    scan = make_scan(storage)
    _, placement = preprocess_image(scan, make_plan(spacing_mm=SPACING_MM))
    # Classes by value: any mix-up of axes, flips or the crop would show.
    stored = np.where(scan.array[0] > 1.5, 2, (scan.array[0] > 1.2).astype(int))
    canonical, _ = to_canonical(stored, scan.geometry)
    box = tuple(slice(a, b) for a, b in zip(placement.start, placement.stop))
    restored = export_classes(one_hot(canonical[box]), placement)
    assert restored.shape == scan.geometry.shape and np.array_equal(restored, stored)


@pytest.mark.parametrize("storage", STORAGES[::7])
def test_an_image_comes_back_to_its_voxels(storage: Storage):
    scan = make_scan(storage)
    image, placement = preprocess_image(scan, make_plan(spacing_mm=SPACING_MM))
    inside = scan.array[0] > 0
    restored = restore_image(image, placement)
    np.testing.assert_allclose(restored[0][inside], scan.array[0][inside], rtol=1e-3)
    assert (restored[0][~inside] == restored[0][inside].min()).all()


@pytest.mark.parametrize("target_mm", [(1.5, 1.5, 1.5), (0.5, 2.0, 3.0), (0.75, 0.75, 6.0)])
@pytest.mark.parametrize("storage", STORAGES[::11])
def test_a_resampled_grid_comes_back_to_the_scans(storage: Storage, target_mm: tuple[float, float, float]):
    scan = make_scan(storage)
    image, placement = preprocess_image(scan, make_plan(spacing_mm=target_mm))
    logits = np.random.default_rng(1).normal(size=(3, *image.shape[1:])).astype(np.float32)
    classes = export_classes(logits, placement)
    assert classes.shape == scan.geometry.shape and classes.dtype == np.uint8
    assert export_probabilities(logits, placement).shape == (3, *scan.geometry.shape)


def test_outside_the_kept_box_is_background():
    scan = make_scan()
    image, placement = preprocess_image(scan, make_plan(spacing_mm=SPACING_MM))
    logits = np.stack([np.zeros(image.shape[1:]), np.full(image.shape[1:], 5.0)]).astype(np.float32)
    outside = scan.array[0] == 0
    classes, probabilities = export_classes(logits, placement), export_probabilities(logits, placement)
    assert (classes[outside] == 0).all() and (classes[~outside] == 1).all()
    assert (probabilities[0][outside] == 1).all() and (probabilities[1][outside] == 0).all()


def make_placement(shape: tuple[int, ...], small: tuple[int, ...]) -> Placement:
    """A box that is the whole scan, resampled to another number of voxels."""
    geometry = Geometry.of_spacing(shape, (1.0, 1.0, 1.0))
    return Placement(geometry, geometry, (0, 0, 0), shape, geometry.resample(small))


def draw_logits(kind: str, n: int, small: tuple[int, ...], seed: int) -> np.ndarray:
    """Noise, where any class may win anywhere, or clear regions, where few come near each other."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(n, *small)).astype(np.float32)
    return noise if kind == "noise" else noise + 9 * one_hot(rng.integers(0, n, small), n)


@settings(max_examples=80, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 11)] * 3),
    small=st.tuples(*[st.integers(1, 9)] * 3),
    spacing_mm=st.sampled_from([(1.0, 1.0, 1.0), (1.0, 1.0, 5.0), (4.0, 1.0, 1.0), (1.0, 0.2, 0.9)]),
    axis=st.integers(0, 2),
    depth=st.integers(1, 5),
    n=st.integers(2, 7),
    kind=st.sampled_from(["noise", "clear"]),
    block=st.sampled_from([1, 300, layers.BLOCK]),
    seed=st.integers(0, 99),
)
def test_it_equals_resampling_all_logits_and_taking_the_largest(
    shape, small, spacing_mm, axis: int, depth: int, n: int, kind: str, block: int, seed: int
):
    logits = draw_logits(kind, n, small, seed)
    geometry = Geometry.of_spacing(shape, spacing_mm)
    placement = Placement(geometry, geometry, (0, 0, 0), shape, geometry.resample(small))
    resampled = resample_whole(logits, placement)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "BLOCK", block)
        found = export_classes(logits, placement, axis, depth)
    chosen = np.take_along_axis(resampled, found[None].astype(int), axis=0)[0]
    # Equal but for float32 rounding where two classes are level.
    assert (resampled.max(axis=0) - chosen).max() < 1e-5
    ranked = np.sort(resampled, axis=0)
    clear = ranked[-1] - ranked[-2] > 1e-5
    assert np.array_equal(found[clear], resampled.argmax(axis=0)[clear])


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    small=st.tuples(*[st.integers(1, 9)] * 3),
    axis=st.integers(0, 2),
    depth=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_regions_equal_resampling_first_and_painting_then(shape, small, axis: int, depth: int, seed: int):
    logits = draw_logits("clear", 3, small, seed) - 4
    placement = make_placement(shape, small)
    resampled = resample_whole(logits, placement)
    expected = np.zeros(shape, np.uint8)
    for channel, paint in zip(resampled, (2, 1, 3)):
        expected[channel > 0] = paint
    found = export_classes(logits, placement, axis, depth, paints=(2, 1, 3))
    clear = (np.abs(resampled) > 1e-5).all(axis=0)
    assert np.array_equal(found[clear], expected[clear])


@pytest.mark.parametrize("storage", STORAGES[::5])
@pytest.mark.parametrize(("are_regions", "part"), [(False, 1), (True, 40), (False, export.PART)])
def test_probabilities_equal_those_of_whole_logits_in_every_storage_order(
    monkeypatch: pytest.MonkeyPatch, storage: Storage, are_regions: bool, part: int
):
    monkeypatch.setattr(export, "PART", part)
    monkeypatch.setattr(export, "WRITTEN_BYTES", part)
    scan = make_scan(storage)
    image, placement = preprocess_image(scan, make_plan(spacing_mm=(1.0, 1.5, 2.0)))
    logits = np.random.default_rng(1).normal(size=(3, *image.shape[1:])).astype(np.float32)
    whole = resample_whole(logits, placement).astype(float)
    exponents = np.exp(whole)
    chances = exponents / (1 + exponents) if are_regions else exponents / exponents.sum(axis=0)
    fills = (0, 0, 0) if are_regions else (1, 0, 0)
    for axis in range(3):
        found = export_probabilities(logits, placement, axis, are_regions=are_regions)
        for channel, chance, fill in zip(found, chances, fills):
            np.testing.assert_allclose(channel, put_back(chance, placement, fill), atol=1e-6)


def test_a_head_gives_what_its_logits_give(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(2, 9, 6, 5)).astype(np.float32))
    head = Head(torch.from_numpy(rng.normal(size=(5, 2)).astype(np.float32)), torch.arange(5.0) / 9)
    placement = make_placement((15, 11, 5), (9, 6, 5))
    expected = export_classes(head(features).numpy(), placement)
    monkeypatch.setattr(export, "PLANES", 1)  # two planes at once
    mask = Mask(placement, 0, 5)
    exporter = Exporter(placement, 0, [mask])
    for start in range(0, 9, 3):
        exporter.add(Slab(0, start, start + 3, features[:, start : start + 3], head))
    exporter.finish()
    assert np.array_equal(mask.array, expected)


def test_a_slab_may_be_overwritten_once_it_was_added():
    logits = np.random.default_rng(0).normal(size=(3, 8, 4, 5)).astype(np.float32)
    placement = make_placement((12, 7, 5), (8, 4, 5))
    expected = export_classes(logits, placement)
    mask, buffer = Mask(placement, 0, 3), torch.zeros(3, 2, 4, 5)
    exporter = Exporter(placement, 0, [mask])
    for start in range(0, 8, 2):
        buffer[:] = torch.from_numpy(logits[:, start : start + 2])
        exporter.add(Slab(0, start, start + 2, buffer))
    assert np.array_equal(mask.array, expected)


def test_missing_slabs_do_not_pass_as_a_mask():
    placement = make_placement((4, 3, 2), (4, 3, 2))
    exporter = Exporter(placement, 0, [Mask(placement, 0, 2)])
    exporter.add(Slab(0, 0, 2, torch.zeros(2, 2, 3, 2)))
    with pytest.raises(AssertionError, match="slabs are missing"):
        exporter.finish()


def test_more_than_256_classes_need_uint16():
    logits = np.zeros((300, 1, 2, 1), np.float32)
    logits[299] = 1
    found = export_classes(logits, make_placement((1, 3, 1), (1, 2, 1)))
    assert (found.dtype, set(found.ravel())) == (np.uint16, {299})


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(*[st.integers(2, 9)] * 3),
    small=st.tuples(*[st.integers(2, 9)] * 3),
    seed=st.integers(0, 99),
)
def test_the_largest_probability_is_the_class_of_the_mask(shape, small, seed: int):
    logits = np.random.default_rng(seed).normal(size=(3, *small)).astype(np.float32) * 3
    placement = make_placement(shape, small)
    probabilities = export_probabilities(logits, placement)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-5)
    mask = export_classes(logits, placement)
    chosen = np.take_along_axis(probabilities, mask[None].astype(int), axis=0)[0]
    np.testing.assert_allclose(chosen, probabilities.max(axis=0), atol=1e-5)


def test_probabilities_are_the_softmax_of_the_logits():
    logits = np.log(np.array([1, 2, 7], np.float32)).reshape(3, 1, 1, 1).repeat(2, axis=1)
    probabilities = export_probabilities(logits, make_placement((2, 1, 1), (2, 1, 1)))
    np.testing.assert_allclose(probabilities[:, 0, 0, 0], [0.1, 0.2, 0.7], rtol=1e-6)


def test_huge_logits_do_not_overflow():
    logits = np.array([1000.0, -1000.0], np.float32).reshape(2, 1, 1, 1)
    assert export_probabilities(logits, make_placement((1, 1, 1), (1, 1, 1))).ravel().tolist() == [1, 0]


def test_probabilities_in_steps_are_rounded_to_the_nearest():
    logits = np.log(np.array([1, 2, 5], np.float32)).reshape(3, 1, 1, 1).repeat(4, axis=2)
    placement = make_placement((1, 4, 1), (1, 4, 1))
    found = np.zeros((3, 1, 4, 1), np.uint16)
    exporter = Exporter(placement, 0, [export.Probabilities(found, placement, 0)])
    exporter.add(Slab(0, 0, 1, torch.from_numpy(logits)))
    assert found[:, 0, 1, 0].tolist() == [8192, 16384, 40959]  # 8191.875, 16383.75, 40959.375


def read_mapped_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssFile", "RssShmem"))) / 1024


@pytest.mark.parametrize(
    ("axis", "storage"), [*((axis, STORAGES[0]) for axis in range(3)), (1, ((1, 2, 0), (False, True, False)))]
)
def test_probabilities_in_a_file_take_no_memory_along_any_axis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, axis: int, storage: Storage
):
    monkeypatch.setattr(export, "PART", 1 << 18)
    monkeypatch.setattr(export, "WRITTEN_BYTES", 1 << 18)
    shape, small, n = (72, 64, 56), (18, 16, 14), 24  # 12 MB
    array, geometry = store_as(np.zeros(shape, np.int16), Geometry.of_spacing(shape, SPACING_MM), storage)
    write_volume(tmp_path / "scan.nii.gz", Volume(array[None], geometry))
    canonical = to_canonical(array, geometry)[1]
    placement = Placement(
        geometry, canonical, (3, 0, 0), shape, canonical.crop((3, 0, 0), shape).resample(small)
    )
    logits = np.random.default_rng(0).normal(size=(n, *small)).astype(np.float32)
    expected = np.moveaxis(export_probabilities(logits, placement, axis), 0, 3)  # loads all code, too
    seen, before = [], read_mapped_mb()
    stored = placement.working_axes[axis][0]
    with stream_probabilities(tmp_path / "p.nii.gz", n, tmp_path / "scan.nii.gz", slowest=stored) as volume:

        def release(part: np.ndarray) -> None:
            seen.append(read_mapped_mb() - before)
            volume.release(part)

        target = export.Probabilities(volume.array, placement, axis, release=release)
        exporter = Exporter(placement, axis, [target])
        for slab in cut_slabs(logits, axis, 3):
            exporter.add(slab)
        exporter.finish()
        seen.append(read_mapped_mb() - before)
    assert max(seen) < 4
    found = nib.load(tmp_path / "p.nii.gz").dataobj.get_unscaled()
    assert np.abs(np.asanyarray(found) - expected * 65535).max() <= 0.51


def test_the_logits_are_left_as_they_were():
    logits = np.ones((2, 2, 2, 2), np.float32)
    export_probabilities(logits, make_placement((2, 2, 2), (2, 2, 2)))
    assert (logits == 1).all()


def test_a_tie_goes_to_the_lower_class():
    classes = export_classes(np.zeros((3, 2, 2, 2), np.float32), make_placement((3, 3, 3), (2, 2, 2)))
    assert not classes.any()


def test_the_storage_orders_are_those_of_nibabel():
    """The 48 storage orders of these tests are all there are."""
    codes = {tuple(nib.aff2axcodes(make_scan(storage).geometry.affine)) for storage in STORAGES}
    assert len(codes) == 48


def test_regions_are_painted_in_order_where_they_are_more_likely_than_not():
    _, placement = preprocess_image(make_scan(), make_plan(spacing_mm=SPACING_MM))
    logits = np.full((2, *placement.box_shape), -1, np.float32)
    logits[0, :3] = 0.01
    logits[1, 2:4] = 5
    logits[0, 0, 0, 0] = 0  # as likely as not
    box = export_classes(logits, placement, paints=[2, 1])[1:-1, 1:-1, 1:-1]
    assert [np.unique(plane).tolist() for plane in box[1:]] == [[2], [1], [1], [0]]
    assert box[0, 0, 0] == 0 and box[0, 0, 1] == 2


def test_regions_on_another_grid_come_back_and_lie_inside_the_box():
    _, placement = preprocess_image(make_scan(), make_plan(spacing_mm=(1.5, 1.5, 3.0)))
    logits = np.full((1, *placement.grid.shape), 9, np.float32)
    painted = export_classes(logits, placement, paints=[1])
    assert painted.shape == SHAPE and painted.sum() == np.prod([n - 2 for n in SHAPE])


def test_region_probabilities_are_sigmoids_and_0_outside_the_box():
    _, placement = preprocess_image(make_scan(), make_plan(spacing_mm=SPACING_MM))
    logits = np.stack([np.full(placement.box_shape, value, np.float32) for value in (np.log(3), -200)])
    whole, core = export_probabilities(logits, placement, are_regions=True)
    assert np.allclose(whole[1:-1, 1:-1, 1:-1], 0.75) and whole[0].max() == 0
    assert core.max() == 0


def test_each_region_has_a_temperature_of_its_own():
    placement = make_placement((2, 2, 2), (2, 2, 2))
    found = np.zeros((2, 2, 2, 2), np.float32)
    target = export.Probabilities(found, placement, 0, are_regions=True, temperatures=(1.0, 2.0))
    exporter = Exporter(placement, 0, [target])
    exporter.add(Slab(0, 0, 2, torch.full((2, 2, 2, 2), 2.0)))
    assert np.allclose(found[0], 1 / (1 + np.exp(-2))) and np.allclose(found[1], 1 / (1 + np.exp(-1)))
