import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.core.errors import DataError
from medseg.core.files import to_json
from medseg.data.fingerprint import Fingerprint, Intensity
from medseg.data.plan import CPU_VOXELS, MAX_LEVELS, MIN_EDGE, Normalization, Plan, choose_topology, make_plan
from medseg.data.settings import Channel, Data, Grid

STATS = Intensity(mean=40.0, std=20.0, p00_5=-100.0, p99_5=300.0, p99_95=400.0)


def fingerprint(shape=(200, 180, 160), spacing=(1.0, 1.0, 1.0), fine=None, channels=1):
    return Fingerprint(9, shape, spacing, fine or spacing, (0.9, 0.1), (STATS,) * channels)


def plan(found=None, *, device="cpu", memory_gb=8.0, rotate=None, channels=None, labels=None, **grid):
    data = Data(channels=channels or {"a": Channel()}, labels=labels or {1: "x"})
    found = found or fingerprint(channels=len(data.channels))
    return make_plan(found, data, Grid(**grid), device=device, memory_gb=memory_gb, rotate_degrees=rotate)


def total_strides(made):
    return np.prod(made.strides, axis=0)


# --- spacing -----------------------------------------------------------------------------------


def test_the_spacing_is_the_median_of_the_cohort():
    made = plan(fingerprint(spacing=(0.8, 0.8, 2.4)))
    assert (made.spacing_mm, made.reasons["spacing_mm"]) == ((0.8, 0.8, 2.4), "median of the cohort")


def test_an_axis_over_three_times_coarser_gets_its_finer_cases_spacing():
    made = plan(fingerprint(spacing=(0.8, 0.8, 5.0), fine=(0.7, 0.7, 2.0)))
    assert made.spacing_mm == (0.8, 0.8, 2.0)
    assert "axis 2" in made.reasons["spacing_mm"]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_coarse_axis_may_be_any(axis):
    spacing, fine = [1.0] * 3, [1.0] * 3
    spacing[axis], fine[axis] = 5.0, 2.5
    assert plan(fingerprint(spacing=tuple(spacing), fine=tuple(fine))).spacing_mm[axis] == 2.5


def test_the_coarse_axis_never_becomes_finer_than_the_plane():
    assert plan(fingerprint(spacing=(0.8, 0.8, 5.0), fine=(0.3, 0.3, 0.4))).spacing_mm == (0.8, 0.8, 0.8)


def test_a_fixed_spacing_is_kept():
    made = plan(spacing_mm=(1.0, 1.0, 5.0))
    assert (made.spacing_mm, made.reasons["spacing_mm"]) == ((1.0, 1.0, 5.0), "fixed by the pipeline")


# --- patch -------------------------------------------------------------------------------------

shapes = st.tuples(*[st.integers(8, 600)] * 3)
spacings = st.tuples(*[st.floats(0.3, 6)] * 3)


@given(shapes, spacings, st.sampled_from(["cpu", "cuda"]), st.floats(6, 80))
def test_a_patch_fits_the_budget_and_the_scan(shape, spacing, device, memory_gb):
    made = plan(fingerprint(shape, spacing), device=device, memory_gb=memory_gb, spacing_mm=spacing)
    limit = CPU_VOXELS[3] if device == "cpu" else min(128**3 * memory_gb / 8, 160**3)
    assert np.prod(made.patch) <= limit
    for edge, longest in zip(made.patch, shape, strict=True):
        assert edge < longest + 2 ** (MAX_LEVELS - 1)  # rounded up to what the strides divide


@given(shapes, spacings, st.sampled_from(["cpu", "cuda"]), st.sampled_from([2, 3]))
def test_the_strides_divide_every_patch_the_plan_chose(shape, spacing, device, dims):
    made = plan(fingerprint(shape, spacing), device=device, memory_gb=24, dims=dims)
    assert not (np.array(made.patch) % total_strides(made)).any()


@given(shapes, spacings, st.sampled_from([2, 3]))
def test_the_coarsest_level_keeps_the_smallest_edge(shape, spacing, dims):
    made = plan(fingerprint(shape, spacing), dims=dims)
    smallest = np.array(made.patch) // total_strides(made)
    assert all(left >= min(MIN_EDGE, edge) for left, edge in zip(smallest, made.patch, strict=True))


