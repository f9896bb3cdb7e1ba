from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medseg.core.errors import ConfigError
from medseg.data.loader import Patches, draw_centre, open_loader
from medseg.data.settings import Augment
from tests.builders import NOTHING, make_plan, store_box_case

PLAN = make_plan(patch=(6, 5, 4), mirror_axes=(0, 1))


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    shapes = [(9, 8, 7), (12, 9, 8), (6, 5, 4)]
    return [store_box_case(folder / f"c{n}", seed=n, shape=shape) for n, shape in enumerate(shapes)]


@pytest.fixture
def patches(cases):
    return Patches(cases, PLAN, Augment(), seed=3, foreground_every=(1, 3))


class Stub:
    """A case of a shape with foreground points, without files."""

    def __init__(self, shape, points=None):
        self.shape, self.points = shape, points or {}


def collect(patches, epoch, iterations=3, **options):
    batches = open_loader(patches, **{"batch_size": 4, "workers": 0, **options})
    return [(image.numpy(), label.numpy()) for image, label, _ in batches(epoch, iterations)]


def same(first, second):
    return all(
        np.array_equal(a, b)
        for one, two in zip(first, second, strict=True)
        for a, b in zip(one, two, strict=True)
    )


# --- batches -----------------------------------------------------------------------------------


def test_a_batch_is_float_images_and_whole_labels(patches):
    ((image, label),) = collect(patches, 0, 1)
    assert (image.shape, image.dtype) == ((4, 1, 6, 5, 4), np.float32)
    assert (label.shape, label.dtype) == ((4, 6, 5, 4), np.int64)


def test_an_epoch_has_the_iterations_asked_for(patches):
    batches = open_loader(patches, batch_size=2, workers=0)
    assert len(list(batches(0, 5))) == len(batches(0, 5)) == 5


def test_an_epoch_comes_again_whatever_came_before(patches):
    batches = open_loader(patches, batch_size=4, workers=0)
    first = [[part.numpy() for part in batch] for batch in batches(2, 3)]
    list(batches(0, 5))
    torch.manual_seed(99)
    np.random.seed(99)
    assert same(first, [[part.numpy() for part in batch] for batch in batches(2, 3)])


@pytest.mark.parametrize("change", [{"epoch": 1}, {"seed": 4}])
def test_another_epoch_or_seed_gives_other_patches(cases, change):
    def make(epoch=0, seed=3):
        return collect(Patches(cases, PLAN, Augment(), seed=seed, foreground_every=(1, 3)), epoch)

    assert not same(make(), make(**change))


def test_samples_of_one_batch_differ(patches):
    ((image, _),) = collect(patches, 0, 1)
    assert len({patch.tobytes() for patch in image}) == 4


def test_the_number_of_workers_changes_nothing(patches):
    batches = open_loader(patches, batch_size=4, workers=2)
    for epoch in (0, 1):  # the second epoch by the same, living workers
        found = [(image.numpy(), label.numpy()) for image, label in batches(epoch, 3)]
        assert same(found, collect(patches, epoch))


