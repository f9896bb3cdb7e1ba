from collections import Counter
from copy import copy
from functools import partial

import numpy as np
import pytest
import torch

from medseg.core.errors import ConfigError
from medseg.data.loader import Patches, open_loader
from medseg.data.sampling import draw_centre
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


def collect(patches, epoch, iterations=3, **options):
    batches = open_loader(patches, **{"batch_size": 4, "workers": 0, **options})
    return [(batch.image.numpy(), batch.label.numpy()) for batch in batches(epoch, iterations)]


def take(patches, sample, epoch=0):
    """Return one patch as a batch would hold it."""
    weights = [1] * len(patches.cases)
    batch = patches.finish([patches[patches.choose(epoch, sample, weights)]])
    return batch.image[0], batch.label[0]


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
    assert len(list(batches(0, 5))) == 5


def test_an_epoch_comes_again_whatever_came_before(patches):
    batches = open_loader(patches, batch_size=4, workers=0)
    first = [batch[:2] for batch in batches(2, 3)]
    list(batches(0, 5))
    torch.manual_seed(99)
    np.random.seed(99)
    assert same(first, [batch[:2] for batch in batches(2, 3)])


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
        assert same([batch[:2] for batch in batches(epoch, 3)], collect(patches, epoch))


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
        image, _ = take(patches, sample)
        seen.update(case.id for case in cases if np.isin(image.numpy(), case.image[:]).all())
    assert set(seen) == {"c0", "c1", "c2"}


def test_without_augmentation_a_patch_is_cut_from_its_case(cases):
    patches = Patches(cases[:1], make_plan(patch=PLAN.patch), NOTHING, seed=0, foreground_every=(0, 1))
    image, label = take(patches, 1)
    whole, classes = cases[0].image[:], cases[0].label[:]
    (start,) = np.argwhere(whole[0] == image[0, 0, 0, 0].numpy())
    box = tuple(slice(a, a + e) for a, e in zip(start, PLAN.patch, strict=True))
    assert np.array_equal(image[0], whole[0][box])
    assert np.array_equal(label, classes[box])


EVERYTHING = Augment(**{name: 1.0 for name in Augment.model_fields if name.endswith("_p")})


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("settings", [Augment(), EVERYTHING], ids=["default", "everything"])
def test_patches_finished_by_a_worker_and_on_the_device_are_equal(cases, settings, workers):
    patches = Patches(cases, PLAN, settings, seed=3, foreground_every=(1, 3), swap=((1, 2),))
    early, late = (collect(patches, 0, workers=workers, on_device=where) for where in (False, True))
    assert same(early, late)


def test_the_number_of_threads_changes_nothing_and_is_left_as_it_was(cases):
    patches = Patches(cases, make_plan(patch=(12, 9, 8)), EVERYTHING, seed=0, foreground_every=(0, 1))
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(collect(patches, 0))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert same(*found)


@pytest.mark.parametrize("on_device", [False, True])
def test_a_batch_names_the_case_of_each_sample(cases, on_device):
    patches = Patches(cases, make_plan(patch=PLAN.patch), NOTHING, seed=0, foreground_every=(0, 1))
    (batch,) = open_loader(patches, batch_size=9, workers=0, on_device=on_device)(0, 1)
    images = {case.id: case.image[:] for case in cases}
    assert set(batch.cases) == set(images)
    assert all(
        np.isin(patch, images[name]).all() for patch, name in zip(batch.image, batch.cases, strict=True)
    )


# --- hard cases --------------------------------------------------------------------------------


def cases_of(cases, weights, epoch=0, **options):
    patches = Patches(cases, PLAN, NOTHING, seed=0, foreground_every=(0, 1), weights=weights)
    batches = open_loader(patches, **{"batch_size": 4, "workers": 0, **options})
    return [name for batch in batches(epoch, 5) for name in batch.cases]


def test_a_case_of_more_weight_comes_more_often(cases):
    found = Counter(cases_of(cases, lambda epoch: [0, 3, 1]))
    assert found["c1"] > found["c2"] > found["c0"] == 0


def test_weights_are_those_of_the_epoch(cases):
    def weigh(epoch):
        return np.eye(3)[epoch]

    assert [set(cases_of(cases, weigh, epoch)) for epoch in range(3)] == [{"c0"}, {"c1"}, {"c2"}]


def test_equal_weights_draw_what_no_weights_draw(cases):
    assert cases_of(cases, lambda epoch: [5, 5, 5]) == cases_of(cases, None)


def test_weights_that_change_within_an_epoch_count_from_the_next(cases):
    state = {"weights": [1, 0, 0]}
    patches = Patches(
        cases, PLAN, NOTHING, seed=0, foreground_every=(0, 1), weights=lambda epoch: state["weights"]
    )
    batches = open_loader(patches, batch_size=2, workers=1)
    seen = []
    for epoch in (0, 1):
        for batch in batches(epoch, 6):
            seen.append((epoch, *batch.cases))
            state["weights"] = [0, 1, 0]
    assert set(seen) == {(0, "c0", "c0"), (1, "c1", "c1")}


def test_a_worker_is_sent_no_weights(cases):
    patches = Patches(cases[:0], PLAN, NOTHING, seed=0, foreground_every=(0, 1), weights=lambda epoch: [1])
    assert copy(patches).weights is None


# --- foreground --------------------------------------------------------------------------------


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
        take(patches, sample)
    assert [sample for sample, wanted in enumerate(asked) if wanted] == on_foreground


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
    plain, _ = take(with_extra(cases), 0)
    changed, _ = take(with_extra(cases, AddOne, AddOne), 0)
    assert torch.equal(changed, plain + 2)


def test_random_transforms_are_seeded_by_epoch_and_sample(cases):
    patches = with_extra(cases[:1], RandomAdd)
    first = take(patches, 0)[0]
    assert not torch.equal(take(patches, 1)[0], first)
    assert torch.equal(take(patches, 0)[0], first)


@pytest.mark.parametrize(("build", "code"), [(BlurLabel, "TRANSFORM_LABELS"), (Shrink, "TRANSFORM_SHAPE")])
def test_a_transform_that_damages_a_patch_is_refused(cases, build, code):
    with pytest.raises(ConfigError) as caught:
        take(with_extra(cases, partial(build)), 0)
    assert caught.value.code == code
