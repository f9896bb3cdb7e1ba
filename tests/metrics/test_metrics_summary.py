"""From cases to the report."""

import json
from functools import partial

import numpy as np
import pytest

from medseg.core.errors import ConfigError
from medseg.metrics import METRICS, evaluate_case, rows, summarise
from medseg.metrics.surface import nsd

SPACING_MM = (1.0, 2.0, 5.0)
NAMES = {1: "liver", 2: "spleen"}


def case(number, one, two, **metrics):
    """Label 1 and 2 each hold 4 voxels; `one` and `two` of them are right, None for a label in neither."""
    reference, predicted = np.zeros((2, 9, 4, 3), dtype=np.uint8)
    for plane, (value, right) in enumerate(((1, one), (2, two))):
        if right is not None:
            reference[3 * plane, :, 0] = value
            predicted[3 * plane, :right, 0] = value
    return evaluate_case(
        reference, predicted, SPACING_MM, NAMES, metrics or METRICS, case_id=f"case-{number}"
    )


def spurious_case():
    reference, predicted = np.zeros((2, 9, 4, 3), dtype=np.uint8)
    predicted[1, 1, 1] = 1
    return evaluate_case(reference, predicted, SPACING_MM, NAMES, METRICS, case_id="spurious")


@pytest.fixture
def summary():
    """Dice of label 1: 1, 2/3, 0 (missed), 0 (spurious); of label 2: 1, 1 and twice in neither."""
    return summarise([case(1, 4, 4), case(2, 2, 4), case(3, 0, None), spurious_case()])


def test_empty_masks_are_counted(summary):
    counts = [
        {key: n for key, n in label.items() if key[:1] == "n" and key != "name" and "nsd" not in key}
        for label in summary["labels"].values()
    ]
    assert counts == [
        {"n": 4, "n_both_empty": 0, "n_missed": 1, "n_spurious": 1},
        {"n": 2, "n_both_empty": 2, "n_missed": 0, "n_spurious": 0},
    ]


def test_one_empty_mask_enters_the_dice_mean_as_zero(summary):
    assert summary["labels"]["1"]["dice"] == round((1 + 2 / 3) / 4, 6)


def test_one_empty_mask_does_not_enter_the_distance_mean(summary):
    # Case 1 is 0 mm; in case 2 the 4 reference voxels lie 0 0 2 4 mm away: percentile position 2.85, 3.7 mm.
    assert summary["labels"]["1"]["hd95_mm"] == pytest.approx(3.7 / 2)


def test_two_empty_masks_do_not_enter_the_mean(summary):
    assert summary["labels"]["2"]["dice"] == 1


def test_two_empty_masks_do_not_enter_the_volume_mean(summary):
    assert summary["labels"]["1"]["volume_error_ml"] == pytest.approx((0 - 0.02 - 0.04 + 0.01) / 4)
    assert summary["labels"]["2"]["volume_reference_ml"] == pytest.approx(0.04)


def test_mean_is_over_label_means(summary):
    assert summary["mean"]["dice"] == pytest.approx(((1 + 2 / 3) / 4 + 1) / 2, abs=1e-6)


def test_standard_error_of_the_mean_is_over_case_means(summary):
    case_means = [1, (2 / 3 + 1) / 2, 0, 0]
    assert summary["mean"]["dice_se"] == pytest.approx(np.std(case_means, ddof=1) / 2, abs=1e-6)


def test_standard_error_of_a_label_is_over_its_cases(summary):
    assert summary["labels"]["1"]["dice_se"] == pytest.approx(np.std([1, 2 / 3, 0, 0], ddof=1) / 2, abs=1e-6)


def test_standard_error_of_one_case_is_undefined():
    assert summarise([case(1, 4, 4)])["mean"]["dice_se"] is None


def test_miou_is_the_mean_over_cases(summary):
    assert summary["mean"]["miou"] == pytest.approx((1 + (0.5 + 1) / 2 + 0 + 0) / 4)


def test_pixel_accuracy_is_the_mean_over_cases(summary):
    assert summary["mean"]["pixel_accuracy"] == pytest.approx(1 - (0 + 2 + 4 + 1) / 4 / 108, abs=1e-6)


def test_label_in_no_case_is_undefined():
    summary = summarise([case(1, 4, None)])
    assert (summary["labels"]["2"]["dice"], summary["labels"]["2"]["n"]) == (None, 0)
    assert summary["mean"]["dice"] == 1


def test_keys_of_the_contract_are_there(summary):
    wanted = {
        "name",
        "dice",
        "iou",
        "hd95_mm",
        "nsd",
        "volume_error_ml",
        "n",
        "n_both_empty",
        "n_missed",
        "n_spurious",
    }
    assert wanted <= set(summary["labels"]["1"])
    assert {"dice", "iou", "hd95_mm", "nsd", "volume_error_ml", "miou", "pixel_accuracy"} <= set(
        summary["mean"]
    )


def test_summary_is_json_without_nan(summary):
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_numbers_have_six_digits(summary):
    assert summary["labels"]["1"]["dice"] == 0.416667


def test_definitions_name_the_surface_and_the_tolerance(summary):
    assert summary["definitions"]["surface"] == "boundary_voxels"
    assert summary["definitions"]["options"]["nsd"] == {"tolerance_mm": 1.0}


def test_cases_with_different_options_are_refused():
    with pytest.raises(ConfigError) as caught:
        summarise([case(1, 4, 4, nsd=nsd), case(2, 4, 4, nsd=partial(nsd, tolerance_mm=2.0))])
    assert caught.value.code == "METRICS_DIFFER"


def test_no_cases_have_no_means():
    summary = summarise([])
    assert (summary["labels"], summary["mean"]["miou"]) == ({}, None)


def test_rows_are_flat_and_in_order():
    table = rows([case(1, 2, None)])
    assert [list(row)[:5] for row in table] == [["id", "label", "name", "state", "dice"]] * 2
    assert [list(row.values())[:5] for row in table] == [
        ["case-1", 1, "liver", "present", 0.666667],
        ["case-1", 2, "spleen", "both_empty", None],
    ]


def case_with_regions():
    reference, predicted = np.zeros((2, 9, 4, 3), dtype=np.uint8)
    reference[:2, 0, 0], predicted[:2, 0, 0] = (1, 2), 1
    regions = {"both": (1, 2)}
    return evaluate_case(reference, predicted, SPACING_MM, NAMES, METRICS, case_id="r", regions=regions)


def test_regions_are_summarised_beside_labels_and_enter_no_mean():
    summary = summarise([case_with_regions(), case_with_regions()])
    assert (summary["regions"]["both"]["dice"], summary["regions"]["both"]["n"]) == (1, 2)
    assert summary["mean"]["dice"] == pytest.approx((2 / 3 + 0) / 2, abs=1e-6)
    assert "regions" not in summarise([case(1, 4, 4)])


def test_region_has_a_row_of_its_own():
    assert [(row["label"], row["name"]) for row in rows([case_with_regions()])] == [
        (1, "liver"),
        (2, "spleen"),
        ("region", "both"),
    ]
