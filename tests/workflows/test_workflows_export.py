"""export: a folder that gives the masks of `medseg infer` without medseg."""

import ast
import json
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medseg.core.geometry import Geometry
from medseg.core.settings import Builder
from medseg.core.volume import Volume, from_canonical, to_canonical
from medseg.data.plan import Normalization
from medseg.data.preprocess import preprocess_image
from medseg.data.resample import choose_orders, spline_matrix
from medseg.data.settings import Region
from medseg.inference.network import build_network
from medseg.inference.segment import Segmenter
from medseg.inference.settings import Infer
from medseg.inference.trained import TrainedModel
from medseg.io import write_volume
from medseg.postprocess import POSTPROCESS
from medseg.workflows.export import describe_pipeline
from medseg.workflows.runner import cleanup, main, resample, scans
from tests.builders import STORAGES, make_data, make_plan, make_rotation, restore
from tests.nnunet_folders import write_results
from tests.tiny import document, hashes, make_case, medseg

KINDS = {"onnx": ".onnx", "openvino": ".xml", "torchscript": ".pt"}
ALLOWED = {"numpy", "nibabel", "onnxruntime", "openvino", "torch"}
# Runs a script where these cannot be imported.
BLOCKER = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "monai", "medseg", "scipy", "cc3d", "SimpleITK"}:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An oblique scan of another spacing than the plan's, stored in another order, with an air rim."""
    image, _ = make_case(9)
    voxels = np.repeat(image.array, 2, axis=1)
    voxels[:, :3] = 0
    affine = np.eye(4)
    affine[:3, :3] = make_rotation((5, -8, 12)) * (0.8, 1.4, 3.1)
    array, geometry = restore(voxels, Geometry(voxels.shape[1:], affine), ((2, 0, 1), (True, False, True)))
    path = tmp_path_factory.mktemp("scans") / "oblique.nii.gz"
    write_volume(path, Volume(array, geometry))
    return path


