"""The dense CRF against double loops over all pairs of voxels."""

from itertools import pairwise, product

import numpy as np
import pytest
import torch

from medseg.core.errors import ConfigError, DataError
from medseg.core.geometry import Geometry
from medseg.inference.refine import mean_field
from medseg.inference.refine.crf import crf, find_active
from medseg.inference.refine.mean_field import Coupling, relax
from medseg.inference.refine.window import Kernel, list_offsets, make_window

SHAPE = (6, 6, 6)
SPACING_MM = (1.0, 1.5, 2.5)
GRID = Geometry.of_spacing(SHAPE, SPACING_MM)
TRUNCATE = 2.5
SMOOTH, BILATERAL = Kernel(1.5, 1.2), Kernel(2.5, 2.0)
SIGMAS = (0.5, 0.8)  # of two channels
COMPATIBILITY = [[0.0, 1.0, 0.5], [1.0, 0.0, 2.0], [0.5, 2.0, 0.0]]
OPTIONS = {
    "smooth_weight": SMOOTH.weight,
    "smooth_sigma_mm": SMOOTH.sigma_mm,
    "bilateral_weight": BILATERAL.weight,
    "bilateral_sigma_mm": BILATERAL.sigma_mm,
    "sigma_intensity": SIGMAS,
    "compatibility": COMPATIBILITY,
    "truncate": TRUNCATE,
    "band_mm": None,
}


def draw(shape=SHAPE, classes=3, channels=2, seed=0):
    """Return probabilities and an image without any order."""
    rng = torch.Generator().manual_seed(seed)
    probabilities = torch.softmax(2 * torch.randn(classes, *shape, generator=rng), dim=0)
    return probabilities, torch.randn(channels, *shape, generator=rng)


def sum_weights(kernel, shape, spacing_mm):
    """Return what the spatial weights of a voxel sum to, far from the borders."""
    total = 0.0
    for offset in product(*(range(1 - n, n) for n in shape)):
        square = sum((o * mm) ** 2 for o, mm in zip(offset, spacing_mm))
        if 0 < square <= (TRUNCATE * kernel.sigma_mm) ** 2:
            total += np.exp(-square / 2 / kernel.sigma_mm**2)
    return total


def couple(image, shape=SHAPE, spacing_mm=SPACING_MM, kernels=(SMOOTH, BILATERAL), sigmas=SIGMAS):
    """Return (N, N) the strength of every pair, by a double loop."""
    places = list(product(*map(range, shape)))
    values = image.flatten(1).T.double().numpy() / sigmas
    sums = [sum_weights(kernel, shape, spacing_mm) for kernel in kernels]
    strength = np.zeros((len(places), len(places)))
    for a, here in enumerate(places):
        for b in range(a):
            square = sum(((p - q) * mm) ** 2 for p, q, mm in zip(here, places[b], spacing_mm))
            likeness = (1.0, np.exp(-np.square(values[a] - values[b]).sum() / 2))
            for kernel, total, alike in zip(kernels, sums, likeness):
                if square <= (TRUNCATE * kernel.sigma_mm) ** 2:
                    weight = kernel.weight * np.exp(-square / 2 / kernel.sigma_mm**2) / total
                    strength[a, b] += weight * alike
                    strength[b, a] = strength[a, b]
    return strength


def update(probabilities, now, strength, matrix=COMPATIBILITY):
    """Return (N, C) where each voxel would go if the others stood still."""
    return torch.softmax(
        torch.log(probabilities) - torch.tensor(strength) @ now @ torch.tensor(matrix).double(), dim=1
    )


def free_energy(probabilities, now, strength, matrix=COMPATIBILITY):
    pairs = (now @ torch.tensor(matrix).double() * (torch.tensor(strength) @ now)).sum() / 2
    return float((now * (now.log() - probabilities.log())).sum() + pairs)


def flat(values_CIJK):
    return values_CIJK.flatten(1).T.double()


@pytest.fixture(scope="module")
def phantom():
    probabilities, image = draw()
    return probabilities, image, couple(image)


def test_one_update_is_that_of_the_double_loop(phantom):
    probabilities, image, strength = phantom
    found = crf(probabilities, image, GRID, **OPTIONS, iterations=1)
    expected = update(flat(probabilities), flat(probabilities), strength)
    assert torch.allclose(flat(found), expected, atol=1e-5)


