"""Learning from out-of-fold cases as a whole, and the sentences a verdict is made of."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.core.errors import CheckpointError
from medseg.inference.trust.fit import Trust, fit_trust, load_trust
from medseg.inference.trust.observer import SUMS
from medseg.inference.trust.verdict import judge_case
from medseg.inference.trust.witness import Witness

IMAGE = ("noise", "tone")


def make_sums(voxels: float, promised: float, mass: float | None = None) -> np.ndarray:
    """Return the sums of a structure whose probabilities promise about this Dice."""
    mass = voxels if mass is None else mass
    row = {"voxels": voxels, "mass": mass, "hit": promised * (mass + voxels) / 2, "variance": voxels / 10}
    row |= {"entropy": voxels * (1 - promised), "faces": 2 * voxels, "rim": 0.0, "disagreement": voxels / 4}
    return np.array([row[name] for name in SUMS])


def make_witness(seed: int, *, parts: int = 4, is_rare: bool = False) -> Witness:
    """Return a case whose structure has the Dice that is promised, and 2 mm3 a voxel, with some noise."""
    rng = np.random.default_rng(seed)
    promised, voxels = rng.uniform(0.7, 0.95), rng.uniform(400, 600)
    logits = rng.normal(0, 2, (50, 3))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = (p.cumsum(1) < rng.random((50, 1))).sum(1)[:, None] == np.arange(3)
    empty = np.zeros(len(SUMS))
    return Witness(
        seed % parts,
        f"patient {seed}",
        np.stack([make_sums(voxels, promised), empty]),
        rng.normal(0, 1, len(IMAGE)),
        2.0,
        np.array([promised + rng.normal(0, 0.02), 0.0 if is_rare else math.nan]),
        np.array([voxels * 2 * rng.uniform(0.9, 1.1), 50.0 if is_rare else 0.0]),
        (3 * logits).astype(np.float16),  # three times too sure
        truth,
    )


@pytest.fixture(scope="module")
def trust() -> Trust:
    witnesses = [make_witness(seed) for seed in range(120)]
    return fit_trust(witnesses, ["organ", "lesion"], IMAGE, is_regions=False)


def judge(trust: Trust, sums: np.ndarray, image: tuple[float, float] = (0.0, 0.0), **options: Any) -> dict:
    both = np.stack([sums, np.zeros(len(SUMS))])
    return judge_case(trust, ["1", "2"], both, np.array(image), voxel_mm3=2.0, **options)


def test_another_modality_is_a_reason_where_both_are_known(trust: Trust):
    learnt = replace(trust, modalities=("MR", "PT+CT"))
    assert judge(learnt, make_sums(500, 0.85), modality="CT")["reasons"] == [
        "the scan is CT; those of training were MR, PT+CT"
    ]
    for known, modality in ((learnt, "MR"), (learnt, ""), (trust, "CT")):
        assert not judge(known, make_sums(500, 0.85), modality=modality)["look"]


def test_a_usual_case_needs_no_look(trust: Trust):
    verdict = judge(trust, make_sums(500, 0.85))
    assert verdict["look"] is False and verdict["reasons"] == [] and verdict["outlier"]["p"] > 0.05
    organ = verdict["structures"]["1"]
    assert organ["dice"] == pytest.approx(0.85, abs=0.03)
    assert organ["dice_low"] < organ["dice"] < organ["dice_high"]
    assert organ["volume_ml"] == pytest.approx(1.0, abs=0.05)
    assert organ["volume_ml_low"] < 1 < organ["volume_ml_high"]
    assert organ["confidence"] == pytest.approx(0.85) and organ["entropy"] == pytest.approx(0.15)


def test_intervals_hold_nine_in_ten_of_the_cases_themselves(trust: Trust):
    assert trust.figures.cases == trust.figures.patients == 120
    assert 0.84 <= (trust.figures.volume_coverage or 0) <= 0.96
    assert 0.84 <= (trust.figures.dice_coverage or 0) <= 0.96
    assert trust.figures.ece_after < trust.figures.ece_before


def test_a_low_promise_is_a_reason(trust: Trust):
    (reason, *_) = [r for r in judge(trust, make_sums(500, 0.5))["reasons"] if "predicted Dice" in r]
    assert reason.startswith("organ: predicted Dice 0.5") and "95% of the held-out cases reach 0.7" in reason


def test_a_volume_that_no_reference_has_is_a_reason(trust: Trust):
    reasons = judge(trust, make_sums(5000, 0.85))["reasons"]
    assert any(reason.startswith("organ: 10 ml; references of held-out cases have 0.7") for reason in reasons)


def test_a_structure_that_is_cut_off_is_a_reason(trust: Trust):
    sums = make_sums(500, 0.85)
    sums[SUMS.index("rim")] = 50
    (reason,) = judge(trust, sums)["reasons"]
    assert reason == (
        "organ: 10.0% of it lies at the border of the image; 95% of the held-out cases have at most 0.0%"
    )


def test_pixels_have_no_millilitres(trust: Trust):
    verdict = judge(trust, make_sums(5000, 0.85), is_picture=True)
    assert verdict["structures"]["1"]["volume_ml"] is None
    assert any(reason.startswith("organ: 1e+04 pixels") for reason in verdict["reasons"])


def test_a_structure_that_all_have_and_was_not_found_is_a_reason_and_a_rare_one_is_not(trust: Trust):
    verdict = judge(trust, np.zeros(len(SUMS)))
    assert "no organ was found; 100% of the held-out cases have it" in verdict["reasons"]
    assert not any("lesion" in reason for reason in verdict["reasons"])
    assert verdict["structures"]["1"]["dice"] is None and verdict["structures"]["1"]["confidence"] is None


def test_an_image_unlike_the_training_is_a_reason_with_its_features(trust: Trust):
    verdict = judge(trust, make_sums(500, 0.85), (12.0, 0.0))
    assert verdict["look"] and list(verdict["outlier"]["unusual"]) == ["noise"]
    assert verdict["reasons"][0].startswith("the case is unlike the training cases (p = 0.008): noise +1")


def test_an_outlier_without_one_odd_feature_is_told_without_features(trust: Trust):
    odd = replace(trust.outlier, distances=np.zeros(120))
    (reason,) = judge(replace(trust, outlier=odd), make_sums(500, 0.85))["reasons"]
    assert reason == "the case is unlike the training cases (p = 0.008)"


def test_disagreement_is_told_only_between_members(trust: Trust):
    alone, several = (judge(trust, make_sums(500, 0.85), has_disagreement=flag) for flag in (False, True))
    told = [verdict["structures"]["1"]["disagreement"] for verdict in (alone, several)]
    assert told == [None, 0.25]


def test_a_structure_that_no_reference_holds_has_no_intervals(trust: Trust):
    lesion = judge(trust, make_sums(500, 0.85))["structures"]["2"]
    assert lesion["dice"] is None and lesion["volume_ml"] is None


def test_a_structure_that_is_always_missed_still_has_a_volume_interval():
    witnesses = [make_witness(seed, is_rare=True) for seed in range(20)]
    trust = fit_trust(witnesses, ["organ", "lesion"], IMAGE, is_regions=False)
    lesion = judge(trust, make_sums(500, 0.85))["structures"]["2"]
    assert lesion["dice"] is None and lesion["volume_ml"] == pytest.approx(0.05, rel=1e-3)


def test_nine_patients_give_temperatures_but_no_intervals():
    trust = fit_trust([make_witness(seed, parts=2) for seed in range(9)], ["a", "b"], IMAGE, is_regions=False)
    assert trust.figures.volume_coverage is None and trust.figures.dice_coverage is None
    assert judge(trust, make_sums(500, 0.85))["structures"]["1"]["dice"] is None


def test_it_comes_back_from_a_file_that_names_nobody(trust: Trust, tmp_path: Path):
    path = tmp_path / "trust.json"
    path.write_text(json.dumps(trust.to_json(), allow_nan=False))
    sums = make_sums(450, 0.8)
    assert judge(load_trust(path), sums) == judge(trust, sums)
    assert "patient 1" not in path.read_text()


@pytest.mark.parametrize(
    ("text", "code"), [('{"schema": 99}', "MODEL_SCHEMA"), ("{", "MODEL_DAMAGED")], ids=["schema", "torn"]
)
def test_a_file_of_another_schema_or_a_torn_one_is_refused(text: str, code: str, tmp_path: Path):
    (tmp_path / "trust.json").write_text(text)
    with pytest.raises(CheckpointError) as caught:
        load_trust(tmp_path / "trust.json")
    assert caught.value.code == code
