"""review: what the page holds of a run, of masks and of an evaluation."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medseg.core.errors import ConfigError, DataError, GeometryError
from medseg.core.files import read_json, sha256_of_file, write_json, write_text
from medseg.core.geometry import Geometry
from medseg.core.volume import Labels, Volume
from medseg.data.cases import pseudonymize, read_key
from medseg.data.plan import Normalization
from medseg.io import read_labels, write_labels, write_volume
from medseg.tracking.review.encode import unpack, unpack_grey
from medseg.tracking.review.niivue import BUNDLE
from medseg.tracking.review.scene import OTHER
from medseg.workflows.report import Report
from medseg.workflows.review import Sources, build, share_bytes
from medseg.workflows.review_run import describe_channels, find_unlikely
from medseg.workflows.review_sources import Images, is_like_ct, make_scene
from medseg.workflows.run_folder import RunFolder
from tests.tiny import IDS, document, make_case, medseg, write_cohort

BLOCK = re.compile(r'<script type="application/json" id="([a-z0-9-]+)">(.*?)</script>', re.DOTALL)


def read_page(path):
    """Return the data blocks of a page by their ids."""
    return {name: json.loads(text) for name, text in BLOCK.findall(path.read_text(encoding="utf-8"))}


def show(out, **sources):
    report = Report("review")
    return read_page(build(Sources(**sources), out, report=report)), report


def row_of(blocks, name):
    return next(case for case in blocks["index"]["cases"] if case["id"] == name)


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    """A RUN whose two folds are trained: the second is made of the first and of the references."""
    run = tmp_path_factory.mktemp("run") / "RUN"
    shutil.copytree(tiny_run, run)
    folder = RunFolder(run)
    shutil.copy(run / "model" / "weights_fold_0.safetensors", run / "model" / "weights_fold_1.safetensors")
    first = next((run / "predictions" / "fold_0").glob("*_trust.safetensors"))
    lines = (run / "evaluation" / "cases.csv").read_text().splitlines()
    for name in folder.load_splits().validation(1):
        target = run / "predictions" / "fold_1" / f"{name}.nii.gz"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(folder.case(name).reference, target)
        shutil.copy(first, target.with_name(f"{name}_trust.safetensors"))
        lines += [line.replace(lines[1].split(",")[0], name) for line in lines[1:3]]
    write_text(run / "evaluation" / "cases.csv", "\n".join(lines))
    write_json(run / "evaluation" / "metrics.json", {})
    return run


@pytest.fixture
def copied(run, tmp_path):
    """A copy of the run to be changed."""
    shutil.copytree(run, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture(scope="module")
def run_page(run, tmp_path_factory):
    page = build(Sources(run), tmp_path_factory.mktemp("page"))
    return page, read_page(page)


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    """Masks of three cases, their references and images; the first mask is empty."""
    root = write_cohort(tmp_path_factory.mktemp("masks"), IDS[:3])
    for seed, name in enumerate(IDS[:3]):
        _, labels = make_case(seed)
        found = Labels(labels.array * (seed > 0), labels.geometry)
        write_labels(root / "masks" / f"{name}.nii.gz", found)
    return root


@pytest.fixture
def evaluation(masks, tmp_path):
    """An evaluation's table, as `evaluate` writes it."""
    rows = [
        {"id": name, "label": label, "name": title, "state": "present", "dice": dice, "hd95_mm": ""}
        for name, dice in zip(IDS[:3], (0.1, 0.9, 0.8), strict=True)
        for label, title in ((1, "organ"), (2, "lesion"), ("region", "both"))
    ]
    with (tmp_path / "cases.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    write_json(tmp_path / "metrics.json", {"mean": {"dice": 0.6, "ci95": {"dice": [0.4, 0.8]}}})
    return tmp_path


def test_a_run_shows_every_held_out_case_of_all_its_folds(run_page):
    cases = run_page[1]["index"]["cases"]
    assert {case["id"] for case in cases} == set(IDS)
    assert {case["part"] for case in cases} == {"fold 0", "fold 1"}
    assert [case["score"] for case in cases] == sorted(case["score"] for case in cases)


def test_scores_are_those_of_the_evaluation(run_page, run):
    with (run / "evaluation" / "cases.csv").open(newline="") as stream:
        expected = {
            (row["id"], row["name"]): float(row["dice"]) for row in csv.DictReader(stream) if row["dice"]
        }
    rows = [(case["id"], row) for case in run_page[1]["index"]["cases"] for row in case["rows"]]
    assert {(name, row["name"]): row["dice"] for name, row in rows if "dice" in row} == expected


def test_reference_and_image_of_a_run_are_those_of_the_scan(run_page):
    blocks = run_page[1]
    block = blocks[f"case-{row_of(blocks, IDS[0])['block']}"]
    image, labels = make_case(0)
    assert np.array_equal(unpack(block["reference"], block["shape"]), labels.array)
    channel = block["channels"][0]
    grey = np.array(channel["levels"])[unpack_grey(channel["data"], block["shape"])]
    inside = labels.array > 0  # elsewhere the network saw it clipped
    assert channel["unit"] == "HU"
    assert np.corrcoef(grey[inside], image.array[0][inside])[0, 1] > 0.95


def test_the_verdict_says_how_good_and_on_how_many(run_page):
    assert re.match(
        r"Mean Dice 0\.\d{3} \(95 % interval 0\.\d+ to 0\.\d+\) on 6 cases: ", run_page[1]["index"]["verdict"]
    )


def test_provenance_names_settings_network_and_training_data(run_page):
    index = run_page[1]["index"]
    facts = dict(index["facts"])
    assert facts["Network"].startswith("strided_unet (")
    assert facts["Folds"] == "2 of 2 trained"
    assert all(len(facts[name]) == 64 for name in facts if name.startswith("SHA-256"))
    assert index["notes"][0].startswith("Trained on 6 cases of 6 patients in 2 folds")


def test_the_page_holds_no_path(run_page, run, tiny_run, tiny_cohort):
    text = run_page[0].read_text()
    for path in (run, tiny_run, tiny_cohort, Path.home()):
        assert str(path) not in text


def test_the_same_run_gives_the_same_page(run_page, run, tmp_path):
    assert build(Sources(run), tmp_path / "again.html").read_bytes() == run_page[0].read_bytes()


def test_images_of_the_cohort_replace_those_of_the_store(run, tiny_cohort, tmp_path):
    blocks, _ = show(tmp_path, root=run, images=tiny_cohort)
    channel = blocks[f"case-{row_of(blocks, IDS[0])['block']}"]["channels"][0]
    assert (
        channel["levels"][0] < -230
    )  # the darkest air of the scan; what the network saw is clipped above it
    assert blocks["case-0"]["note"] == "The whole scan, 20 × 18 × 10 voxels."


def test_a_rejected_case_of_a_run_stands_first(copied, tmp_path):
    run = copied
    report = read_json(run / "report.json")
    report["cases"].append({"id": "bad", "status": "rejected", "code": "NII_CRC", "message": "damaged"})
    write_json(run / "report.json", report)
    blocks, _ = show(tmp_path, root=run)
    assert blocks["index"]["cases"][0]["reasons"] == ["NII_CRC: damaged"]
    assert blocks["index"]["cases"][0]["block"] is None


def test_what_the_check_rejected_is_still_there_after_more_training(copied, tmp_path):
    for name, cases in (("report.json", []), ("check/report.json", ["bad", IDS[0]])):
        told = [{"id": case, "status": "rejected", "code": "NII_CRC", "message": "damaged"} for case in cases]
        write_json(copied / name, {**read_json(copied / name), "cases": told})
    blocks, _ = show(tmp_path, root=copied)
    assert row_of(blocks, "bad")["reasons"] == ["NII_CRC: damaged"]
    assert row_of(blocks, IDS[0])["flags"] != ["failed"]  # it was mended since, and scored


def test_a_test_set_is_shown_and_is_no_part_of_the_mean(copied, tmp_path):
    run = copied
    splits = read_json(run / "splits.json")
    moved = splits["folds"][0].pop()
    write_json(run / "splits.json", {**splits, "test": [moved]})
    shutil.copytree(run / "predictions" / "fold_0", run / "predictions" / "test")
    (run / "evaluation" / "test").mkdir()
    lines = (run / "evaluation" / "cases.csv").read_text().splitlines()
    held = [line for line in lines if not line.startswith(moved)]
    write_text(
        run / "evaluation" / "test" / "cases.csv", "\n".join(lines[:1] + [x for x in lines if x not in held])
    )
    write_text(run / "evaluation" / "cases.csv", "\n".join(held))
    write_json(run / "evaluation" / "test" / "metrics.json", {"mean": {"dice": 0.4567}})
    blocks, _ = show(tmp_path, root=run)
    assert row_of(blocks, moved)["part"] == "test"
    assert " on 5 cases" in blocks["index"]["verdict"]
    assert (
        "Test set of 1 cases, predicted by all folds together: mean Dice 0.457." in blocks["index"]["notes"]
    )


def test_few_patients_have_no_interval(evaluation, tmp_path):
    write_json(evaluation / "metrics.json", {})
    blocks, _ = show(tmp_path / "page", root=evaluation)
    assert blocks["index"]["verdict"].startswith(
        "Mean Dice 0.600 (no interval of so few patients) on 3 cases"
    )


def test_the_interval_is_that_of_the_evaluation(evaluation, tmp_path):
    blocks, _ = show(tmp_path / "page", root=evaluation)
    assert blocks["index"]["verdict"].startswith("Mean Dice 0.600 (95 % interval 0.400 to 0.800) on 3 cases")


def test_no_interval_is_made_where_the_evaluation_has_none(evaluation, tmp_path):
    lines = (evaluation / "cases.csv").read_text().splitlines()
    more = [line.replace(IDS[0], f"again{n}") for n in range(9) for line in lines[1:4]]
    write_text(evaluation / "cases.csv", "\n".join([*lines, *more]))
    write_json(evaluation / "metrics.json", {"mean": {"dice": 0.6, "ci95": {"dice": None}}})
    blocks, _ = show(tmp_path / "page", root=evaluation)
    assert blocks["index"]["verdict"].startswith("Mean Dice 0.600 (no interval of so few patients) on 12")


def test_a_run_without_an_evaluation_is_refused(tiny_run, tmp_path):
    shutil.copy(tiny_run / "config.yaml", tmp_path)
    with pytest.raises(ConfigError) as caught:
        build(Sources(tmp_path), tmp_path)
    assert caught.value.code == "RUN_INCOMPLETE"


def test_cases_are_judged_against_the_other_parts_once_trust_was_learnt(copied):
    folder = RunFolder(copied)
    assert find_unlikely(folder.load_config(), folder) == {}
    write_json(copied / "trust.json", {})
    found = find_unlikely(folder.load_config(), folder)
    assert set(found) == set(IDS)
    assert all(1 / 6 - 1e-4 <= p <= 1 for p in found.values())
    shutil.rmtree(copied / "predictions")
    assert find_unlikely(folder.load_config(), folder) == {}


def test_grey_values_go_back_to_the_scans_own_where_the_plan_knows(tiny_run):
    run = RunFolder(tiny_run)
    config, plan = run.load_config(), run.load_plan()
    _, note = describe_channels(config, plan)
    assert "HU, as the network saw it." in note
    blind = replace(plan, normalization=(Normalization("zscore"),))
    channels, note = describe_channels(config, blind)
    assert channels[0].unit == "" and "mean 0, SD 1" in note
    open_ = replace(plan, normalization=(Normalization("pet", shift=0.0, scale=2.0),))
    channels, note = describe_channels(config, open_)
    assert (channels[0].scale, note) == (2.0, "")


def test_masks_of_any_tool_are_measured(masks, tmp_path):
    blocks, report = show(tmp_path, root=masks / "masks")
    index = blocks["index"]
    assert index["labels"] == [{"value": 1, "name": "1"}, {"value": 2, "name": "2"}]
    voxel_ml = 1.5 * 1.5 * 3 / 1000
    assert row_of(blocks, IDS[1])["volumes"]["2"] == pytest.approx(18 * voxel_ml)
    assert blocks["case-0"]["channels"] == [] and "masks only" in blocks["case-0"]["note"]
    assert report.exit_code == 0


def test_sidecars_tell_volumes_and_trust(masks, tmp_path):
    folder = tmp_path / "OUT"
    shutil.copytree(masks / "masks", folder)
    trust = {"look": True, "reasons": ["organ: small"], "outlier": {"p": 0.01}}
    labels = {"1": {"name": "organ", "volume_ml": 3.5}, "2": {"name": "lesion", "volume_ml": 0.0}}
    sidecar = {"labels": labels, "trust": trust, "model_sha256": "f" * 64, "versions": {"medseg": "0.1.0"}}
    write_json(folder / f"{IDS[1]}.json", sidecar)
    failed = {"id": "gone", "status": "failed", "code": "NII_CRC", "message": "damaged"}
    write_json(folder / "report.json", {"cases": [failed, {"id": IDS[1], "status": "done"}]})
    blocks, _ = show(tmp_path, root=folder)
    case = row_of(blocks, IDS[1])
    assert case["volumes"] == {"organ": 3.5, "lesion": 0.0}
    assert case["flags"] == ["unlike"] and case["reasons"][0] == "organ: small"
    assert blocks["index"]["cases"][0]["id"] == "gone"
    assert dict(blocks["index"]["facts"])["SHA-256 of the model"] == "f" * 64


def test_an_empty_picture_is_seen_though_its_sidecar_has_no_volume(tmp_path):
    square = Geometry((6, 8, 1), np.eye(4))
    for name, value in (("found", 1), ("nothing", 0)):
        array = np.zeros(square.shape, np.uint8)
        array[2:4, 2:5] = value
        write_labels(tmp_path / f"{name}.png", Labels(array, square))
        labels = {"1": {"name": "polyp", "volume_ml": None}}
        trust = {"reasons": [f"polyp: {name}"], "outlier": {"p": 0.5}}
        write_json(
            tmp_path / f"{name}.json", {"labels": labels, "versions": {"medseg": "0.1.0"}, "trust": trust}
        )
    blocks, _ = show(tmp_path, root=tmp_path)
    assert row_of(blocks, "nothing")["flags"] == ["empty"]
    assert row_of(blocks, "nothing")["reasons"] == ["polyp: nothing", "the mask is empty"]
    assert row_of(blocks, "found")["flags"] == []
    assert blocks["index"]["labels"] == [{"value": 1, "name": "polyp"}]
    assert blocks["index"]["verdict"] == "2 cases: 1 empty."


def test_a_structure_that_one_mask_alone_lacks_is_flagged(tmp_path):
    for name in "abcdef":
        array = np.ones((4, 4, 3), np.uint8)
        array[2:] = 1 if name == "f" else 2
        write_labels(tmp_path / f"{name}.nii.gz", Labels(array, Geometry.of_spacing(array.shape, (1, 1, 3))))
    blocks, _ = show(tmp_path, root=tmp_path)
    assert row_of(blocks, "f")["reasons"] == [
        "1: volume 13.9 robust SD above the median case",
        "2: not found, 5 of 5 other cases have it",
    ]
    assert blocks["index"]["verdict"] == "6 cases: 1 outlier."


def test_an_invented_structure_is_part_of_the_verdict(evaluation, tmp_path):
    text = (evaluation / "cases.csv").read_text()
    write_text(
        evaluation / "cases.csv",
        text.replace(f"{IDS[1]},2,lesion,present,0.9", f"{IDS[1]},2,lesion,spurious,0"),
    )
    blocks, _ = show(tmp_path / "page", root=evaluation)
    assert blocks["index"]["verdict"].endswith("on 3 cases: 1 invented.")


FOREIGN = (
    {"labels": {"background": 0, "tumour": 1}, "versions": {}},
    {"labels": {"1": "tumour"}, "versions": {}},
    {"labels": {"1": {"name": "tumour", "volume_ml": 1}}, "versions": None},
    {"labels": {}, "versions": {}, "trust": "high"},
    {"id": 1},
)


@pytest.mark.parametrize("tree", FOREIGN)
def test_json_of_another_tool_is_no_sidecar(masks, tmp_path, tree):
    folder = tmp_path / "OUT"
    shutil.copytree(masks / "masks", folder)
    write_json(folder / f"{IDS[1]}.json", tree)
    blocks, report = show(tmp_path, root=folder)
    assert row_of(blocks, IDS[1])["volumes"]["2"] == pytest.approx(18 * 1.5 * 1.5 * 3 / 1000)
    assert report.exit_code == 0


@pytest.mark.parametrize("cases", [{"a": 1}, ["a"], None])
def test_json_of_another_tool_is_no_report(masks, tmp_path, cases):
    folder = tmp_path / "OUT"
    shutil.copytree(masks / "masks", folder)
    write_json(folder / "report.json", {"cases": cases})
    blocks, _ = show(tmp_path, root=folder)
    assert len(blocks["index"]["cases"]) == 3


def test_of_more_structures_than_a_byte_counts_the_rest_is_hidden_and_told(tmp_path):
    array = np.arange(8 * 8 * 5, dtype=np.uint16).reshape(8, 8, 5)  # 0 to 319
    write_labels(tmp_path / "masks" / "a.nii.gz", Labels(array, Geometry.of_spacing(array.shape, (1, 1, 3))))
    blocks, _ = show(tmp_path, root=tmp_path / "masks")
    packed = unpack(blocks["case-0"]["predicted"], array.shape)
    assert np.array_equal(packed, np.where(array < OTHER, array, OTHER))
    assert "Images show 254 of 319 structures; the others are hidden." in blocks["index"]["notes"]


def test_a_damaged_mask_is_reported_and_the_others_are_shown(masks, tmp_path):
    folder = tmp_path / "OUT"
    shutil.copytree(masks / "masks", folder)
    write_text(folder / f"{IDS[0]}.nii.gz", "nothing")
    blocks, report = show(tmp_path, root=folder)
    assert report.exit_code == 3
    assert blocks["index"]["cases"][0]["flags"] == ["failed"]
    assert sum(case["block"] is not None for case in blocks["index"]["cases"]) == 2


def test_an_evaluation_shows_its_masks_on_their_images(evaluation, masks, tmp_path):
    sources = {"reference": masks / "labelsTr", "predicted": masks / "masks", "images": masks / "imagesTr"}
    blocks, report = show(tmp_path / "page", root=evaluation, **sources)
    block = blocks[f"case-{row_of(blocks, IDS[1])['block']}"]
    assert block["reference"] == block["predicted"]
    assert block["channels"][0]["name"] == "image"
    assert report.exit_code == 0


def test_pairs_that_were_not_compared_stand_first(evaluation, masks, tmp_path):
    lines = (evaluation / "cases.csv").read_text().splitlines()
    kept = [line for line in lines if not line.startswith((IDS[0], IDS[1]))]
    write_text(evaluation / "cases.csv", "\n".join(kept))
    (tmp_path / "some").mkdir()
    for name in IDS[1:3]:
        shutil.copy(masks / "masks" / f"{name}.nii.gz", tmp_path / "some")
    sources = {"reference": masks / "labelsTr", "predicted": tmp_path / "some"}
    blocks, _ = show(tmp_path / "page", root=evaluation, **sources)
    told = {case["id"]: case["reasons"] for case in blocks["index"]["cases"][:2]}
    assert told == {
        IDS[0]: ["PREDICTION_MISSING: no predicted mask has this id"],
        IDS[1]: ["not compared: `medseg evaluate` says why"],
    }


def test_objects_of_instances_are_one_structure(tmp_path):
    array = np.zeros((8, 8, 4), np.uint8)
    array[1:3, 1:3, 1], array[5:7, 5:7, 2] = 1, 7
    for name in ("reference", "predicted"):
        labels = Labels(array, Geometry.of_spacing(array.shape, (1, 1, 3)))
        write_labels(tmp_path / name / "a.nii.gz", labels)
    pair = (tmp_path / "reference", tmp_path / "predicted")
    assert medseg("evaluate", *pair, "-o", tmp_path / "OUT", "--instances").exit_code == 0
    blocks, _ = show(tmp_path / "page", root=tmp_path / "OUT", reference=pair[0], predicted=pair[1])
    assert np.array_equal(unpack(blocks["case-0"]["reference"], array.shape), array > 0)


def test_ignored_voxels_are_neither_objects_nor_mistakes(tmp_path):
    reference = np.zeros((8, 8, 4), np.uint8)
    reference[1:3, 1:3, 1], reference[5:7, 5:7, 2] = 1, 9
    pair = (tmp_path / "labels" / "a.nii.gz", tmp_path / "masks" / "a.nii.gz")
    grid = Geometry.of_spacing(reference.shape, (1, 1, 3))
    write_labels(pair[0], Labels(reference, grid))
    write_labels(pair[1], Labels((reference > 0).astype(np.uint8), grid))
    options = ("--instances", "--ignore-label", "9")
    assert medseg("evaluate", *pair, "-o", tmp_path / "OUT", *options).exit_code == 0
    blocks, _ = show(tmp_path / "page", root=tmp_path / "OUT", reference=pair[0], predicted=pair[1])
    shown = unpack(blocks["case-0"]["reference"], reference.shape)
    assert np.array_equal(shown, np.select([reference == 1, reference == 9], [1, 255]))
    assert np.array_equal(unpack(blocks["case-0"]["predicted"], reference.shape), reference == 1)


def test_two_files_are_a_case_called_as_the_mask(tmp_path):
    array = np.zeros((8, 8, 4), np.uint8)
    array[1:3, 1:3, 1] = 1
    pair = (tmp_path / "truth.nii.gz", tmp_path / "made.nii.gz")
    for path in pair:
        write_labels(path, Labels(array, Geometry.of_spacing(array.shape, (1, 1, 3))))
    assert medseg("evaluate", *pair, "-o", tmp_path / "OUT").exit_code == 0
    blocks, _ = show(tmp_path / "page", root=tmp_path / "OUT", reference=pair[0], predicted=pair[1])
    assert [(case["id"], case["block"]) for case in blocks["index"]["cases"]] == [("made", 0)]
    assert blocks["case-0"]["reference"] == blocks["case-0"]["predicted"]


def test_provenance_of_an_evaluation_says_what_was_measured_and_how(masks, tmp_path):
    shutil.copytree(masks / "masks", tmp_path / "masks")
    for name in IDS[:3]:
        write_json(tmp_path / "masks" / f"{name}.json", {"model_sha256": "e" * 64})
    write_text(tmp_path / "who.csv", f"id,patient\n{IDS[0]},Ann\n{IDS[1]},Ann\n")
    pair = (masks / "labelsTr", tmp_path / "masks")
    options = ("--nsd-tolerance-mm", "2.5", "--ignore-label", "9", "--groups", tmp_path / "who.csv")
    assert medseg("evaluate", *pair, "-o", tmp_path / "OUT", *options).exit_code == 0
    blocks, _ = show(tmp_path / "page", root=tmp_path / "OUT", reference=pair[0], predicted=pair[1])
    facts = dict(blocks["index"]["facts"])
    assert facts["Cases"] == "3 of 2 patients"
    assert facts["Metric options"] == "nsd: tolerance_mm 2.5"
    assert facts["Ignored value of the references"] == "9"
    assert facts["SHA-256 of cases.csv"] == sha256_of_file(tmp_path / "OUT" / "cases.csv")
    assert facts["SHA-256 of the model"] == "e" * 64
    assert blocks["index"]["tolerance"] == 2.5 and blocks["index"]["ignores"]


def test_what_an_evaluation_does_not_say_is_no_fact(evaluation, tmp_path):
    write_json(evaluation / "metrics.json", {"definitions": {"options": ["nsd"], "ignore_label": "none"}})
    blocks, _ = show(tmp_path / "page", root=evaluation)
    assert [name for name, _ in blocks["index"]["facts"]] == [
        "Cases",
        "SHA-256 of cases.csv",
        "medseg",
        "Page made on",
    ]
    assert blocks["index"]["tolerance"] is None and not blocks["index"]["ignores"]
    write_json(evaluation / "metrics.json", {"definitions": None})
    assert show(tmp_path / "page", root=evaluation)[0]["index"]["facts"][0] == ["Cases", "3"]


def test_a_run_says_how_it_was_measured_too(copied, tmp_path):
    told = {"options": {"nsd": {"tolerance_mm": 2.0}}, "ignore_label": None}
    write_json(copied / "evaluation" / "metrics.json", {"definitions": told})
    blocks, _ = show(tmp_path, root=copied)
    assert dict(blocks["index"]["facts"])["Metric options"] == "nsd: tolerance_mm 2"
    assert blocks["index"]["tolerance"] == 2


def test_pixels_of_a_picture_have_no_volume(tmp_path):
    square = Geometry((6, 8, 1), np.eye(4))
    array = np.zeros(square.shape, np.uint8)
    array[2:4, 2:5] = 1
    pair = tmp_path / "truth", tmp_path / "masks"
    for folder in pair:
        write_labels(folder / "a.png", Labels(array, square))
    assert medseg("evaluate", *pair, "-o", tmp_path / "OUT").exit_code == 0
    blocks, _ = show(tmp_path / "page", root=tmp_path / "OUT", reference=pair[0], predicted=pair[1])
    case = row_of(blocks, "a")
    assert case["unit"] == "px" and case["volumes"] == {} and case["rows"][0]["hd95_mm"] == 0
    assert not any(key.endswith("_ml") for key in case["rows"][0])


def test_a_table_of_pictures_alone_is_in_pixels_too(tmp_path):
    array = np.zeros((6, 8, 1), np.uint8)
    array[2:4, 2:5] = 1
    for folder in ("truth", "masks"):
        write_labels(tmp_path / folder / "a.png", Labels(array, Geometry(array.shape, np.eye(4))))
    assert medseg("evaluate", tmp_path / "truth", tmp_path / "masks", "-o", tmp_path / "OUT").exit_code == 0
    case = row_of(show(tmp_path / "page", root=tmp_path / "OUT")[0], "a")
    assert case["unit"] == "px" and "volume_error_ml" not in case["rows"][0]


FOREIGN_TABLES = (
    "id,patient\na,b\n",
    "id,label,name,state\na,lung,lung,present\n",
    "id,label,name,state\na,1,lung,healthy\n",
    "id,label,name,state,dice\na,1,lung,present,high\n",
    "id,label,name,state,dice\na,1,lung,present,inf\n",
)


@pytest.mark.parametrize("table", FOREIGN_TABLES)
def test_another_table_of_cases_is_refused(tmp_path, table):
    write_text(tmp_path / "cases.csv", table)
    with pytest.raises(ConfigError, match="holds no scores") as caught:
        build(Sources(tmp_path), tmp_path)
    assert caught.value.code == "SCORES_INVALID"


def test_the_check_of_a_run_is_refused(run, tmp_path):
    with pytest.raises(ConfigError, match="holds no scores"):
        build(Sources(run / "check"), tmp_path)


def test_an_evaluation_without_masks_is_a_table(evaluation, tmp_path):
    blocks, _ = show(tmp_path / "page", root=evaluation)
    assert list(blocks) == ["index"]
    assert blocks["index"]["notes"] == ["Give --reference, --predicted and --images to see the cases."]
    assert [label["name"] for label in blocks["index"]["labels"]] == ["organ", "lesion"]


def test_images_without_masks_are_refused(evaluation, masks, tmp_path):
    with pytest.raises(ConfigError, match="images without masks"):
        build(Sources(evaluation, images=masks / "imagesTr"), tmp_path / "page")


def test_an_image_of_another_grid_leaves_the_case_out_and_says_so(masks, evaluation, tmp_path):
    small = Volume(np.ones((1, 4, 4, 4), np.int16), Geometry.of_spacing((4, 4, 4), (1, 1, 1)))
    for name in IDS[:3]:
        write_volume(tmp_path / "images" / f"{name}.nii.gz", small)
    blocks, report = show(
        tmp_path / "page", root=evaluation, predicted=masks / "masks", images=tmp_path / "images"
    )
    assert report.exit_code == 3
    assert "not shown: GRID_MISMATCH" in blocks["index"]["cases"][0]["reasons"][-1]


def test_masks_of_two_grids_are_refused(masks):
    _, labels = make_case(0)
    moved = Labels(labels.array[:4], labels.geometry.crop((0, 0, 0), (4, 18, 10)))
    image = Volume(labels.array[None], labels.geometry)
    with pytest.raises(GeometryError):
        make_scene(moved, None, (image, []))


def test_a_case_without_an_image_of_its_id_is_shown_all_the_same(masks, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(masks / "imagesTr" / f"{IDS[0]}.nii.gz", images)
    blocks, _ = show(tmp_path, root=masks / "masks", images=images)
    assert "No image of this id" in blocks[f"case-{row_of(blocks, IDS[1])['block']}"]["note"]


def test_pseudonyms_find_their_scans(masks, tmp_path):
    key = tmp_path / "key"
    read_key(key)
    images = Images(masks / "imagesTr", None, key)
    plain = Images(masks / "imagesTr", None, tmp_path / "no key")
    assert IDS[0] in images and IDS[0] in plain
    name = pseudonymize([images._cases[IDS[0]]], key)[0].id
    assert name in images and name not in plain


@pytest.mark.parametrize(("lowest", "is_ct"), [(-1000, True), (-5, False), (-9000, False)])
def test_air_far_below_water_is_taken_for_ct(lowest, is_ct):
    image, _ = make_case(0)
    image.array[0, 0, 0, 0] = lowest
    assert is_like_ct(Volume(image.array.clip(lowest), image.geometry)) is is_ct


def test_only_the_worst_are_shown_and_the_page_knows_how_many_there_are(masks, tmp_path):
    blocks = read_page(build(Sources(masks / "masks"), tmp_path, max_cases=1))
    assert [case["id"] for case in blocks["index"]["cases"]] == [IDS[0]]
    assert blocks["index"]["cases"][0]["flags"] == ["empty"]
    assert blocks["index"]["total"] == 3
    assert "Only the worst 1 of 3 cases are in this page." in blocks["index"]["notes"]


def test_a_case_has_its_share_of_the_page():
    assert share_bytes(25, 50) == 492_000
    with pytest.raises(ConfigError, match="too few for 200 cases") as caught:
        share_bytes(2, 200)
    assert "--max-mb 5" in caught.value.hint


def test_words_of_many_structures_count_towards_the_size(evaluation, tmp_path):
    lines = (evaluation / "cases.csv").read_text().splitlines()
    more = [lines[1].replace(",1,organ", f",{n},structure number {n}") for n in range(3, 8000)]
    write_text(evaluation / "cases.csv", "\n".join([*lines, *more]))
    with pytest.raises(ConfigError) as caught:
        build(Sources(evaluation), tmp_path / "page", max_mb=1)
    assert caught.value.code == "REVIEW_BUDGET"


def test_the_page_keeps_within_its_size(masks, tmp_path):
    sources = Sources(masks / "masks", images=masks / "imagesTr")
    assert build(sources, tmp_path / "a.html", max_mb=0.48).stat().st_size < 480_000


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_there_must_be_something_to_show(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises((ConfigError, DataError)) as caught:
        build(Sources(tmp_path / name), tmp_path)
    assert caught.value.code == {"nothing": "INPUT_MISSING", "empty": "NO_CASES"}[name]


def test_an_evaluation_of_nothing_is_refused(tmp_path):
    write_text(tmp_path / "cases.csv", "id,label,name,state,dice\n")
    with pytest.raises(DataError):
        build(Sources(tmp_path), tmp_path)


def test_folders_of_masks_must_exist_and_their_ids_be_unique(evaluation, masks, tmp_path):
    with pytest.raises(ConfigError, match="no such folder of masks"):
        build(Sources(evaluation, predicted=tmp_path / "none"), tmp_path / "page")
    shutil.copytree(masks / "masks", tmp_path / "twice")
    _, labels = make_case(0)
    write_labels(tmp_path / "twice" / f"{IDS[0]}.nrrd", labels)
    with pytest.raises(DataError, match="two masks have the id"):
        build(Sources(tmp_path / "twice"), tmp_path / "page")


def test_maps_of_probabilities_are_no_masks(masks, tmp_path):
    shutil.copytree(masks / "masks", tmp_path / "OUT")
    shutil.copy(tmp_path / "OUT" / f"{IDS[0]}.nii.gz", tmp_path / "OUT" / f"{IDS[0]}_prob.nii.gz")
    blocks, _ = show(tmp_path, root=tmp_path / "OUT")
    assert len(blocks["index"]["cases"]) == 3


def test_a_niivue_page_holds_the_bundle_and_the_volumes(masks, tmp_path):
    page = build(Sources(masks / "masks", images=masks / "imagesTr"), tmp_path, niivue=[IDS[1]])
    text = page.with_name(f"review_{IDS[1]}.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
    assert [volume["kind"] for volume in data["volumes"]] == ["image", "predicted"]
    assert len(text) > 2_000_000


def test_a_niivue_page_of_an_unknown_case_is_refused(masks, tmp_path):
    with pytest.raises(ConfigError) as caught:
        build(Sources(masks / "masks"), tmp_path, niivue=["stranger"])
    assert caught.value.code == "CASE_UNKNOWN"


def test_the_vendored_bundle_is_the_released_one():
    from medseg.core.files import sha256_of_file
    from medseg.tracking import review

    vendor = Path(review.__file__).parent / "vendor"
    expected, name = (vendor / "SHA256SUMS").read_text().split()
    assert name == BUNDLE and sha256_of_file(vendor / name) == expected
    assert "Redistribution" in (vendor / "LICENSE.niivue").read_text()


def test_the_command_writes_the_page_into_the_run(masks, tmp_path):
    folder = tmp_path / "OUT"
    shutil.copytree(masks / "masks", folder)
    result = medseg("review", folder, "--json")
    assert result.exit_code == 0
    assert document(result)["page"] == "review.html"
    assert (folder / "review.html").stat().st_mode & 0o777 == 0o600


def test_the_command_opens_the_page_where_it_is_asked_to(masks, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    medseg("review", masks / "masks", "-o", tmp_path / "a.html", "--quiet")
    medseg("review", masks / "masks", "-o", tmp_path / "a.html", "--quiet", "--no-open")
    assert opened == []
    medseg("review", masks / "masks", "-o", tmp_path / "a.html", "--quiet", "--open")
    assert opened == [(tmp_path / "a.html").as_uri()]


def test_ignored_voxels_are_told_apart_and_nothing_is_predicted_there(copied, tmp_path):
    text = (copied / "config.yaml").read_text()
    assert "ignore_label: null" in text
    write_text(copied / "config.yaml", text.replace("ignore_label: null", "ignore_label: 9"))
    folder = RunFolder(copied)
    name = folder.load_splits().validation(1)[0]
    reference = read_labels(folder.case(name).reference)
    reference.array[reference.array == 2] = 9
    write_labels(folder.case(name).reference, reference)
    blocks, _ = show(tmp_path, root=copied)
    block = blocks[f"case-{row_of(blocks, name)['block']}"]
    found = unpack(block["predicted"], block["shape"])[reference.array == 9]
    assert set(unpack(block["reference"], block["shape"])[reference.array == 9]) == {OTHER}
    assert not found.any()


def test_channels_in_one_file_are_numbered_where_nobody_named_them(tmp_path):
    image, _ = make_case(0)
    both = Volume(np.concatenate([image.array, image.array]), image.geometry)
    write_volume(tmp_path / "a.nii.gz", both)
    _, channels = Images(tmp_path, None, tmp_path / "key").read("a")
    assert [channel.name for channel in channels] == ["channel 0", "channel 1"]


def test_images_that_cannot_be_listed_or_read_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        Images(tmp_path / "none", None, tmp_path / "key")
    image, _ = make_case(0)
    for name in ("a/one", "a/two", "b/one"):
        write_volume(tmp_path / f"{name}.nii.gz", image)
    images = Images(tmp_path, None, tmp_path / "key")
    assert images.read("b")[1][0].name == "image"
    with pytest.raises(DataError):
        images.read("a")