@pytest.fixture(scope="module")
def exported(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "DIR"
    result = medseg("export", "-m", tiny_run, "--to", "onnx", "-o", out, "--json")
    assert result.exit_code == 0, result.stderr
    assert [case["status"] for case in document(result)["cases"]] == ["done"]
    return out


def agreement(mask: Path, other: Path) -> float:
    return float((nib.load(mask).get_fdata() == nib.load(other).get_fdata()).mean())


def test_the_runner_alone_gives_the_masks_of_infer(
    exported: Path, tiny_run: Path, scan: Path, tmp_path: Path
):
    code = [sys.executable, "-W", "error", "-c", BLOCKER, exported / "run.py"]
    done = subprocess.run(
        [*map(str, code), str(scan), "-o", str(tmp_path / "alone"), "--threads", "1"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = medseg("infer", scan, "-m", tiny_run, "-o", tmp_path / "ours", "--threads", "1")
    assert result.exit_code == 0, result.stderr
    alone, ours = tmp_path / "alone" / scan.name, tmp_path / "ours" / scan.name
    assert agreement(alone, ours) >= 0.9999 and nib.load(ours).get_fdata().any()
    a, b = nib.load(alone).header, nib.load(ours).header
    for name in (
        "dim",
        "pixdim",
        "datatype",
        "xyzt_units",
        "qform_code",
        "sform_code",
        "srow_x",
        "quatern_b",
    ):
        assert np.array_equal(a[name], b[name]), name
    assert not list(exported.rglob("*.pyc"))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "onnx"])
def test_other_kinds_give_them_too(kind, tiny_run: Path, scan: Path, exported: Path, tmp_path, monkeypatch):
    out = tmp_path / kind
    assert medseg("export", "-m", tiny_run, "--to", kind, "-o", out, "-q").exit_code == 0
    assert {path.suffix for path in out.glob("model_fold_*")} >= {KINDS[kind]}
    for folder in (out, exported):
        monkeypatch.setattr(sys, "argv", ["run.py", str(scan), "-o", str(tmp_path / "masks" / folder.name)])
        assert main.main(folder) == 0
    one, other = (tmp_path / "masks" / folder.name / scan.name for folder in (out, exported))
    assert agreement(one, other) >= 0.9999


def test_the_runner_imports_only_what_it_says(exported: Path):
    found = set()
    for path in [exported / "run.py", *(exported / "runner").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(str(node.module).partition(".")[0])
    assert found - set(sys.stdlib_module_names) == {*ALLOWED, "runner"}


def test_what_is_exported_already_is_left_alone(exported: Path, tiny_run: Path):
    before = hashes(exported)
    result = medseg("export", "-m", tiny_run, "--to", "onnx", "-o", exported, "--json")
    assert [case["status"] for case in document(result)["cases"]] == ["skipped"]
    assert hashes(exported) == before


def test_a_folder_with_another_export_is_refused(exported: Path, tiny_run: Path):
    result = medseg("export", "-m", tiny_run, "--to", "torchscript", "-o", exported)
    assert result.exit_code == 2 and "CONFIG_CHANGED" in result.stderr


def test_a_torn_export_is_written_again(exported: Path, tiny_run: Path, tmp_path: Path):
    for name in ("SHA256SUMS", "run.py"):
        content = (exported / name).read_bytes()
        (exported / name).unlink()
        assert medseg("export", "-m", tiny_run, "--to", "onnx", "-o", exported, "-q").exit_code == 0
        assert (exported / name).read_bytes() == content


def test_an_unknown_kind_is_refused(tiny_run: Path, tmp_path: Path):
    result = medseg("export", "-m", tiny_run, "--to", "onxx", "-o", tmp_path / "x")
    assert result.exit_code == 2 and "did you mean `onnx`?" in result.stderr


def make_model(dims: int, **changes) -> TrainedModel:
    """Return two random networks for two channels."""
    flat = {
        "dims": 2,
        "patch": (8, 8, 1),
        "strides": ((1, 1, 1), (2, 2, 1)),
        "kernels": ((3, 3, 1), (3, 3, 1)),
    }
    steps = (Normalization("ct", -3.0, 900.0, 250.0, 200.0), Normalization("zscore"))
    plan = make_plan(normalization=steps, mirror_axes=(0, 1), **(flat if dims == 2 else {}))
    data = make_data(2, labels={3: "organ", 300: "lesion"}, **changes)
    torch.manual_seed(dims)
    networks = [build_network(Builder(name="unet"), plan, 2, data.n_outputs).eval() for _ in range(2)]
    step = {"name": "remove_small_components", "options": {"min_volume_mm3": 10.0}}
    infer = Infer.model_validate({"mirror": True, "postprocess": [step]})
    return TrainedModel("made", data, plan, infer, tuple(networks), "", "")


REGIONS = (Region(name="all", covers=(3, 300), paints=3), Region(name="core", covers=(300,), paints=300))


@pytest.mark.parametrize(("dims", "changes"), [(3, {}), (2, {}), (3, {"regions": REGIONS})])
def test_channels_mirroring_folds_and_regions_are_those_of_the_segmenter(dims: int, changes: dict):
    model = make_model(dims, **changes)
    array = np.random.default_rng(0).integers(1, 900, (2, 6, 19, 7)).astype(np.int16)
    volume = Volume(array, Geometry.of_spacing(array.shape[1:], (0.9, 1.2, 3.5), (4, 5, 6)))
    labels, _ = Segmenter(model, model.infer).segment(*preprocess_image(volume, model.plan))
    networks = [
        torch.inference_mode()(lambda window, net=net: net(torch.from_numpy(window)).numpy())
        for net in model.networks
    ]
    pipeline = json.loads(json.dumps(describe_pipeline(model, ["a", "b"])))
    found = main.segment(array, volume.geometry.affine.copy(), pipeline, networks)
    assert (found == labels.array).mean() > 0.9999 and len(np.unique(found)) > 1
    assert found.dtype == (np.uint16 if found.max() > 255 else np.uint8)


def test_a_step_that_the_runner_lacks_is_named():
    model = make_model(3)
    object.__setattr__(model, "infer", Infer(postprocess=(Builder(name="smooth"),)))
    with pytest.raises(Exception, match="does not have the step `smooth`") as caught:
        describe_pipeline(model, [])
    assert caught.value.code == "EXPORT_UNSUPPORTED"


def test_a_model_that_refines_probabilities_is_refused():
    model = make_model(3)
    object.__setattr__(model, "infer", Infer(refine=(Builder(name="crf"),)))
    with pytest.raises(Exception, match="refines no probabilities") as caught:
        describe_pipeline(model, [])
    assert caught.value.code == "EXPORT_UNSUPPORTED"


# ---- parts of the runner ------------------------------------------------------------------------


@pytest.mark.parametrize(("order", "sizes"), list(product((0, 1, 3), [(5, 9), (40, 23), (1, 4), (64, 65)])))
def test_resampling_matrices_are_those_of_medseg(order: int, sizes: tuple[int, int]):
    assert np.abs(resample.spline_matrix(*sizes, order) - spline_matrix(*sizes, order)).max() < 1e-6


@pytest.mark.parametrize("spacing", [(1, 1, 3.5), (3.5, 1, 3.5), (1, 1, 1)])
def test_orders_are_those_of_medseg(spacing):
    rule = {"resampling": {"anisotropy": 3.0}}
    for target in ((1, 1, 1), (0.5, 2, 0.5)):
        found = resample.choose_orders(rule, spacing, target, 3)
        assert tuple(found) == choose_orders(spacing, target)


@pytest.mark.parametrize("storage", STORAGES)
def test_canonical_axes_are_those_of_medseg(storage):
    affine = np.eye(4)
    affine[:3, :3] = make_rotation((20, -30, 10)) * (0.7, 1.5, 3.0)
    array, geometry = restore(np.arange(24).reshape(1, 2, 3, 4), Geometry((2, 3, 4), affine), storage)
    way, (moved, grid) = scans.Canonical(geometry.affine), to_canonical(array, geometry)
    assert np.array_equal(way.enter(array), moved)
    assert tuple(scans.find_spacing(way.affine)) == grid.spacing_mm
    assert np.array_equal(way.leave(moved[0]), from_canonical(moved[0], geometry))


def test_voxels_of_nanometres_keep_three_digits():
    grid = Geometry.of_spacing((2, 2, 2), (4.5678e-4, 1.0, 2.0))
    assert tuple(scans.find_spacing(grid.affine)) == grid.spacing_mm


STEPS = [
    *({"name": "keep_largest", "options": {"connectivity": n}} for n in (6, 18, 26)),
    {"name": "keep_largest", "options": {"labels": [2]}},
    {"name": "remove_small_components", "options": {"min_volume_mm3": 3.0, "connectivity": 6}},
    {"name": "fill_holes", "options": {}},
    {"name": "fill_holes", "options": {"labels": [1], "max_volume_mm3": 1.0}},
    {"name": "keep_inside", "options": {"inside": [1]}},
    {"name": "keep_inside", "options": {"inside": [2], "distance_mm": 1.2, "labels": [1]}},
    *({"name": "keep_touching", "options": {"touching": [1], "connectivity": n}} for n in (6, 18, 26)),
    {
        "name": "keep_touching",
        "options": {"touching": [2], "distance_mm": 0.6, "labels": [1], "connectivity": 6},
    },
]


@pytest.mark.parametrize("step", STEPS, ids=str)
@pytest.mark.parametrize("shape", [(9, 7, 8), (12, 13, 1)])
def test_cleanup_is_that_of_medseg(step: dict, shape: tuple[int, int, int]):
    rng = np.random.default_rng(1)
    geometry = Geometry.of_spacing((shape[0] + 4, shape[1] + 2, shape[2]), (1.0, 0.5, 2.0))
    changed = 0
    for share in (0.3, 0.9):
        mask = np.zeros(geometry.shape, np.uint16)
        filled = rng.random(shape) < share
        mask[2:-2, 1:-1] = np.where(filled, 1 + (rng.random(shape) < 0.3), 0)
        if share > 0.5:
            mask[mask == 2] = 1
            mask[:5][mask[:5] == 1] = 2
        expected = POSTPROCESS[step["name"]](mask, geometry, **step["options"])
        changed += int((expected != mask).sum())
        assert np.array_equal(cleanup.clean(mask.copy(), [step], geometry.affine), expected)
    assert changed


def test_an_empty_mask_stays_empty():
    assert not cleanup.clean(np.zeros((2, 3, 4), np.uint16), STEPS, np.eye(4)).any()


# ---- scans that the runner reads and refuses ----------------------------------------------------


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None, **fields) -> str:
    image = nib.Nifti1Image(array, np.diag((1.0, 1.5, 3.0, 1.0)) if affine is None else affine)
    for name, value in fields.items():
        image.header[name] = value
    nib.save(image, path)
    return str(path)


def test_scaled_voxels_are_those_of_medseg(tmp_path: Path):
    from medseg.io import read_volume

    path = tmp_path / "a.nii.gz"
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = nib.Nifti1Image(array, np.eye(4))
    image.header.set_slope_inter(0.37, -11)
    nib.save(image, path)
    assert np.array_equal(scans.read_scan([str(path)])[0], read_volume(path).array)


def test_metres_become_millimetres_and_a_qform_will_do(tmp_path: Path):
    image = nib.Nifti1Image(np.ones((2, 3, 4, 1, 2), np.int16), None)
    image.header.set_qform(np.diag((0.001, 0.002, 0.003, 1)), 1)
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "a.nii")
    array, affine, _ = scans.read_scan([str(tmp_path / "a.nii")])
    assert array.shape == (2, 2, 3, 4) and np.allclose(np.diag(affine), (1, 2, 3, 1))


