import io
import itertools
import math
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.stats import binom

from medseg.tracking import plots
from medseg.tracking.plots import picture as pictures
from medseg.tracking.plots.agreement import limits_of_agreement
from medseg.tracking.plots.picture import shorten_number
from medseg.tracking.plots.values import bound_median, find_median, read_number, shorten, spread, word_metric

# Nine cases of an organ; a lesion that one case lacks in both masks and one in the prediction.
DICE = (0.9, 0.8, 0.85, 0.7, 0.95, 0.88, 0.86, 0.91, 0.6)


def make_rows(labels=(("1", "organ"), ("2", "lesion"))):
    rows = []
    for index, dice in enumerate(DICE):
        for label, name in labels:
            reference, predicted = 10.0 + index, 11.0 + 2 * index
            rows.append({
                "id": f"case_{index}", "label": label, "name": name, "state": "present", "fold": index % 2,
                "dice": dice, "volume_reference_ml": reference, "volume_predicted_ml": predicted,
            })  # fmt: skip
    rows[1] |= {"state": "both_empty", "dice": None, "volume_reference_ml": 0, "volume_predicted_ml": 0}
    rows[3] |= {"state": "missed", "dice": 0.0, "volume_predicted_ml": 0}
    return rows


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is drawn, before it is made into bytes."""
    found = []

    def keep(figure, kind, metadata):
        if kind == "png":
            figure.draw_without_rendering()
            found.append(figure)
        return kind.encode()

    monkeypatch.setattr(pictures, "_save", keep)
    return found


def words(figure):
    from matplotlib.text import Text

    return " | ".join(text.get_text() for text in figure.findobj(Text))


def clouds(axes):
    return [np.asarray(collection.get_offsets()) for collection in axes.collections]


def test_the_same_rows_give_the_same_bytes_of_both_kinds():
    one, other = (plots.draw_distributions(make_rows(), "dice") for _ in range(2))

    assert one == other


def test_a_picture_is_a_png_and_an_svg_on_white_paper():
    from matplotlib.image import imread

    picture = plots.draw_reliability([{"confidence": 0.9, "accuracy": 0.8, "n": 10}])

    assert imread(io.BytesIO(picture.png), format="png")[0, 0, :3].tolist() == [1, 1, 1]
    assert ElementTree.fromstring(picture.svg).tag.endswith("svg")  # noqa: S314 - our own


def test_a_name_that_looks_like_markup_or_a_formula_is_only_drawn():
    picture = plots.draw_distributions(make_rows([("1", "<script>alert(1)</script> $x_{")]), "dice")

    assert b"<script" not in picture.svg


def test_a_name_in_a_script_without_glyphs_is_drawn():
    assert plots.draw_distributions(make_rows([("1", "肝臓")]), "dice").png.startswith(b"\x89PNG")


def test_a_picture_is_written_for_its_owner_only(tmp_path):
    names = pictures.Picture(b"p", b"s").write(tmp_path / "dice")

    assert names == ("dice.png", "dice.svg")
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in names} == {0o600}


def test_every_defined_value_is_a_point_and_the_rest_is_counted(figures):
    plots.draw_distributions(make_rows(), "dice")
    axes = figures[0].axes[0]

    assert sorted(clouds(axes)[0][:, 0]) == sorted(DICE)
    assert len(clouds(axes)[1]) == 8
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        "organ\nn = 9",
        "lesion\nn = 8, 1 undefined",
    ]


def test_cells_of_a_csv_are_drawn_as_the_rows_they_came_from(figures):
    text = [{key: "" if value is None else str(value) for key, value in row.items()} for row in make_rows()]
    plots.draw_distributions(text, "dice")
    plots.draw_distributions(make_rows(), "dice")

    assert np.array_equal(clouds(figures[0].axes[0])[1], clouds(figures[1].axes[0])[1])


def test_of_many_labels_the_worst_are_drawn_and_the_figure_says_so(figures):
    rows = [{"id": "a", "label": v, "name": f"l{v}", "dice": v / 50} for v in range(50)]
    plots.draw_distributions(rows, "dice")

    assert len(clouds(figures[0].axes[0])) == 40
    assert "40 of 50 labels" in words(figures[0])
    assert "l49\n" not in words(figures[0])


def test_a_fold_shows_the_mean_over_the_labels_of_each_case(figures):
    plots.draw_folds([*make_rows(), {**make_rows()[0], "label": "region", "name": "all", "dice": 0.1}])
    even, odd = clouds(figures[0].axes[0])

    assert sorted(odd[:, 0]) == pytest.approx(sorted([0.8 / 2, 0.7, 0.88, 0.91]))
    assert len(even) == 5


def test_bias_and_limits_of_agreement_are_lines(figures):
    plots.draw_bland_altman(make_rows())
    axes = figures[0].axes[0]
    differences = [1.0 + index for index in range(9)]
    reach = 1.959963984540054 * np.std(differences, ddof=1)

    assert [line.get_ydata()[0] for line in axes.lines] == pytest.approx([0, 5, 5 - reach, 5 + reach])
    assert clouds(axes)[0].tolist() == [[10.5 + 1.5 * n, 1.0 + n] for n in range(9)]


def test_a_case_without_the_label_in_both_masks_has_no_volume_to_agree_on(figures):
    plots.draw_bland_altman(make_rows())

    assert figures[0].axes[1].get_title(loc="left") == "lesion, n = 8"


def test_two_differences_have_no_limits_of_agreement():
    assert limits_of_agreement([1.0, 2.0]) is None


def test_of_many_labels_the_largest_volumes_are_compared(figures):
    rows = [
        {"id": "a", "label": v, "name": f"l{v}", "volume_reference_ml": v, "volume_predicted_ml": v}
        for v in range(1, 9)
    ]
    plots.draw_bland_altman(rows)

    assert [axes.get_title(loc="left")[:2] for axes in figures[0].axes] == [
        "l3",
        "l4",
        "l5",
        "l6",
        "l7",
        "l8",
    ]


def test_the_calibration_error_is_weighted_by_the_counts(figures):
    bins = [
        {"confidence": 0.9, "accuracy": 0.8, "n": 30},
        {"confidence": 0.6, "accuracy": 0.8, "n": 10},
        {"confidence": None, "accuracy": None, "n": 0},
    ]
    plots.draw_reliability(bins)

    assert f"ECE {(30 * 0.1 + 10 * 0.2) / 40:.4f}, n = 40 voxels" in words(figures[0])
    assert figures[0].axes[1].lines[0].get_ydata().tolist() == [30, 10]


def test_size_is_logarithmic_and_leaves_out_what_has_none(figures):
    plots.draw_size(make_rows(), "dice")
    axes = figures[0].axes[0]

    assert axes.get_xscale() == "log"
    assert [len(points) for points in clouds(axes)] == [9, 8]
    assert "10" in [text.get_text() for text in axes.get_xticklabels()]


def test_labels_beyond_the_colours_share_one_and_their_number_is_stated(figures):
    plots.draw_size(make_rows([(v, f"l{v}") for v in range(8)]), "dice")

    assert len({tuple(c.get_facecolor()[0]) for c in figures[0].axes[0].collections}) == 1
    assert "structures of 8 labels" in words(figures[0])


def make_history(scores):
    return [{"epoch": n, "train/loss": 1 / n, "val/dice": dice} for n, dice in enumerate(scores, 1)]


@pytest.mark.parametrize(
    ("scores", "patience", "epoch"),
    [
        ((0.5, 0.8, 0.7, 0.8), 2, 2),  # stopped: the first of equals was kept
        ((0.5, 0.8, 0.7, 0.8), 3, 4),  # went to its end: the last average
        ((0.5, 0.8, 0.7, 0.8), 0, 4),  # never stops early
        ((None, "", None), 1, 3),  # never validated
    ],
)
def test_the_kept_epoch_is_the_best_only_where_training_stopped_early(scores, patience, epoch):
    assert plots.find_chosen_epoch(make_history(scores), patience) == epoch


def test_the_kept_epoch_is_marked_on_both_curves(figures):
    plots.draw_curves({"0": make_history((0.5, 0.8, 0.7)), "1": []}, {"0": 2})
    loss, dice = figures[0].axes

    assert loss.lines[1].get_xydata().tolist() == [[2, 0.5]]
    assert dice.lines[1].get_xydata().tolist() == [[2, 0.8]]
    assert "fold 0, epoch 2 of 3" in words(figures[0])


@pytest.mark.parametrize(("history", "silent"), [(make_history((None, None)), 1), ([{"epoch": 1}], 2)])
def test_a_panel_without_a_value_says_so(history, silent, figures):
    plots.draw_curves({"0": history})

    assert words(figures[0]).count("not measured") == silent


def test_confusion_is_a_share_of_the_references_voxels(figures):
    plots.draw_confusion([[990, 10, 0], [5, 15, 0], [0, 0, 0]], ["background", "organ", "absent"])
    axes = figures[0].axes[0]

    assert np.allclose(axes.images[0].get_array()[:2], [[0.99, 0.01, 0], [0.25, 0.75, 0]])
    assert [text.get_text() for text in axes.texts] == ["99.0", "1.0", "25.0", "75.0"]


def test_many_labels_have_colours_but_no_numbers(figures):
    plots.draw_confusion(np.eye(24) + 1e-6, [f"l{n}" for n in range(24)])

    assert not figures[0].axes[0].texts


def test_a_paired_figure_shows_mean_and_interval_of_each_label(figures):
    plots.draw_paired(
        {"mean": [0.1, 0.3], "few": [0.2]}, {"mean": (0.1, 0.3), "few": (None, None)}, "nsd", ("a", "b")
    )
    zero, bar, mean, few = figures[0].axes[0].lines

    assert list(zero.get_xdata()) == [0, 0]
    assert list(bar.get_xdata()) == [0.1, 0.3]
    assert mean.get_xdata()[0] == pytest.approx(0.2)
    assert list(few.get_xdata()) == [0.2, 0.2]


def test_a_paired_figure_of_many_labels_says_how_many_are_missing(figures):
    labels = [str(n) for n in range(43)]
    plots.draw_paired({n: [0.1] for n in labels}, dict.fromkeys(labels, (None, None)), "dice", ("a", "b"))

    assert "3 labels more are not drawn" in words(figures[0])


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.draw_distributions([], "dice"),
        lambda: plots.draw_folds([], "hd95_mm"),
        lambda: plots.draw_bland_altman([]),
        lambda: plots.draw_reliability([]),
        lambda: plots.draw_size([], "dice"),
        lambda: plots.draw_curves({}),
        lambda: plots.draw_confusion([[0]], ["background"]),
        lambda: plots.draw_paired({}, {}, "dice", ("a", "b")),
    ],
)
def test_where_nothing_is_defined_the_figure_says_so(draw, figures):
    draw()

    assert not figures[0].axes
    assert words(figures[0])


@pytest.mark.parametrize("n", [1, 5, 6, 9, 40, 41])
def test_the_interval_of_a_median_is_the_narrowest_pair_of_order_statistics_that_covers(n):
    ranks = [r for r in range(1, n // 2 + 1) if binom.cdf(r - 1, n, 0.5) <= 0.025]
    expected = (ranks[-1], n + 1 - ranks[-1]) if ranks else None

    assert bound_median([float(v) for v in range(n, 0, -1)]) == expected


def test_the_median_of_an_even_number_lies_between_the_middle_two():
    assert find_median([4.0, 1.0, 3.0, 2.0]) == 2.5


def test_offsets_of_neighbours_differ_and_stay_within_the_strip():
    offsets = spread(100, 0.3)

    assert max(map(abs, offsets)) <= 0.3
    assert min(abs(a - b) for a, b in itertools.pairwise(offsets)) > 0.1


@pytest.mark.parametrize("cell", ["", None, math.nan, "nan", math.inf])
def test_an_undefined_cell_is_no_number(cell):
    assert read_number(cell) is None


@pytest.mark.parametrize(
    ("metric", "text"),
    [("nsd", "normalised surface Dice"), ("gap_mm", "gap in mm"), ("lesion_f1", "lesion f1")],
)
def test_an_axis_names_its_unit(metric, text):
    assert word_metric(metric) == text


def test_a_long_name_is_cut_and_put_on_one_line():
    assert shorten("a\nb" + "c" * 40) == "a b" + "c" * 28 + "…"


@pytest.mark.parametrize(("value", "text"), [(0.5, "0.5"), (1234, "1.23 k"), (2e6, "2 M"), (3e9, "3 G")])
def test_a_count_has_three_digits(value, text):
    assert shorten_number(value) == text