def test_the_end_is_a_fixed_point_of_the_double_loop(phantom):
    probabilities, image, strength = phantom
    found = flat(crf(probabilities, image, GRID, **OPTIONS, iterations=200, tolerance=1e-6))
    assert torch.allclose(update(flat(probabilities), found, strength), found, atol=1e-4)
    assert not torch.allclose(found, flat(probabilities), atol=0.1)


def test_many_small_parts_give_what_one_part_gives(phantom, monkeypatch):
    probabilities, image, _ = phantom
    whole = crf(probabilities, image, GRID, **OPTIONS)
    monkeypatch.setattr(mean_field, "PAIRS_AT_ONCE", 700)
    assert torch.equal(crf(probabilities, image, GRID, **OPTIONS), whole)


def test_voxels_that_take_no_part_stay_and_act_on_the_others(phantom):
    probabilities, image, strength = phantom
    certain = probabilities.clone()
    certain[:, :, :, 3:] = torch.tensor([0.998, 0.001, 0.001]).view(3, 1, 1, 1)
    options = OPTIONS | {"band_mm": 0.0, "certainty": 0.99}
    found = flat(crf(certain, image, GRID, **options, iterations=200, tolerance=1e-6))
    active = find_active(certain, GRID, 0.0, 0.99).flatten()
    assert 0 < int((~active).sum()) < 108 and torch.equal(found[~active], flat(certain)[~active])
    assert torch.allclose(update(flat(certain), found, strength)[active], found[active], atol=1e-4)


@pytest.mark.parametrize("strong", [1, 4, 16])
def test_the_free_energy_never_rises(phantom, strong):
    probabilities, image, strength = phantom
    kernels = [Kernel(strong * kernel.weight, kernel.sigma_mm) for kernel in (SMOOTH, BILATERAL)]
    options = OPTIONS | {"smooth_weight": kernels[0].weight, "bilateral_weight": kernels[1].weight}
    energies = []
    for iterations in range(12):
        now = crf(probabilities, image, GRID, **options, iterations=iterations, tolerance=0)
        energies.append(free_energy(flat(probabilities), flat(now).clamp_min(1e-30), strong * strength))
    assert all(after <= before + 1e-4 for before, after in pairwise(energies))
    assert energies[-1] < energies[0] - 5


def make_chessboard():
    """Return what makes plain updates swing: face neighbours alone, each of the other label."""
    window = make_window(Geometry.of_spacing((8, 8, 1), (1, 1, 1)), [Kernel(9, 0.5), Kernel(0, 1)], 2.0, 512)
    active = torch.ones(8, 8, 1, dtype=torch.bool)
    coupling = Coupling(torch.zeros(1, 8, 8, 1), active, window)
    odd = (torch.arange(8)[:, None] + torch.arange(8)) % 2
    second = (0.3 + 0.41 * odd).flatten()
    potts = 1 - torch.eye(2)
    return torch.stack([1 - second, second], dim=1), lambda q: coupling.gather(coupling.place(q)) @ potts


def test_where_plain_updates_raise_the_energy_steps_are_halved():
    start, spread = make_chessboard()

    def energy(now):
        return float((now * (now.log() - start.log())).sum() + (now * spread(now)).sum() / 2)

    plain = torch.softmax(start.log() - spread(start), dim=1)
    swung = torch.softmax(start.log() - spread(plain), dim=1)
    relaxed = relax(start, spread(start), spread, iterations=30, tolerance=1e-5)
    assert energy(swung) > energy(plain)
    assert all(after <= before for before, after in pairwise(relaxed.energies))
    assert energy(relaxed.probabilities) < energy(plain) - 1


def test_the_energies_told_are_those_of_the_double_loop(phantom):
    probabilities, image, strength = phantom
    window = make_window(GRID, [SMOOTH, BILATERAL], TRUNCATE, 512)
    scaled = image / torch.tensor(SIGMAS).view(2, 1, 1, 1)
    coupling = Coupling(scaled, torch.ones(SHAPE, dtype=torch.bool), window)
    matrix = torch.tensor(COMPATIBILITY)
    start = flat(probabilities).float()
    message = coupling.gather(coupling.tabulate(probabilities)) @ matrix
    relaxed = relax(
        start, message, lambda q: coupling.gather(coupling.place(q)) @ matrix, iterations=4, tolerance=0
    )
    before, after = (
        free_energy(start.double(), q.double(), strength) for q in (start, relaxed.probabilities)
    )
    assert relaxed.energies[-1] == pytest.approx(after - before, abs=1e-3) and len(relaxed.energies) == 5
    assert coupling.pairs == 216 * len(window.offsets)