def test_the_shares_of_all_ranks_make_the_whole_batch(patches):
    whole = collect(patches, 1, batch_size=5)
    shares = [collect(patches, 1, batch_size=5, share=(rank, 3)) for rank in range(3)]
    for iteration, (images, labels) in enumerate(whole):
        for slot in range(5):
            image, label = shares[slot % 3][iteration]
            assert np.array_equal(image[slot // 3], images[slot])
            assert np.array_equal(label[slot // 3], labels[slot])
    assert [len(shares[rank][0][0]) for rank in range(3)] == [2, 2, 1]


def test_a_batch_smaller_than_the_ranks_is_refused(patches):
    with pytest.raises(ConfigError) as caught:
        open_loader(patches, batch_size=2, workers=0, share=(0, 3))
    assert caught.value.code == "BATCH_TOO_SMALL"


def test_every_case_is_drawn(cases):
    seen = Counter()
    patches = Patches(cases, PLAN, NOTHING, seed=0, foreground_every=(0, 1))
    for sample in range(60):
        image, _ = patches[0, sample]
        seen.update(case.id for case in cases if np.isin(image.numpy(), case.image[:]).all())
    assert set(seen) == {"c0", "c1", "c2"}


def test_without_augmentation_a_patch_is_cut_from_its_case(cases):
    patches = Patches(cases[:1], make_plan(patch=PLAN.patch), NOTHING, seed=0, foreground_every=(0, 1))
    image, label = patches[0, 0]
    whole, classes = cases[0].image[:], cases[0].label[:]
    (start,) = np.argwhere(whole[0] == image[0, 0, 0, 0].numpy())
    box = tuple(slice(a, a + e) for a, e in zip(start, PLAN.patch, strict=True))
    assert np.array_equal(image[0], whole[0][box])
    assert np.array_equal(label, classes[box])


# --- where a patch lies ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "on_foreground"), [((1, 3), [2, 5, 8]), ((3, 3), [*range(9)]), ((0, 3), [])]
)
def test_the_last_samples_of_every_group_are_centred_on_foreground(cases, monkeypatch, every, on_foreground):
    asked = []

    def spy(rng, case, plan, *, on_foreground):
        asked.append(on_foreground)
        return draw_centre(rng, case, plan, on_foreground=on_foreground)

    monkeypatch.setattr("medseg.data.loader.draw_centre", spy)
    patches = Patches(cases, PLAN, NOTHING, seed=0, foreground_every=every)
    for sample in range(9):
        patches[0, sample]
    assert [sample for sample, wanted in enumerate(asked) if wanted] == on_foreground


shapes = st.tuples(*[st.integers(1, 12)] * 3)
edges = st.tuples(*[st.integers(1, 12)] * 3)


@given(shapes, edges, st.integers(0, 1000), st.booleans(), st.data())
def test_a_patch_lies_inside_its_case_or_covers_it(shape, patch, seed, on_foreground, data):
    point = [data.draw(st.integers(0, n - 1)) for n in shape]
    case = Stub(shape, {1: np.array([point])})
    centre = draw_centre(
        np.random.default_rng(seed), case, make_plan(patch=patch), on_foreground=on_foreground
    )
    start = centre - np.array(patch) // 2
    stop = start + patch
    for a, b, n, edge in zip(start, stop, shape, patch, strict=True):
        assert (a >= 0 and b <= n) if edge <= n else (a <= 0 and b >= n)


@given(shapes, edges, st.integers(0, 1000), st.data())
def test_a_foreground_patch_holds_its_point(shape, patch, seed, data):
    point = np.array([data.draw(st.integers(0, n - 1)) for n in shape])
    case = Stub(shape, {1: point[None]})
    centre = draw_centre(np.random.default_rng(seed), case, make_plan(patch=patch), on_foreground=True)
    start = centre - np.array(patch) // 2
    assert ((point >= start) & (point < start + patch)).all()


def draw_many(case, plan, count=3000, *, on_foreground=False):
    rng = np.random.default_rng(0)
    return Counter(
        tuple(draw_centre(rng, case, plan, on_foreground=on_foreground).tolist()) for _ in range(count)
    )


def test_positions_are_drawn_uniformly():
    found = draw_many(Stub((9, 4, 4)), make_plan(patch=(4, 4, 4)))
    assert {i for i, _, _ in found} == set(range(2, 8))
    assert max(found.values()) < 1.3 * min(found.values())


def test_labels_are_drawn_equally_often_however_small():
    case = Stub((9, 9, 9), {1: np.full((500, 3), 2), 2: np.full((1, 3), 6)})
    found = draw_many(case, make_plan(patch=(1, 1, 1)), on_foreground=True)
    assert found[2, 2, 2] == pytest.approx(1500, abs=120)


def test_without_foreground_any_position_will_do():
    assert len(draw_many(Stub((5, 5, 5)), make_plan(patch=(4, 4, 4)), on_foreground=True)) == 8


def test_in_2d_any_slice_is_drawn():
    found = draw_many(Stub((4, 4, 5)), make_plan(patch=(4, 4, 1)))
    assert set(found) == {(2, 2, k) for k in range(5)}


# --- transforms from outside -------------------------------------------------------------------


class AddOne:
    def __call__(self, pair):
        return {**pair, "image": pair["image"] + 1}


class RandomAdd:
    """As MONAI's: told its seed, then called."""

    def set_random_state(self, seed):
        self.rng = np.random.default_rng(seed)

    def __call__(self, pair):
        return {**pair, "image": pair["image"] + self.rng.random(dtype=np.float32)}


class BlurLabel:
    def __call__(self, pair):
        return {**pair, "label": pair["label"].float() * 0.5}


class Shrink:
    def __call__(self, pair):
        return {"image": pair["image"][:, 1:], "label": pair["label"][:, 1:]}


def with_extra(cases, *extra):
    return Patches(cases, PLAN, NOTHING, seed=0, foreground_every=(1, 1), extra=extra)


def test_extra_transforms_are_applied_in_their_order(cases):
    plain, _ = with_extra(cases)[0, 0]
    changed, _ = with_extra(cases, AddOne, AddOne)[0, 0]
    assert torch.equal(changed, plain + 2)


def test_random_transforms_are_seeded_by_epoch_and_sample(cases):
    patches = with_extra(cases[:1], RandomAdd)
    first = patches[0, 0][0]
    assert not torch.equal(patches[0, 1][0], first)
    assert torch.equal(patches[0, 0][0], first)


@pytest.mark.parametrize(("build", "code"), [(BlurLabel, "TRANSFORM_LABELS"), (Shrink, "TRANSFORM_SHAPE")])
def test_a_transform_that_damages_a_patch_is_refused(cases, build, code):
    with pytest.raises(ConfigError) as caught:
        with_extra(cases, partial(build))[0, 0]
    assert caught.value.code == code
