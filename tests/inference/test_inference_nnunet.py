"""nnU-Net's results folders as trained models, without nnU-Net."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from medseg.core.errors import CheckpointError
from medseg.core.geometry import Geometry
from medseg.core.volume import Volume
from medseg.inference.backends.choose import choose_backend
from medseg.inference.model import load_model
from medseg.inference.modes import apply_mode
from medseg.inference.nnunet.blending import FLOOR, blend_weights
from medseg.inference.segment import Segmenter
from medseg.inference.trained import TrainedModel
from medseg.io import read_labels, write_volume
from medseg.workflows.infer import infer
from medseg.workflows.progress import Progress
from medseg.workflows.report import Report
from tests.nnunet_folders import (
    FEATURES,
    make_configuration,
    make_dataset,
    make_plans,
    run_network,
    write_results,
)

CPU = torch.device("cpu")
RESIDUAL = "ResidualEncoderUNet"
REGIONS = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}


def refuse(path: Path, **options: Any) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        load_model(path, CPU, **options)
    return caught.value


def refuse_configuration(root: Path, **changes: Any) -> CheckpointError:
    plans = make_plans({"3d_fullres": make_configuration()})
    folder = write_results(root, plans=plans)
    plans["configurations"]["3d_fullres"] |= changes
    (folder / "plans.json").write_text(json.dumps(plans))
    return refuse(folder)


def refuse_argument(root: Path, **changes: Any) -> CheckpointError:
    architecture = make_configuration()["architecture"]
    architecture["arch_kwargs"] |= changes
    return refuse_configuration(root, architecture=architecture)


def make_scan(shape: tuple[int, int, int] = (10, 9, 5), seed: int = 0) -> Volume:
    image = np.random.default_rng(seed).integers(1, 100, (1, *shape)).astype(np.float32)
    return Volume(image, Geometry.of_spacing(shape, (1.5, 1.5, 3.0)))


def segment(model: TrainedModel, scan: Volume) -> np.ndarray[Any, Any]:
    mask = Segmenter(model, model.infer).segment(*model.preprocess(scan))[0].array
    assert len(np.unique(mask)) > 1, "a mask of one value tells nothing"
    return mask


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("network", ["PlainConvUNet", RESIDUAL])
def test_our_network_gives_the_logits_of_nnunets_on_its_weights(tmp_path: Path, dims: int, network: str):
    configuration = make_configuration(dims, network)
    name = "2d" if dims == 2 else "3d_fullres"
    folder = write_results(tmp_path, name, plans=make_plans({name: configuration}))
    model = load_model(folder, CPU)
    weights = torch.load(folder / "fold_0/checkpoint_final.pth", weights_only=False)["network_weights"]
    image = torch.randn(2, 1, *[4, 8, 8][-dims:])
    with torch.inference_mode():
        ours, theirs = model.networks[0](image), run_network(configuration, weights, image)
    assert theirs.std() > 0.1 and float((ours - theirs).abs().max()) < 1e-4


def test_plan_labels_and_settings_are_nnunets(tmp_path: Path):
    model = load_model(write_results(tmp_path, mirror_axes=(0, 2)), CPU)
    assert (model.name, model.plan.patch, model.plan.mirror_axes) == ("Dataset001_Tiny", (4, 8, 8), (0, 2))
    assert model.data.labels == {1: "liver", 2: "spleen"} and list(model.data.channels) == ["MR"]
    assert model.infer.mirror and model.infer.overlap == 0.5 and not model.networks[0].training


def test_a_mask_lies_on_the_scans_grid(tmp_path: Path):
    model, scan = load_model(write_results(tmp_path), CPU), make_scan()
    mask = segment(model, scan)
    assert mask.shape == scan.geometry.shape and set(np.unique(mask)) <= {0, 1, 2}


def test_axes_that_the_plans_permute_come_back(tmp_path: Path):
    configuration = make_configuration(spacing=[1.5, 3.0, 1.5], patch_size=[8, 4, 8])
    plans = make_plans({"3d_fullres": configuration}, transpose_forward=[1, 0, 2])
    model, scan = load_model(write_results(tmp_path, plans=plans), CPU), make_scan((8, 8, 4))
    array, _ = model.preprocess(scan)
    assert array.shape == (1, 8, 4, 8)
    logits = model.networks[0](torch.from_numpy(array)[None])[0].argmax(0)  # one window: no blending
    assert np.array_equal(segment(model, scan), logits.numpy().transpose(2, 0, 1))


def test_a_2d_model_sees_the_slices_of_the_last_stored_axis(tmp_path: Path):
    plans = make_plans({"2d": make_configuration(2)})
    model, scan = load_model(write_results(tmp_path, "2d", plans=plans), CPU), make_scan((8, 8, 3))
    array, placement = model.preprocess(scan)
    assert array.shape == (1, 8, 8, 3) and np.array_equal(
        placement.to_stored(array[0]).T, array[0].transpose(2, 0, 1)
    )
    slices = torch.from_numpy(array[0]).permute(2, 0, 1)[:, None]
    with torch.inference_mode():
        found = model.networks[0](slices).argmax(1)
    assert np.array_equal(segment(model, scan), found.numpy().transpose(2, 1, 0))


def test_folds_are_averaged_and_may_be_chosen(tmp_path: Path):
    folder = write_results(tmp_path, folds=(0, 1, "all"))
    assert len(load_model(folder, CPU).networks) == 2
    one = load_model(folder / "fold_1", CPU).networks[0].state_dict()
    (network,) = load_model(folder, CPU, folds=[1]).networks
    assert all(torch.equal(one[name], value) for name, value in network.state_dict().items())
    error = refuse(folder, folds=[3])
    assert error.code == "UNKNOWN_FOLD" and "fold_0, fold_1, fold_all" in error.hint


def test_without_numbered_folds_the_one_of_all_cases_is_used(tmp_path: Path):
    assert len(load_model(write_results(tmp_path, folds=("all",)), CPU).networks) == 1


def test_a_data_sets_folder_names_its_only_configuration(tmp_path: Path):
    folder = write_results(tmp_path)
    assert load_model(folder.parent, CPU).sha256 == load_model(folder, CPU).sha256
    write_results(tmp_path, "2d", plans=make_plans({"2d": make_configuration(2)}))
    error = refuse(folder.parent)
    assert error.code == "MODEL_AMBIGUOUS" and "nnUNetTrainer__nnUNetPlans__2d" in error.hint


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path):
    folder = write_results(tmp_path)
    (folder / "fold_0/checkpoint_final.pth").unlink()
    assert refuse(folder).code == "MODEL_MISSING"


def test_regions_are_painted_in_the_order_of_the_data_set(tmp_path: Path):
    dataset = make_dataset(labels=REGIONS, regions_class_order=[1, 2])
    model = load_model(write_results(tmp_path, dataset=dataset, n_outputs=2), CPU)
    assert [(region.name, region.covers, region.paints) for region in model.data.regions] == [
        ("whole", (1, 2), 1),
        ("core", (2,), 2),
    ]
    assert model.data.labels == {1: "label 1", 2: "core"} and model.data.ignore_label == 3
    scan = make_scan((8, 8, 4))
    whole, core = model.networks[0](torch.from_numpy(model.preprocess(scan)[0])[None])[0] > 0
    expected = torch.where(core, 2, whole.int()).numpy().transpose(2, 1, 0)
    assert np.array_equal(segment(model, scan), expected)


@pytest.mark.parametrize(
    ("dataset", "code"),
    [
        ({"labels": REGIONS}, "MODEL_DAMAGED"),
        ({"labels": {"background": 0, "liver": 2}}, "MODEL_UNSUPPORTED"),
        ({"labels": REGIONS, "regions_class_order": [2, 2]}, "MODEL_UNSUPPORTED"),
        ({"labels": {"background": 0, "liver": "x"}}, "MODEL_DAMAGED"),
        ({"channel_names": {"0": "MR", "1": "CT"}}, "MODEL_DAMAGED"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(tmp_path: Path, dataset: dict[str, Any], code: str):
    assert refuse(write_results(tmp_path, dataset=make_dataset(**dataset))).code == code


def test_channels_of_one_name_are_told_apart(tmp_path: Path):
    configuration = make_configuration(
        normalization_schemes=["CTNormalization", "NoNormalization"], use_mask_for_norm=[False, False]
    )
    dataset = make_dataset(channel_names={"1": "CT", "0": "CT"})
    folder = write_results(
        tmp_path, plans=make_plans({"3d_fullres": configuration}), dataset=dataset, n_inputs=2
    )
    channels = load_model(folder, CPU).data.channels
    assert [(name, channel.normalize) for name, channel in channels.items()] == [
        ("CT_0", "ct"),
        ("CT_1", "none"),
    ]
    assert channels["CT_1"].pattern == "*_0001.*"


def write_cascade(root: Path, **content: Any) -> Path:
    plans = make_plans(
        {
            "3d_fullres": make_configuration(),
            "3d_lowres": make_configuration(spacing=[3.0, 3.0, 3.0], patch_size=[4, 4, 4]),
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        }
    )
    write_results(root, "3d_lowres", plans=plans, **content)
    return write_results(root, "3d_cascade_fullres", plans=plans, n_inputs=3, **content)


def test_the_first_stage_of_a_cascade_runs_in_the_mode_too(tmp_path: Path):
    folder = write_cascade(tmp_path, folds=(0, 1), mirror_axes=(0, 1, 2))
    model, _ = apply_mode(load_model(folder, CPU), "fast")
    assert model.previous is not None and model.previous is model.prepare.previous
    assert (len(model.previous.networks), model.previous.infer.mirror) == (1, False)
    assert model.previous.infer.overlap == 0.25


def test_the_first_stage_of_a_cascade_has_the_folds_that_were_chosen(tmp_path: Path):
    folder = write_cascade(tmp_path, folds=(0, 1))
    for model in (load_model(folder, CPU, folds=[1]), load_model(folder / "fold_1", CPU)):
        first = model.previous
        assert first is not None and len(first.networks) == 1
        lowres = folder.with_name("nnUNetTrainer__nnUNetPlans__3d_lowres")
        assert first.sha256 == load_model(lowres, CPU, folds=[1]).sha256


def test_the_first_stage_of_a_cascade_runs_on_the_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(
        "medseg.inference.segment.choose_backend",
        lambda name, *rest, **more: asked.append(name) or choose_backend("torch", *rest, **more),
    )
    model = load_model(write_cascade(tmp_path), CPU)
    Segmenter(model, model.infer, backend="openvino").model.preprocess(make_scan((8, 8, 4)))
    assert asked == ["openvino", "openvino"]


def test_a_cascade_takes_the_mask_of_its_first_stage(tmp_path: Path):
    folder = write_cascade(tmp_path)
    model, scan = load_model(folder, CPU), make_scan((8, 8, 4))
    assert model.previous is not None and model.n_inputs == 3
    array, _ = model.preprocess(scan)
    before = segment(model.previous, scan).T
    assert array.shape == (3, 4, 8, 8)
    assert np.array_equal(array[1:], np.stack([before == 1, before == 2]).astype(np.float32))
    assert segment(model, scan).shape == scan.geometry.shape


def test_a_cascade_without_its_first_stage_is_refused(tmp_path: Path):
    configuration = make_configuration(previous_stage="3d_lowres")
    error = refuse(write_results(tmp_path, plans=make_plans({"3d_fullres": configuration})))
    assert error.code == "MODEL_MISSING" and "3d_lowres" in error.message


def test_the_plans_of_the_first_versions_are_read(tmp_path: Path):
    old = make_configuration()
    options = old.pop("architecture")["arch_kwargs"]
    weights = write_results(tmp_path / "new")
    old |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 2,
        "unet_max_num_features": 4,
        "n_conv_per_stage_encoder": options["n_conv_per_stage"],
        "n_conv_per_stage_decoder": options["n_conv_per_stage_decoder"],
        "pool_op_kernel_sizes": options["strides"],
        "conv_kernel_sizes": options["kernel_sizes"],
    }
    new = make_configuration()
    new["architecture"]["arch_kwargs"]["features_per_stage"] = [2, 4, 4]
    folder = write_results(tmp_path, plans=make_plans({"3d_fullres": new}))
    expected = load_model(folder, CPU).networks[0].state_dict()
    (folder / "plans.json").write_text(json.dumps(make_plans({"3d_fullres": old})))
    found = load_model(folder, CPU).networks[0].state_dict()
    assert all(torch.equal(expected[name], value) for name, value in found.items())
    del old["UNet_base_num_features"]
    (folder / "plans.json").write_text(json.dumps(make_plans({"3d_fullres": old})))
    assert refuse(folder).code == "MODEL_DAMAGED" and weights.is_dir()


def test_the_plans_of_version_2_4_are_read_and_one_number_stands_for_all_levels(tmp_path: Path):
    middle = make_configuration()
    options = middle["architecture"]["arch_kwargs"] | {"n_conv_per_stage": 2, "n_conv_per_stage_decoder": 1}
    middle["architecture"]["arch_kwargs"] = options | {
        "n_conv_per_stage": [2, 2, 2],
        "n_conv_per_stage_decoder": [1, 1],
    }
    folder = write_results(tmp_path, plans=make_plans({"3d_fullres": middle}))
    entry = middle.pop("architecture")
    middle |= {"network_arch_class_name": entry["network_class_name"], "network_arch_init_kwargs": options}
    (folder / "plans.json").write_text(json.dumps(make_plans({"3d_fullres": middle})))
    assert load_model(folder, CPU).plan.features == tuple(FEATURES)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"preprocessor_name": "ResEncPreprocessor"}, "ResEncPreprocessor"),
        ({"normalization_schemes": ["Own"]}, "Own"),
        ({"resampling_fn_data": "resample_torch_fornnunet"}, "resample_torch_fornnunet"),
        ({"architecture": {"network_class_name": "a.b.PrimusM", "arch_kwargs": {}}}, "PrimusM"),
    ],
)
def test_what_is_not_known_is_named(tmp_path: Path, changes: dict[str, Any], word: str):
    error = refuse_configuration(tmp_path, **changes)
    assert error.code == "MODEL_UNSUPPORTED" and word in error.message


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"norm_op": "torch.nn.BatchNorm3d"}, "BatchNorm3d"),
        ({"nonlin": "torch.nn.ReLU"}, "ReLU"),
        ({"norm_op_kwargs": {"eps": 1e-3}}, "norm_op_kwargs"),
        ({"nonlin_first": True}, "nonlin_first"),
        ({"kernel_sizes": [[2, 2, 2]] * 3}, "odd"),
        ({"features_per_stage": [2, 3, 5]}, "nnUNetTrainer"),
    ],
)
def test_a_network_of_another_kind_is_refused(tmp_path: Path, changes: dict[str, Any], word: str):
    error = refuse_argument(tmp_path, **changes)
    assert error.code == "MODEL_UNSUPPORTED" and word in error.message


@pytest.mark.parametrize(
    "changes", [{"strides": [[1, 1, 1]]}, {"n_stages": "many"}, {"n_conv_per_stage": [0, 1, 1]}]
)
def test_an_architecture_that_contradicts_itself_is_damaged(tmp_path: Path, changes: dict[str, Any]):
    assert refuse_argument(tmp_path, **changes).code == "MODEL_DAMAGED"


@pytest.mark.parametrize("changes", [{"image_reader_writer": "Own"}, {"label_manager": "Own"}])
def test_a_reader_or_label_manager_of_ones_own_is_refused(tmp_path: Path, changes: dict[str, Any]):
    plans = make_plans({"3d_fullres": make_configuration()}, **changes)
    assert refuse(write_results(tmp_path, plans=plans)).code == "MODEL_UNSUPPORTED"


@pytest.mark.parametrize(
    "changes",
    [
        {"use_mask_for_norm": [False, False]},
        {"normalization_schemes": ["CTNormalization"], "spacing": "x"},
        {"inherits_from": "3d_fullres"},
    ],
)
def test_damaged_plans_are_refused(tmp_path: Path, changes: dict[str, Any]):
    assert refuse_configuration(tmp_path, **changes).code == "MODEL_DAMAGED"


def test_ct_without_the_training_sets_intensities_is_damaged(tmp_path: Path):
    configuration = make_configuration(normalization_schemes=["CTNormalization"])
    plans = make_plans({"3d_fullres": configuration}, foreground_intensity_properties_per_channel={})
    assert refuse(write_results(tmp_path, plans=plans)).code == "MODEL_DAMAGED"


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_file_that_is_no_json_object_is_damaged(tmp_path: Path, text: str):
    folder = write_results(tmp_path)
    (folder / "dataset.json").write_text(text)
    assert refuse(folder).code == "MODEL_DAMAGED"


@pytest.mark.parametrize(
    "content",
    [
        {"network_weights": {"a": 1}},
        {"init_args": {}},
        {"inference_allowed_mirroring_axes": (7,)},
    ],
)
def test_a_checkpoint_that_lacks_something_is_damaged(tmp_path: Path, content: dict[str, Any]):
    assert refuse(write_results(tmp_path, **content)).code == "MODEL_DAMAGED"


def test_copies_of_a_weight_that_differ_are_refused(tmp_path: Path):
    folder = write_results(tmp_path)
    path = folder / "fold_0/checkpoint_final.pth"
    tree = torch.load(path, weights_only=False)
    name = "encoder.stages.0.0.convs.0.all_modules.0.weight"
    tree["network_weights"][name] = tree["network_weights"][name] + 1
    torch.save(tree, path)
    error = refuse(folder)
    assert error.code == "MODEL_UNSUPPORTED" and name in error.message


def test_windows_weigh_most_at_half_their_edge_and_nowhere_nothing():
    weights = blend_weights((8, 5, 1))
    assert weights.shape == (8, 5, 1) and float(weights[4, 2, 0]) == 1
    assert np.isclose(float(weights[5, 2, 0]), np.exp(-0.5))  # one voxel is one sigma of 8 / 8
    assert float(blend_weights((64, 64, 64)).min()) == pytest.approx(FLOOR)


def test_windows_blend_with_nnunets_weights(tmp_path: Path):
    model, scan = load_model(write_results(tmp_path), CPU), make_scan((8, 8, 6))
    array, _ = model.preprocess(scan)  # (1, 6, 8, 8): two windows along the first axis
    weight = blend_weights((4, 8, 8))
    image = torch.from_numpy(array)
    total = torch.zeros(3, 6, 8, 8)
    share = torch.zeros(6, 8, 8)
    with torch.inference_mode():
        for start in (0, 2):
            window = slice(start, start + 4)
            total[:, window] += model.networks[0](image[None, :, window])[0] * weight
            share[window] += weight
    expected = (total / share).argmax(0).numpy().T
    assert np.array_equal(segment(model, scan), expected)


def test_mirrored_views_are_averaged_along_the_axes_of_the_checkpoint(tmp_path: Path):
    model, scan = load_model(write_results(tmp_path, mirror_axes=(1,)), CPU), make_scan((8, 8, 4))
    image = torch.from_numpy(model.preprocess(scan)[0])[None]
    with torch.inference_mode():
        logits = model.networks[0](image) + model.networks[0](image.flip(3)).flip(3)
    assert np.array_equal(segment(model, scan), logits[0].argmax(0).numpy().T)
    assert functional.softmax(logits, 1).isfinite().all()


def test_infer_writes_masks_of_channel_files(tmp_path: Path):
    folder, images = write_results(tmp_path / "model"), tmp_path / "images"
    write_volume(images / "case_7_0000.nii.gz", make_scan())
    model = infer(
        [images],
        folder,
        tmp_path / "out",
        progress=Progress(),
        report=Report("infer"),
        key_file=tmp_path / "key",
        device="cpu",
        threads=1,
    )
    mask = read_labels(tmp_path / "out/case_7.nii.gz")
    assert np.array_equal(mask.array, segment(model, make_scan()))