def test_a_small_scan_is_seen_whole():
    assert plan(fingerprint((32, 48, 32))).patch == (32, 48, 32)


def test_a_large_scan_gets_a_cube_in_millimetres():
    edges_mm = np.array(plan(fingerprint((400, 400, 400), (1.0, 1.0, 2.0))).patch) * (1, 1, 2)
    assert edges_mm.max() / edges_mm.min() < 1.5  # edges are multiples of 8 and 16


def test_a_gpu_gets_nnunets_patch_at_8_gb():
    made = plan(fingerprint((400, 400, 400)), device="cuda")
    assert (made.patch, made.batch_size) == ((128, 128, 128), 2)


@pytest.mark.parametrize(("memory_gb", "more"), [(16, True), (4, False)])
def test_a_gpu_with_more_memory_gets_more_voxels(memory_gb, more):
    made = plan(fingerprint((400, 400, 400)), device="cuda", memory_gb=memory_gb)
    assert bool(np.prod(made.patch) > 128**3) is more


def test_the_memory_of_a_cpu_does_not_change_its_patch():
    assert plan(memory_gb=4).patch == plan(memory_gb=400).patch


def test_a_cpu_gets_less_than_a_gpu():
    assert np.prod(plan().patch) < np.prod(plan(device="cuda").patch)


def test_a_fixed_patch_is_kept():
    made = plan(patch=(40, 56, 24))
    assert (made.patch, made.reasons["patch"]) == ((40, 56, 24), "fixed by the pipeline")


# --- 2D ----------------------------------------------------------------------------------------


def test_pictures_are_planned_in_2d():
    made = plan(fingerprint((512, 400, 1)))
    assert made.dims == 2
    assert made.patch[2] == 1
    assert np.prod(made.patch) <= 256 * 256


def test_volumes_can_be_planned_in_2d():
    made = plan(dims=2, patch=(64, 64, 16))
    assert (made.patch, made.rotate_axes) == ((64, 64, 1), (2,))
    assert total_strides(made)[2] == 1
    assert {kernel[2] for kernel in made.kernels} == {1}


def test_one_slice_can_be_planned_in_3d():
    assert plan(fingerprint((64, 64, 1)), dims=3).patch[2] == 1


def test_mirror_axes_beyond_the_plane_are_dropped_in_2d():
    assert plan(fingerprint((64, 64, 1)), mirror_axes=(2, 0)).mirror_axes == (0,)


# --- network -----------------------------------------------------------------------------------


def test_an_isotropic_patch_is_halved_on_all_axes():
    strides, kernels = choose_topology((32, 48, 32), (1.0, 1.0, 1.0))
    assert strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert set(kernels) == {(3, 3, 3)}


def test_a_coarse_axis_is_halved_later_and_convolved_later():
    strides, kernels = choose_topology((64, 64, 16), (1.0, 1.0, 4.0))
    assert strides == ((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2))
    assert kernels == ((3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3))


def test_an_axis_stops_at_the_smallest_edge():
    strides, _ = choose_topology((64, 64, 4), (1.0, 1.0, 1.0))
    assert {stride[2] for stride in strides} == {1}


def test_an_axis_that_is_convolved_once_stays_so():
    # The short axis stops at 1 mm while the others grow to 16 mm.
    assert set(choose_topology((64, 64, 4), (1.0, 1.0, 1.0))[1]) == {(3, 3, 3)}


def test_there_are_at_most_six_levels():
    assert len(choose_topology((512, 512, 1), (1.0, 1.0, 1.0))[0]) == MAX_LEVELS


@given(st.tuples(*[st.integers(1, 256)] * 3), spacings)
def test_every_level_has_a_kernel_and_all_but_the_first_a_stride(patch, spacing):
    strides, kernels = choose_topology(patch, spacing)
    assert len(strides) == len(kernels) <= MAX_LEVELS
    assert strides[0] == (1, 1, 1)
    assert all(max(stride) == 2 for stride in strides[1:])


