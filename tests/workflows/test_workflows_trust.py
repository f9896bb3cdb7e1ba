"""A run of all folds calibrates its model, and infer says of every case whether to look at it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from scipy.special import softmax

from medseg.config import Config, Region
from medseg.core.errors import CheckpointError
from medseg.core.files import write_csv
from medseg.core.settings import Builder
from medseg.inference.model import load_model
from medseg.inference.segment import Segmenter
from medseg.inference.trust.fit import load_trust
from medseg.inference.trust.watch import name_structures
from medseg.io import read_volume
from medseg.metrics.case import CaseMetrics, LabelMetrics
from medseg.workflows.model_folder import write_model
from medseg.workflows.outputs import plan_outputs
from medseg.workflows.progress import Progress
from medseg.workflows.report import Report
from medseg.workflows.run import score
from medseg.workflows.run_folder import RunFolder
from medseg.workflows.trust import RECORD, list_dice, settle_trust, word_figures
from tests.tiny import IDS, document, hashes, medseg

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def calibrated(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of both folds, where six patients are enough; read only."""
    run = Path(shutil.copytree(tiny_run, tmp_path_factory.mktemp("trust") / "RUN"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medseg.workflows.trust.MIN_PATIENTS", 6)
        patch.setattr("medseg.inference.trust.structure.MIN_PATIENTS", 3)
        result = medseg("train", run, "--fold", "1", "--no-tracking", "--json")
    assert result.exit_code == 0, result.stderr
    (run.parent / "stdout.json").write_text(result.stdout)
    return run


@pytest.fixture(scope="module")
def inferred(calibrated: Path, tiny_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("inferred")
    image = tiny_cohort / "imagesTr" / f"{IDS[0]}.nii.gz"
    result = medseg("infer", image, "-m", calibrated, "-o", out, "--save-uncertainty", "--threads", "1")
    assert result.exit_code == 0, result.stderr
    return out


def test_the_report_says_how_well_it_works(calibrated: Path):
    figures = json.loads((calibrated.parent / "stdout.json").read_text())["trust"]
    assert figures == json.loads((calibrated / "trust.json").read_text())["figures"]
    assert figures["cases"] == 6 and 0 <= figures["ece_after"] <= 1


def test_the_reliability_bins_sum_up_to_the_calibration_error(calibrated: Path):
    figures = json.loads((calibrated / "trust.json").read_text())["figures"]
    filled = [one for one in figures["bins"] if one["n"]]
    gaps = [one["n"] * abs(one["accuracy"] - one["confidence"]) for one in filled]
    error = sum(gaps) / sum(one["n"] for one in filled)
    assert error == pytest.approx(figures["ece_after"], abs=1e-5)
    assert {"reliability.png", "reliability.svg"} <= {
        path.name for path in (calibrated / "evaluation" / "plots").iterdir()
    }


def test_the_model_holds_it_without_a_case_id_and_says_so(calibrated: Path):
    text = (calibrated / "model/trust.json").read_text()
    assert text == (calibrated / "trust.json").read_text() and not any(name in text for name in IDS)
    assert "trust.json" in (calibrated / "model/SHA256SUMS").read_text()
    assert "Trust: calibration error" in (calibrated / "model/MODEL_CARD.md").read_text()
    trust = load_model(calibrated, CPU).trust
    assert trust is not None and [row.name for row in trust.structures] == ["organ", "lesion"]


def test_calibration_makes_another_model_of_the_same_networks(calibrated: Path, tmp_path: Path):
    run = RunFolder(Path(shutil.copytree(calibrated, tmp_path / "RUN")))
    before = load_model(run.root, CPU)
    (run.root / "trust.json").unlink()
    write_model(run.load_config(), run, {})
    after = load_model(run.root, CPU)
    assert after.trust is None and not (run.model / "trust.json").exists()
    assert before.sha256 != after.sha256 and before.networks_sha256 == after.networks_sha256


def test_a_file_of_trust_that_is_not_listed_is_refused(tiny_run: Path, calibrated: Path, tmp_path: Path):
    model = Path(shutil.copytree(tiny_run / "model", tmp_path / "model"))
    shutil.copy(calibrated / "trust.json", model)
    with pytest.raises(CheckpointError, match=r"trust\.json does not match"):
        load_model(model, CPU)


def test_lost_records_are_made_again_bit_for_bit(calibrated: Path, tmp_path: Path):
    run = RunFolder(Path(shutil.copytree(calibrated, tmp_path / "RUN")))
    before = hashes(run.root / "predictions")
    for record in run.root.glob(f"predictions/*/*{RECORD}"):
        record.unlink()
    score(run.load_config(), run, progress=Progress(), report=Report("run"))
    assert hashes(run.root / "predictions") == before
    assert not (run.root / "trust.json").exists()  # six patients are too few


def test_modalities_are_those_that_the_check_noted(calibrated: Path, tmp_path: Path):
    run = RunFolder(Path(shutil.copytree(calibrated, tmp_path / "RUN")))
    assert load_trust(run.root / "trust.json").modalities == () and set(run.modalities().values()) == {""}
    rows = [
        {"id": name, "patient": patient, "modality": "" if name == IDS[0] else "CT"}
        for name, patient in run.patients().items()
    ]
    write_csv(run.check / "cases.csv", rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medseg.workflows.trust.MIN_PATIENTS", 6)
        score(run.load_config(), run, progress=Progress(), report=Report("run"))
    assert load_trust(run.root / "trust.json").modalities == ("CT",)


def test_beside_ignored_voxels_nothing_is_learnt(calibrated: Path, tmp_path: Path):
    run = RunFolder(Path(shutil.copytree(calibrated, tmp_path / "RUN")))
    config = run.load_config()
    data = config.data.model_copy(update={"ignore_label": 255})
    report = Report("run")
    settle_trust(config.model_copy(update={"data": data}), run, [], progress=Progress(), report=report)
    assert "trust" not in report.extra and not (run.root / "trust.json").exists()


def test_the_sidecar_holds_a_verdict(inferred: Path):
    trust = json.loads((inferred / f"{IDS[0]}.json").read_text())["trust"]
    assert trust["look"] is bool(trust["reasons"]) and 0 < trust["outlier"]["p"] <= 1
    assert list(trust["structures"]) == ["1", "2"]


def test_the_report_repeats_it_also_of_skipped_cases(inferred: Path, calibrated: Path, tiny_cohort: Path):
    verdict = json.loads((inferred / f"{IDS[0]}.json").read_text())["trust"]
    first = json.loads((inferred / "report.json").read_text())["cases"][0]
    assert first["trust"] == {"look": verdict["look"], "reasons": verdict["reasons"]}
    image = tiny_cohort / "imagesTr" / f"{IDS[0]}.nii.gz"
    again = medseg("infer", image, "-m", calibrated, "-o", inferred, "--save-uncertainty", "--json")
    (case,) = document(again)["cases"]
    assert (case["status"], case["trust"]) == ("skipped", first["trust"])


@pytest.mark.parametrize("kind", ["entropy", "disagreement"])
def test_maps_lie_on_the_grid_of_the_scan(inferred: Path, tiny_cohort: Path, kind: str):
    found = nibabel.load(inferred / f"{IDS[0]}_{kind}.nii.gz")
    scan = nibabel.load(tiny_cohort / "imagesTr" / f"{IDS[0]}.nii.gz")
    assert found.shape == scan.shape and np.array_equal(found.affine, scan.affine)
    values = found.get_fdata()
    assert 0 <= values.min() < values.max() <= 1


def test_saved_probabilities_are_calibrated_and_the_mask_is_the_same(calibrated: Path, tiny_cohort: Path):
    model = load_model(calibrated, CPU)
    assert model.trust is not None
    hot = replace(model, trust=replace(model.trust, temperatures=(2.0,)))
    scan = read_volume(tiny_cohort / "imagesTr" / f"{IDS[0]}.nii.gz")
    (mask, raw), (same, soft) = (
        Segmenter(one, one.infer).segment(*one.preprocess(scan), with_probabilities=True)
        for one in (replace(model, trust=None), hot)
    )
    assert raw is not None and soft is not None and np.array_equal(mask.array, same.array)
    assert np.allclose(soft, softmax(np.log(raw) / 2, axis=0), atol=1e-5)
    assert not np.allclose(soft, raw, atol=1e-3)


def test_refined_probabilities_are_left_as_they_are(calibrated: Path):
    model = load_model(calibrated, CPU)
    refined = model.infer.model_copy(update={"refine": (Builder(name="crf"),)})
    assert Segmenter(model, refined).temperatures == (1.0,)


def test_the_sidecar_of_probabilities_tells_their_temperatures(
    calibrated: Path, tiny_cohort: Path, tmp_path: Path
):
    image = tiny_cohort / "imagesTr" / f"{IDS[0]}.nii.gz"
    done = medseg("infer", image, "-m", calibrated, "-o", tmp_path, "--save-probabilities", "--threads", "1")
    assert done.exit_code == 0, done.stderr
    sidecar = json.loads((tmp_path / f"{IDS[0]}.json").read_text())
    assert sidecar["temperatures"] == json.loads((calibrated / "trust.json").read_text())["temperatures"]


def test_folds_may_be_chosen_and_the_sidecar_names_them(calibrated: Path, tiny_cohort: Path, tmp_path: Path):
    image, asked = tiny_cohort / "imagesTr" / f"{IDS[0]}.nii.gz", ("-m", calibrated, "-o", tmp_path)
    done = medseg("infer", image, *asked, "--folds", "1,1", "--threads", "1")
    assert done.exit_code == 0, done.stderr
    settings = json.loads((tmp_path / f"{IDS[0]}.json").read_text())["settings"]
    assert (settings["folds"], settings["networks"]) == ([1], 1)
    for folds in ("1,7", "all"):
        refused = medseg("infer", image, *asked, "--folds", folds, "--dry-run")
        assert refused.exit_code == 2 and "UNKNOWN_FOLD" in refused.stderr


def test_maps_go_when_they_are_no_longer_asked_for(
    inferred: Path, calibrated: Path, tiny_cohort: Path, tmp_path: Path
):
    out = Path(shutil.copytree(inferred, tmp_path / "out"))
    image = tiny_cohort / "imagesTr" / f"{IDS[0]}.nii.gz"
    mask = (out / f"{IDS[0]}.nii.gz").read_bytes()
    assert medseg("infer", image, "-m", calibrated, "-o", out, "--threads", "1").exit_code == 0
    assert not list(out.glob("*_entropy*")) and (out / f"{IDS[0]}.nii.gz").read_bytes() == mask


def test_disagreement_is_half_the_distance_of_two_networks(calibrated: Path):
    models = [load_model(calibrated, CPU, folds=chosen) for chosen in ([0], [1], None)]
    plan = models[0].plan
    image = np.random.default_rng(0).normal(0, 1, (1, *plan.patch)).astype(np.float16)  # one window
    p, q = (softmax(Segmenter(m, m.infer).predict(image), axis=0) for m in models[:2])
    slabs = list(Segmenter(models[2], models[2].infer, tells_disagreement=True).stream(image))
    assert len(slabs) == 1 and slabs[0].disagreement is not None
    expected = np.moveaxis(np.abs(p - q).sum(0) / 4, slabs[0].axis, 0)
    assert np.allclose(slabs[0].disagreement, expected, atol=1e-5)


def test_a_picture_gets_no_maps(tmp_path: Path):
    from medseg.data.cases import Case

    outputs = plan_outputs(Case("a", (tmp_path / "a.png",)), ("nifti",), False, ["entropy"])
    assert not outputs.maps and outputs.warnings[0][0] == "NO_UNCERTAINTY"


def test_regions_are_structures_by_name(tiny_run: Path):
    config: Config = RunFolder(tiny_run).load_config()
    regions = (Region(name="all", covers=(1, 2), paints=1), Region(name="core", covers=(2,), paints=2))
    data = config.data.model_copy(update={"regions": regions})
    assert name_structures(data) == {"all": "all", "core": "core"}


def test_the_dice_of_regions_is_taken_by_name(tiny_run: Path):
    data = RunFolder(tiny_run).load_config().data
    regions = (Region(name="all", covers=(1, 2), paints=1), Region(name="core", covers=(2,), paints=2))
    rows = {"core": LabelMetrics("core", "both_empty", {"dice": None})}
    rows["all"] = LabelMetrics("all", "present", {"dice": 0.5})
    case = CaseMetrics("a", {}, None, None, {}, rows)
    found = list_dice(case, data.model_copy(update={"regions": regions}))
    assert found[0] == 0.5 and np.isnan(found[1])


def test_without_intervals_only_the_calibration_is_told(calibrated: Path):
    trust = load_trust(calibrated / "trust.json")
    bare = replace(trust, figures=replace(trust.figures, volume_coverage=None, ece_after=0.125))
    assert word_figures(bare).endswith("0.1250 with temperature scaling")
