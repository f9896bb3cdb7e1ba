"""A model as a folder: whole or refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg.core.errors import CheckpointError, ConfigError, MedsegError, ResourceError
from medseg.core.files import sha256_of_file
from medseg.data import preprocess
from medseg.inference.model import find_model, load_model, save_model
from medseg.inference.network import build_network, choose_device, make_grid, small_window
from medseg.inference.segment import Segmenter
from tests.builders import make_plan
from tests.tiny import make_case

CPU = torch.device("cpu")
WEIGHTS = "weights_fold_0.safetensors"
FILES = ["model.json", "plan.json", "config.yaml", "MODEL_CARD.md", "SHA256SUMS", WEIGHTS]


@pytest.fixture
def folder(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run / "model", tmp_path / "model"))


def refuse(folder: Path, **options) -> MedsegError:
    with pytest.raises(CheckpointError) as caught:
        load_model(folder, CPU, **options)
    return caught.value


def sum_again(folder: Path) -> None:
    files = sorted(path for path in folder.iterdir() if path.name != "SHA256SUMS")
    (folder / "SHA256SUMS").write_text("".join(f"{sha256_of_file(p)}  {p.name}\n" for p in files))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    sum_again(path.parent)


def test_the_weights_come_back_as_they_were_averaged(tiny_run: Path):
    model = load_model(tiny_run, CPU)
    averaged = torch.load(tiny_run / "fold_0/checkpoint.pt", weights_only=True)["average"]
    loaded = model.networks[0].state_dict()
    assert loaded.keys() == averaged.keys() and all(torch.equal(loaded[k], averaged[k]) for k in loaded)
    assert not model.networks[0].training


def test_plan_labels_and_settings_come_back(tiny_run: Path):
    model = load_model(tiny_run, CPU)
    assert (model.name, model.data.n_outputs, model.plan.patch) == ("phantom_ct", 3, (16, 16, 8))
    assert model.data.labels == {1: "organ", 2: "lesion"} and list(model.data.channels) == ["ct"]


def test_a_run_and_its_model_folder_are_one_model(tiny_run: Path):
    assert find_model(tiny_run) == find_model(tiny_run / "model")
    assert load_model(tiny_run, CPU).sha256 == load_model(tiny_run / "model", CPU).sha256


def test_a_copy_is_the_same_model_and_other_weights_are_not(tiny_run: Path, folder: Path):
    assert load_model(folder, CPU).sha256 == load_model(tiny_run, CPU).sha256
    weights = folder / "weights_fold_0.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    sum_again(folder)
    assert load_model(folder, CPU).sha256 != load_model(tiny_run, CPU).sha256


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("position", [0.0, 0.5, 0.999])
def test_one_flipped_byte_in_any_file_is_refused(folder: Path, name: str, position: float):
    content = bytearray((folder / name).read_bytes())
    content[int(position * len(content))] ^= 0x80
    (folder / name).write_bytes(content)
    assert refuse(folder).code == "MODEL_DAMAGED"


@pytest.mark.parametrize("name", [name for name in FILES if name != "model.json"])
def test_a_missing_file_is_refused(folder: Path, name: str):
    (folder / name).unlink()
    error = refuse(folder)
    assert error.code == "MODEL_DAMAGED" and name in error.message


def test_a_folder_without_model_json_is_no_model(folder: Path):
    (folder / "model.json").unlink()
    assert refuse(folder).code == "MODEL_MISSING"


def test_an_empty_list_of_checksums_is_refused(folder: Path):
    (folder / "SHA256SUMS").write_text("")
    assert refuse(folder).code == "MODEL_DAMAGED"


def test_weights_that_are_not_listed_are_refused(folder: Path):
    shutil.copy(folder / "weights_fold_0.safetensors", folder / "weights_fold_1.safetensors")
    assert "weights_fold_1" in refuse(folder).message


def test_another_preprocessing_is_refused(tiny_run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preprocess, "VERSION", preprocess.VERSION + 1)
    assert refuse(tiny_run).code == "PREPROCESSING_CHANGED"


def test_a_changed_preprocessing_hash_is_refused(folder: Path):
    edit(folder / "model.json", preprocessing="0" * 64)
    assert refuse(folder).code == "PREPROCESSING_CHANGED"


def test_another_schema_is_refused(folder: Path):
    edit(folder / "model.json", schema=99)
    error = refuse(folder)
    assert error.code == "MODEL_SCHEMA" and "99" in error.message


def test_weights_of_another_network_are_refused(folder: Path):
    edit(folder / "model.json", model={"name": "strided_unet", "options": {"features": [4, 8, 16]}})
    assert refuse(folder).code == "MODEL_DAMAGED"


def test_a_fold_that_was_not_trained_is_refused(folder: Path):
    error = refuse(folder, folds=[0, 3])
    assert error.code == "UNKNOWN_FOLD" and "3" in error.message and error.hint.endswith(": 0")


def test_a_folder_without_weights_is_damaged(folder: Path):
    (folder / WEIGHTS).unlink()
    sums = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
    (folder / "SHA256SUMS").write_text("".join(line for line in sums if WEIGHTS not in line))
    assert refuse(folder).code == "MODEL_DAMAGED"


def test_several_folds_make_an_ensemble(folder: Path, tiny_run: Path):
    text = {"config.yaml": "", "MODEL_CARD.md": ""}
    model, tree = load_model(tiny_run, CPU), json.loads((folder / "model.json").read_text())
    description = {name: tree[name] for name in ("name", "data", "model", "infer")}
    save_model(folder, description, model.plan, {3: (folder / WEIGHTS).read_bytes()}, text)
    assert len(load_model(folder, CPU).networks) == 2
    assert len(load_model(folder, CPU, folds=[3]).networks) == 1
    assert (folder / "SHA256SUMS").read_text().count("weights_fold") == 2


def test_a_folder_torn_while_it_was_written_is_refused(
    folder: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
):
    model, tree = load_model(tiny_run, CPU), json.loads((folder / "model.json").read_text())

    class KilledError(Exception):
        pass

    def die(path: Path, content: bytes) -> None:
        raise KilledError

    monkeypatch.setattr("medseg.inference.model.write_bytes", die)
    with pytest.raises(KilledError):
        save_model(folder, tree, model.plan, {0: b"new"}, {})
    assert refuse(folder).code == "MODEL_DAMAGED"


def test_the_segmenter_gives_stored_values_on_the_scans_grid(tiny_run: Path):
    model = load_model(tiny_run, CPU)
    scan, _ = make_case(9)
    segmenter = Segmenter(model, model.infer)
    image, placement = preprocess.preprocess_image(scan, model.plan)
    labels, probabilities = segmenter.segment(image, placement, with_probabilities=True)
    assert labels.geometry is scan.geometry and set(np.unique(labels.array)) <= {0, 1, 2}
    assert probabilities is not None and probabilities.shape == (3, *scan.geometry.shape)
    again, nothing = segmenter.segment(image, placement)
    assert nothing is None and np.array_equal(again.array, labels.array)


def test_labels_that_are_not_counted_from_one_keep_their_values(folder: Path):
    tree = json.loads((folder / "model.json").read_text())
    data = tree["data"] | {"labels": {"205": "organ", "420": "lesion"}}
    from medseg.data.plan import Plan
    from medseg.data.preprocess import preprocessing_key

    plan = Plan.from_json(json.loads((folder / "plan.json").read_text()))
    edit(folder / "model.json", data=data, preprocessing=preprocessing_key(plan, [0, 205, 420]))
    model = load_model(folder, CPU)
    image, placement = preprocess.preprocess_image(make_case(9)[0], model.plan)
    labels, _ = Segmenter(model, model.infer).segment(image, placement)
    assert set(np.unique(labels.array)) <= {0, 205, 420} and labels.array.max() >= 205


def test_post_processing_steps_are_applied(tiny_run: Path):
    model = load_model(tiny_run, CPU)
    image, placement = preprocess.preprocess_image(make_case(9)[0], model.plan)
    plain, _ = Segmenter(model, model.infer).segment(image, placement)
    step = {"name": "remove_small_components", "options": {"min_volume_mm3": 1e9}}
    settings = type(model.infer).model_validate({"postprocess": [step]})
    emptied, _ = Segmenter(model, settings).segment(image, placement)
    assert plain.array.any() and not emptied.array.any()


def test_a_2d_grid_has_no_flat_axis():
    plan = make_plan(dims=2, patch=(8, 8, 1), strides=((1, 1, 1), (2, 2, 1)), kernels=((3, 3, 1), (3, 3, 1)))
    grid = make_grid(plan)
    assert (grid.patch, grid.strides, grid.kernels) == ((8, 8), ((1, 1), (2, 2)), ((3, 3), (3, 3)))


def test_an_unknown_network_is_refused(tiny_run: Path):
    model = load_model(tiny_run, CPU)
    from medseg.core.settings import Builder

    with pytest.raises(ConfigError, match="no model is called"):
        build_network(Builder(name="unett"), model.plan, 1, 3)


def test_cuda_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert choose_device("auto").type == choose_device("cpu").type == "cpu"
    with pytest.raises(ResourceError) as caught:
        choose_device("cuda")
    assert caught.value.code == "NO_CUDA" and caught.value.exit_code == 4


def test_auto_takes_a_gpu_that_is_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert choose_device("auto").type == "cuda"


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"name": "os:getcwd", "options": {}}},
        {"infer": {"overlap": 0.5, "mirror": False, "postprocess": [{"name": "os:getcwd", "options": {}}]}},
        {"infer": {"overlap": 0.5, "mirror": False, "refine": [{"name": "os:getcwd", "options": {}}]}},
    ],
)
def test_a_model_that_names_foreign_code_is_refused_before_it_is_imported(folder: Path, change: dict):
    edit(folder / "model.json", **change)
    assert refuse(folder).code == "MODEL_RUNS_CODE"


def test_a_small_window_keeps_two_voxels_at_the_coarsest_level_and_is_no_larger_than_the_patch():
    levels = ((1, 1, 1), (2, 2, 1), (2, 2, 2))
    assert small_window(make_plan(patch=(40, 56, 20), strides=levels)) == (8, 8, 4)
    assert small_window(make_plan(patch=(40, 4, 3), strides=levels)) == (8, 4, 3)


def test_where_the_strides_are_not_known_the_small_window_is_a_whole_one():
    assert small_window(make_plan(patch=(40, 56, 20), strides=((1, 1, 1),))) == (40, 56, 20)