def test_the_width_doubles_a_level_up_to_its_limit():
    assert plan(fingerprint((400, 400, 400)), device="cuda").features == (32, 64, 128, 256, 320, 320)
    assert plan().features[0] == 12
    assert len(plan().features) == len(plan().strides)


# --- batch, mirroring, rotation ----------------------------------------------------------------


@pytest.mark.parametrize(("dims", "batch"), [(2, 8), (3, 2)])
def test_batches_on_a_cpu(dims, batch):
    assert plan(dims=dims).batch_size == batch


@given(shapes, spacings, st.floats(1, 80))
def test_batches_on_a_gpu_fill_the_budget_within_limits(shape, spacing, memory_gb):
    assert 2 <= plan(fingerprint(shape, spacing), device="cuda", memory_gb=memory_gb).batch_size <= 64


def test_a_fixed_batch_is_kept():
    assert plan(batch_size=5).batch_size == 5


def test_nothing_is_mirrored_unless_asked_for():
    assert plan().mirror_axes == ()
    assert plan(mirror_axes=(1, 0, 1)).mirror_axes == (0, 1)


def test_left_and_right_labels_switch_mirroring_between_them_off():
    made = plan(labels={3: "left lung", 7: "right lung"}, mirror_axes=(0, 2))
    assert made.mirror_axes == (2,)
    assert "left lung and right lung" in made.reasons["mirror_axes"]


@pytest.mark.parametrize(
    ("patch", "axes", "degrees"),
    [
        ((32, 32, 32), (0, 1, 2), 30),
        ((64, 64, 16), (2,), 180),
        ((16, 64, 64), (0,), 180),
        ((48, 48, 16), (0, 1, 2), 30),
    ],
)
def test_a_flat_patch_is_rotated_in_its_plane_only(patch, axes, degrees):
    made = plan(patch=patch)
    assert (made.rotate_axes, made.rotate_degrees) == (axes, degrees)


@pytest.mark.parametrize("degrees", [0.0, 15.0])
@pytest.mark.parametrize("patch", [(32, 32, 32), (64, 64, 16), (64, 64, 1)])
def test_fixed_degrees_are_kept(degrees, patch):
    assert plan(patch=patch, rotate=degrees, dims=2 if patch[2] == 1 else 3).rotate_degrees == degrees


# --- intensities -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channel", "expected"),
    [
        (Channel(normalize="ct"), Normalization("ct", -100.0, 300.0, 40.0, 20.0)),
        (Channel(normalize="pet"), Normalization("pet", 0.0, 400.0, 0.0, 20.0)),
        (Channel(normalize="fixed", window=(-50, 150)), Normalization("fixed", -50.0, 150.0, -50.0, 200.0)),
        (Channel(normalize="zscore"), Normalization("zscore")),
        (Channel(normalize="none"), Normalization("none", shift=0.0, scale=1.0)),
    ],
)
def test_each_kind_of_channel_has_its_normalisation(channel, expected):
    assert plan(channels={"a": channel}).normalization == (expected,)


def test_channels_keep_their_order():
    made = plan(channels={"pet": Channel(normalize="pet"), "ct": Channel(normalize="ct")})
    assert [step.kind for step in made.normalization] == ["pet", "ct"]
    assert made.reasons["normalization"] == "pet: pet, ct: ct"


# --- as a file ---------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_plan_comes_back_from_json(device):
    made = plan(device=device, channels={"a": Channel(normalize="ct"), "b": Channel()}, mirror_axes=(0,))
    assert Plan.from_json(json.loads(to_json(made.to_json()))) == made


@pytest.mark.parametrize(("key", "there"), [("features", False), ("colour", True)])
def test_a_plan_of_another_version_is_refused_by_name(key, there):
    tree = plan().to_json()
    tree = {**tree, key: 1} if there else {name: value for name, value in tree.items() if name != key}
    with pytest.raises(DataError) as caught:
        Plan.from_json(tree)
    assert caught.value.code == "PLAN_INVALID"
    assert caught.value.message.endswith(key)


def test_every_decision_has_a_reason():
    decided = set(plan().to_json()) - {"reasons", "kernels", "rotate_axes"}  # told with strides and degrees
    assert decided <= set(plan().reasons)
    assert all(plan().reasons.values())