def test_a_2d_nifti_2_scan_gets_a_mask_of_its_kind(tmp_path: Path):
    image = nib.Nifti2Image(np.ones((3, 4), np.int16), np.eye(4))
    nib.save(image, tmp_path / "a.nii.gz")
    array, _, header = scans.read_scan([str(tmp_path / "a.nii.gz")])
    scans.write_mask(tmp_path / "m.nii.gz", np.ones(array.shape[1:], np.uint8), header)
    assert isinstance(nib.load(tmp_path / "m.nii.gz"), nib.Nifti2Image)


def run_on(folder: Path, monkeypatch, *sources: str, out: Path) -> int:
    monkeypatch.setattr(sys, "argv", ["run.py", *sources, "-o", str(out)])
    return main.main(folder)


def test_bad_scans_are_refused_and_the_others_go_on(
    exported: Path, scan: Path, tmp_path, monkeypatch, capsys
):
    ones = np.ones((4, 5, 6), np.float32)
    nan = save(tmp_path / "nan.nii.gz", ones * np.nan)
    nowhere = nib.Nifti1Image(ones, None)
    nib.save(nowhere, tmp_path / "nowhere.nii.gz")
    two = f"{save(tmp_path / 'two_0000.nii.gz', ones)},{save(tmp_path / 'two_0001.nii.gz', ones)}"
    apart = f"{save(tmp_path / 'apart_0000.nii.gz', ones)},{save(tmp_path / 'b.nii.gz', ones[:3])}"
    (tmp_path / "text.nii.gz").write_text("no image")
    bad = [nan, str(tmp_path / "nowhere.nii.gz"), two, apart, str(tmp_path / "text.nii.gz")]
    assert run_on(exported, monkeypatch, *bad, str(scan), out=tmp_path / "out") == 3
    told = capsys.readouterr()
    for words in ("nan: some", "nowhere: the header", "two: 2 channels", "apart: the channels lie", "text: "):
        assert words in told.err
    assert told.out == "oblique: done\n" and [p.name for p in (tmp_path / "out").iterdir()] == [scan.name]


def test_two_scans_of_one_id_are_refused_before_the_first(exported: Path, tmp_path, monkeypatch, capsys):
    same = [str(tmp_path / name) for name in ("a/scan_0000.nii.gz", "b/scan.nii")]
    with pytest.raises(SystemExit) as ended:
        run_on(exported, monkeypatch, *same, out=tmp_path / "out")
    assert ended.value.code == 2 and "called scan:" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_models_of_other_software_are_refused_with_the_reason(tmp_path: Path):
    bundle = tmp_path / "bundle"
    (bundle / "configs").mkdir(parents=True)
    (bundle / "configs/metadata.json").write_text("{}")
    for path, word in ((write_results(tmp_path), "nnU-Net's"), (bundle, "a MONAI bundle")):
        result = medseg("export", "-m", path, "--to", "onnx", "-o", tmp_path / "out")
        assert result.exit_code == 2 and "EXPORT_UNSUPPORTED" in result.stderr and word in result.stderr


def test_a_damaged_folder_is_refused(exported: Path, scan: Path, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    (folder / "pipeline.json").write_text("{}")
    with pytest.raises(scans.RefusedError, match="json does not match"):
        run_on(folder, monkeypatch, str(scan), out=tmp_path / "out")
