import pytest

from medseg.core.errors import ConfigError
from medseg.data.lateral import choose_mirror_axes, choose_swaps, find_pairs
from medseg.data.settings import Augment

SWAP = Augment(swap_lateral=True)


@pytest.mark.parametrize(
    "names",
    [
        ("left kidney", "right kidney"),
        ("kidney_left", "kidney_right"),
        ("Left-Hippocampus", "Right-Hippocampus"),
        ("L_kidney", "R_kidney"),
        ("kidney (L)", "kidney (R)"),
        ("lt lung", "rt lung"),
        ("lung-RT", "lung-LT"),
        ("lh.cortex", "rh.cortex"),
        ("leftKidney", "rightKidney"),
        ("kidneyL", "kidneyR"),
        ("LKidney", "RKidney"),
        ("rib_left_4", "rib_right_4"),
        ("Niere links", "Niere rechts"),
    ],
)
def test_names_that_differ_by_their_side_are_a_pair(names):
    assert find_pairs(names) == ((1, 2),)


@pytest.mark.parametrize(
    "names",
    [
        ("anterior", "posterior"),
        ("left kidney", "right lung"),
        ("left atrium",),
        ("rib_left_4", "rib_right_5"),
        ("leftover", "rightover"),
        ("LV", "RV"),
        ("liver", "lesion", "R"),
        (),
    ],
)
def test_other_names_are_none(names):
    assert find_pairs(names) == ()


def test_pairs_are_classes_the_lower_one_first():
    names = ("spine", "right kidney", "lung left", "left kidney", "lung right")
    assert find_pairs(names) == ((2, 4), (3, 5))


def test_a_pair_switches_mirroring_from_left_to_right_off_and_says_why():
    axes, reason = choose_mirror_axes((0, 1), 3, ("kidney_left", "kidney_right"))
    assert axes == (1,)
    assert reason == "from the pipeline, without axis 0: kidney_left and kidney_right are left and right"


@pytest.mark.parametrize(
    ("wanted", "names", "axes", "reason"),
    [
        ((1, 0), ("organ",), (0, 1), "from the pipeline"),
        ((1,), ("left a", "right a"), (1,), "from the pipeline"),
        ((2, 1), ("organ",), (1,), "from the pipeline"),
        ((), ("left a", "right a"), (), "none: mirroring must be asked for"),
    ],
)
def test_other_axes_are_mirrored_as_asked(wanted, names, axes, reason):
    assert choose_mirror_axes(wanted, 2, names) == (axes, reason)


def test_pairs_are_swapped_only_where_it_is_asked_for():
    assert choose_swaps(SWAP, ("left a", "right a")) == ((1, 2),)
    assert choose_swaps(Augment(), ("left a", "right a")) == ()


def test_swapping_without_a_pair_is_refused():
    with pytest.raises(ConfigError) as caught:
        choose_swaps(SWAP, ("organ",))
    assert caught.value.code == "LATERAL_PAIR_MISSING"