def test_a_step_that_finds_no_way_down_ends_it():
    start = torch.tensor([[0.6, 0.4]])
    relaxed = relax(start, torch.tensor([[1.0, 0]]), lambda move: 1e6 * move, iterations=5, tolerance=0)
    assert relaxed.energies == [0.0] and torch.equal(relaxed.probabilities, start)


def test_without_pairwise_weight_probabilities_stay():
    probabilities, image = draw()
    found = crf(probabilities, image, GRID, **OPTIONS | {"smooth_weight": 0, "bilateral_weight": 0})
    assert torch.equal(found, probabilities) and found is not probabilities


def test_a_vanishing_pairwise_weight_keeps_the_argmax():
    probabilities, image = draw()
    found = crf(probabilities, image, GRID, **OPTIONS | {"smooth_weight": 1e-7, "bilateral_weight": 1e-7})
    assert torch.equal(found.argmax(0), probabilities.argmax(0))
    assert torch.allclose(found, probabilities, atol=1e-6)


def test_equal_distances_in_mm_act_equally():
    window = make_window(Geometry.of_spacing((9, 9, 9), (1, 2, 4)), [Kernel(1, 2)], TRUNCATE, 512)
    weight = dict(zip(map(tuple, window.offsets.tolist()), window.weights[0]))
    assert weight[4, 0, 0] == weight[0, 2, 0] == weight[0, 0, 1] == weight[-4, 0, 0] > weight[4, 1, 0]


def test_voxels_and_sigmas_twice_as_long_give_the_same():
    probabilities, image = draw()
    double = OPTIONS | {name: 2 * OPTIONS[name] for name in ("smooth_sigma_mm", "bilateral_sigma_mm")}
    twice = Geometry.of_spacing(SHAPE, [2 * mm for mm in SPACING_MM])
    one, other = crf(probabilities, image, GRID, **OPTIONS), crf(probabilities, image, twice, **double)
    assert torch.allclose(one, other, atol=1e-6)
    assert not torch.allclose(one, crf(probabilities, image, twice, **OPTIONS), atol=1e-2)


def test_2d_is_one_slice_of_3d():
    probabilities, image = draw((7, 6, 1))
    spacing_mm = (1.0, 1.5, 1.0)
    found = flat(
        crf(probabilities, image, Geometry.of_spacing((7, 6, 1), spacing_mm), **OPTIONS, iterations=1)
    )
    strength = couple(image, (7, 6, 1), spacing_mm)
    assert torch.allclose(found, update(flat(probabilities), flat(probabilities), strength), atol=1e-5)
    axis_first = Geometry.of_spacing((1, 7, 6), (5.0, 1.0, 1.5))
    moved = [values.permute(0, 3, 1, 2) for values in (probabilities, image)]
    assert torch.allclose(flat(crf(*moved, axis_first, **OPTIONS, iterations=1)), found, atol=1e-6)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_flipped_axes_give_the_flipped_result(axis):
    probabilities, image = draw()
    options = OPTIONS | {"band_mm": 1.0, "max_neighbours": 20}
    expected = crf(probabilities, image, GRID, **options).flip(axis)
    assert torch.allclose(
        crf(probabilities.flip(axis), image.flip(axis), GRID, **options), expected, atol=1e-5
    )


def test_a_noisy_ball_gets_better():
    shape, grid = (20, 20, 10), Geometry.of_spacing((20, 20, 10), (1, 1, 2))
    places = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    truth = torch.from_numpy(sum((p * mm) ** 2 for p, mm in zip(places, grid.spacing_mm)) < 49)
    rng = torch.Generator().manual_seed(3)
    inside = torch.sigmoid(4 * truth.float() - 2 + 2.5 * torch.randn(shape, generator=rng))
    image = (truth + 0.3 * torch.randn(shape, generator=rng))[None]
    found = crf(torch.stack([1 - inside, inside]), image, grid, smooth_weight=5, bilateral_weight=5)
    before, after = int(((inside > 0.5) != truth).sum()), int(((found[1] > 0.5) != truth).sum())
    assert before > 500 and after < before / 10


