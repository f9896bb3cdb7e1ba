import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.core.geometry import Geometry
from medseg.core.volume import Volume, from_canonical
from medseg.tracking.planes import Panel, choose_slice, cut_panels

ORIENTATIONS = [
    (permutation, signs)
    for permutation in ((0, 1, 2), (1, 0, 2), (2, 0, 1), (2, 1, 0))
    for signs in ((1, 1, 1), (-1, -1, 1), (1, -1, -1))
]


def stored_as(permutation: tuple[int, ...], signs: tuple[int, ...]) -> tuple[Geometry, Volume, np.ndarray]:
    """A 6 x 8 x 4 grid of 1 x 2 x 5 mm whose values grow to the right, in any storage order."""
    canonical = Geometry.of_spacing((6, 8, 4), (1, 2, 5))
    affine = np.eye(4)
    for index, (world, sign) in enumerate(zip(permutation, signs)):
        affine[:, index] = canonical.affine[:, world] * sign
        if sign < 0:
            affine[:3, 3] += canonical.affine[:3, world] * (canonical.shape[world] - 1)
    geometry = Geometry(tuple(canonical.shape[world] for world in permutation), affine)
    values = np.zeros((6, 8, 4))
    values[:] = np.arange(6)[:, None, None]
    labels = np.zeros((6, 8, 4), np.uint8)
    labels[4:6, 6:8, 2] = 1  # right, anterior
    volume = Volume(from_canonical(values, geometry)[None], geometry)
    return geometry, volume, from_canonical(labels, geometry)


@pytest.mark.parametrize(("permutation", "signs"), ORIENTATIONS)
def test_right_is_on_the_left_and_anterior_is_up_in_every_storage_order(permutation, signs):
    _, image, labels = stored_as(permutation, signs)
    axial = cut_panels(image, labels, labels)[0]

    assert axial.image[0].tolist() == [5, 4, 3, 2, 1, 0]
    assert axial.predicted.shape == (8, 6)
    assert axial.predicted[:2, :2].all()
    assert axial.predicted.sum() == 4
    assert axial.letters == "RLAP"


def test_planes_have_their_sizes_in_mm_letters_and_titles():
    _, image, labels = stored_as((0, 1, 2), (1, 1, 1))
    axial, coronal, sagittal = cut_panels(image, labels, labels)

    assert (axial.size_mm, coronal.size_mm, sagittal.size_mm) == ((16, 6), (20, 6), (20, 16))
    assert (coronal.letters, sagittal.letters) == ("RLSI", "APSI")
    assert axial.title == "axial, slice 3 of 4 from inferior"


def test_slice_is_where_the_reference_is_largest():
    reference = np.zeros((6, 8, 4), np.uint8)
    reference[1, 1, 0] = 1
    reference[1:3, 1:3, 3] = 2
    predicted = np.zeros_like(reference)
    predicted[:, :, 1] = 1
    image = Volume(np.zeros((1, 6, 8, 4)), Geometry.of_spacing((6, 8, 4), (1, 2, 5)))

    assert cut_panels(image, reference, predicted)[0].title.startswith("axial, slice 4 ")


@pytest.mark.parametrize("reference", [None, np.zeros((6, 8, 4), np.uint8)])
def test_slice_is_where_the_prediction_is_largest_without_a_reference(reference):
    predicted = np.zeros((6, 8, 4), np.uint8)
    predicted[2, 2, 1] = 1
    image = Volume(np.zeros((1, 6, 8, 4)), Geometry.of_spacing((6, 8, 4), (1, 2, 5)))

    assert cut_panels(image, reference, predicted)[0].title.startswith("axial, slice 2 ")


def test_middle_slice_is_shown_of_an_empty_case():
    assert choose_slice(np.zeros((6, 8, 5), np.uint8), 2) == 2


def test_small_lesion_is_shown_with_its_surroundings():
    labels = np.zeros((200, 100, 50), np.uint8)
    labels[100, 50, 25] = 1
    image = Volume(np.zeros((1, *labels.shape), np.float32), Geometry.of_spacing(labels.shape, (1, 2, 4)))
    axial = cut_panels(image, labels, labels)[0]

    assert axial.size_mm == pytest.approx((80, 80), abs=2)
    row, column = np.argwhere(axial.reference)[0]
    assert (row / axial.predicted.shape[0], column / axial.predicted.shape[1]) == pytest.approx(
        (0.5, 0.5), abs=0.05
    )


@given(st.lists(st.tuples(*[st.integers(0, 29)] * 3), min_size=1, max_size=5), st.floats(0.3, 9))
def test_view_holds_every_labelled_voxel_of_both_maps(places, spacing_mm):
    labels = np.zeros((30, 30, 30), np.uint8)
    for place in places:
        labels[place] = 1
    image = Volume(np.zeros((1, 30, 30, 30), np.uint8), Geometry.of_spacing((30, 30, 30), (spacing_mm, 1, 4)))
    panels = cut_panels(image, np.zeros_like(labels), labels)

    for panel, axis in zip(panels, (2, 1, 0)):
        assert (
            np.count_nonzero(panel.predicted)
            == np.count_nonzero(labels, axis=tuple({0, 1, 2} - {axis})).max()
        )


def test_picture_is_one_panel_with_rows_down_and_columns_right():
    array = np.arange(6).reshape(1, 2, 3, 1)
    labels = (array[0] == 5).astype(np.uint8)
    (panel,) = cut_panels(Volume(array, Geometry.of_spacing((2, 3, 1), (1, 1, 1))), None, labels)

    assert panel.image.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert panel.predicted.tolist() == [[0, 0, 0], [0, 0, 1]]
    assert (panel.pixel_mm, panel.letters, panel.title) == ((1, 1), "", "")


def test_single_slice_with_a_position_is_shown_the_right_way_up():
    affine = np.diag([-0.5, -0.25, 5.0, 1.0])  # stored from right to left and from anterior to posterior
    labels = np.zeros((2, 3, 1), np.uint8)
    labels[0, 0] = 1
    (panel,) = cut_panels(Volume(labels[None], Geometry(labels.shape, affine)), None, labels)

    assert panel.predicted.tolist() == [[1, 0], [0, 0], [0, 0]]
    assert (panel.pixel_mm, panel.letters) == ((0.25, 0.5), "RLAP")


def test_picture_with_three_channels_is_shown_in_colour():
    array = np.arange(18).reshape(3, 2, 3, 1)
    (panel,) = cut_panels(Volume(array, Geometry.of_spacing((2, 3, 1), (1, 1, 1))), None, array[0] * 0)

    assert panel.image[0, 0].tolist() == [0, 6, 12]


def test_volume_with_channels_shows_the_one_asked_for():
    array = np.zeros((2, 6, 8, 4))
    array[1] = 7
    image = Volume(array, Geometry.of_spacing((6, 8, 4), (1, 2, 5)))

    panels: list[Panel] = cut_panels(image, None, np.zeros((6, 8, 4), np.uint8), channel=1)
    assert (panels[0].image == 7).all()