def test_a_single_class_stays():
    ones, image = torch.ones(1, *SHAPE), draw()[1]
    assert torch.equal(crf(ones, image, GRID, sigma_intensity=SIGMAS), ones)
    assert torch.allclose(crf(ones, image, GRID, band_mm=None), ones)


def test_input_stays_as_it_is():
    probabilities, image = draw()
    copies = probabilities.clone(), image.clone()
    crf(probabilities, image, GRID, **OPTIONS)
    assert torch.equal(probabilities, copies[0]) and torch.equal(image, copies[1])


def test_voxels_near_a_border_take_part_by_mm():
    labels = torch.zeros(8, 3, 9)
    labels[:4] = 1
    probabilities = torch.stack([1 - labels, labels])
    grid = Geometry.of_spacing((8, 3, 9), (1.5, 1, 1))
    assert (
        find_active(probabilities, grid, 3.0, 0.9).sum(0)[0, 0] == 6
    )  # the border's two, and 3 mm to each side
    assert find_active(probabilities, grid, 1.4, 0.9).sum(0)[0, 0] == 2
    probabilities[:, 0, 0, 0] = 0.5
    assert find_active(probabilities, grid, 1.4, 0.9)[0, 0, 0]


def test_a_long_window_is_thinned_evenly_in_mm():
    grid = Geometry.of_spacing((200, 200, 60), (0.5, 0.5, 2.0))
    offsets = list_offsets(grid, 10.0, 512)
    rows = set(map(tuple, offsets.tolist()))
    assert 200 < len(offsets) <= 512 + 6 and rows == {(-i, -j, -k) for i, j, k in rows}
    assert {(1, 0, 0), (0, 1, 0), (0, 0, 1)} <= rows
    far = np.abs(offsets[np.abs(offsets).sum(axis=1) > 1])
    assert np.gcd.reduce(far[:, 0]) >= 3 * np.gcd.reduce(far[:, 2])


def test_a_window_that_fits_is_whole():
    assert len(list_offsets(Geometry.of_spacing((9, 9, 9), (1, 1, 1)), 2.0, 512)) == 32
    assert len(list_offsets(Geometry.of_spacing((9, 9, 1), (1, 1, 1)), 2.0, 512)) == 12
    assert len(list_offsets(Geometry.of_spacing((9, 9, 9), (0.1, 9, 9)), 0.3, 512)) == 6  # 3 * 0.1 > 0.3


def test_voxels_of_nanometres_do_not_make_an_endless_window():
    assert len(list_offsets(Geometry.of_spacing((4000, 4000, 1), (1e-4, 1e-4, 1)), 10.0, 64)) <= 68


def test_a_kernel_that_ends_before_the_next_voxel_does_nothing():
    probabilities, image = draw()
    grid = Geometry.of_spacing(SHAPE, (9, 9, 9))
    assert torch.equal(crf(probabilities, image, grid, sigma_intensity=SIGMAS, band_mm=None), probabilities)


@pytest.mark.parametrize(
    "options",
    [
        {"smooth_sigma_mm": 0},
        {"max_neighbours": 0},
        {"sigma_intensity": [1, -1]},
        {"sigma_intensity": [1, 1, 1]},
        {"compatibility": [[0, 1], [1, 0]]},
        {"compatibility": [[0, 1, 1], [1, 0], [1, 1, 0]]},
        {"compatibility": [[0, 1, 1], [1, 0, 1], [2, 1, 0]]},
        {"compatibility": [[1, 1, 1], [1, 0, 1], [1, 1, 0]]},
        {"compatibility": [[0, -1, 1], [-1, 0, 1], [1, 1, 0]]},
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError) as caught:
        crf(*draw(), GRID, **options)
    assert caught.value.code == "CRF_OPTION"


def test_more_pairs_than_allowed_are_refused():
    with pytest.raises(DataError, match="216 voxels") as caught:
        crf(*draw(), GRID, **OPTIONS, max_pairs=1000)
    assert caught.value.code == "CRF_TOO_LARGE"
