"""MONAI bundles: known networks and transforms run, everything else is refused by name."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet

from medseg.core.errors import CheckpointError
from medseg.core.geometry import Geometry
from medseg.core.volume import Labels, Volume
from medseg.inference.model import load_model
from medseg.inference.segment import Segmenter

CPU = torch.device("cpu")
UNET = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [2, 4],
    "strides": [2],
    "norm": "batch",
}
STEPS = [
    {"_target_": "LoadImaged", "keys": "@key", "reader": "$monai.data.ITKReader"},
    {"_target_": "Orientationd", "keys": "@key", "axcodes": "RAS"},
    {"_target_": "monai.transforms.Spacingd", "keys": "@key", "pixdim": "@pixdim", "mode": ["bilinear"]},
    {
        "_target_": "ScaleIntensityRanged",
        "keys": "image",
        "a_min": 0,
        "a_max": 100,
        "b_min": 0.0,
        "b_max": 1.0,
        "clip": True,
    },
]


def write_bundle(
    root: Path, *, steps: Any = None, weights: Any = None, about: Any = None, **config: Any
) -> Path:
    tree = {
        "imports": ["$import os"],
        "key": "image",
        "sizes": {"pixdim": [1.5, 1.5, 3.0]},
        "pixdim": "@sizes::pixdim",
        "network_def": {"_target_": "UNet", **UNET},
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": STEPS if steps is None else steps},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": [8, 8, 4],
            "overlap": 0.5,
            "sw_batch_size": "$2 + 2",
        },
        **config,
    }
    channels = {"0": "background", "1": "spleen"}
    data = {
        "inputs": {"image": {"channel_def": {"0": "ct"}}},
        "outputs": {"pred": {"channel_def": channels if about is None else about}},
    }
    metadata = {"name": "Spleen", "network_data_format": data}
    for name, content in (("inference", tree), ("metadata", metadata)):
        path = root / "configs" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    (root / "models").mkdir(exist_ok=True)
    torch.save(make_network().state_dict() if weights is None else weights, root / "models/model.pt")
    return root


def make_network() -> UNet:
    torch.manual_seed(0)
    return UNet(**UNET).eval()


def make_volume(shape: tuple[int, int, int] = (8, 8, 4)) -> Volume:
    image = np.random.default_rng(0).uniform(-20, 120, (1, *shape)).astype(np.float32)
    return Volume(image, Geometry.of_spacing(shape, (1.5, 1.5, 3.0)))


def prepare(root: Path, volume: Volume, *steps: dict[str, Any]) -> np.ndarray[Any, Any]:
    return load_model(write_bundle(root, steps=list(steps)), CPU).preprocess(volume)[0]


def refuse(path: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        load_model(path, CPU)
    return caught.value


def test_a_bundle_gives_the_mask_of_its_network(tmp_path: Path):
    model, scan = load_model(write_bundle(tmp_path), CPU), make_volume()
    image = torch.from_numpy(np.clip(scan.array / 100, 0, 1))[None]
    with torch.inference_mode():
        expected = make_network()(image)[0].argmax(0).numpy()
    mask = Segmenter(model, model.infer).segment(*model.preprocess(scan))[0].array
    assert 0 < expected.mean() < 1 and np.array_equal(mask, expected)
    assert (model.name, model.data.labels, model.plan.patch) == ("Spleen", {1: "spleen"}, (8, 8, 4))


def test_a_bundle_has_no_folds(tmp_path: Path):
    with pytest.raises(CheckpointError, match="no folds"):
        load_model(write_bundle(tmp_path), CPU, folds=[0])


def test_references_are_followed_and_axes_are_turned(tmp_path: Path):
    steps = [{**STEPS[1], "axcodes": "LPS"}, {**STEPS[2], "pixdim": "@sizes::pixdim"}]
    scan = make_volume()
    fine = Volume(scan.array, Geometry.of_spacing((8, 8, 4), (0.75, 1.5, 3.0)))
    model = load_model(write_bundle(tmp_path, steps=steps), CPU)
    array, placement = model.preprocess(fine)
    assert array.shape == (1, 4, 8, 4)
    halves = scan.array.reshape(1, 4, 2, 8, 4).mean(axis=2)  # linear, between two voxels each
    assert np.allclose(array, halves[:, ::-1, ::-1], atol=1e-4)
    assert placement.canonical.orientation == "LPS"


def test_the_grid_is_known_from_the_header(tmp_path: Path):
    scan = make_volume()
    for name, steps in (("resampled", STEPS), ("as stored", [STEPS[0]])):
        model = load_model(write_bundle(tmp_path / name, steps=steps), CPU)
        assert model.grid_shape(scan.geometry) == model.preprocess(scan)[0].shape[1:]


def test_lists_and_mappings_of_literals_are_read(tmp_path: Path):
    norm = {"norm": ["instance", {"affine": True}]}
    folder = write_bundle(
        tmp_path,
        network_def={"_target_": "UNet", **UNET, "channels": "@widths#1", **norm},
        widths=[8, [2, 4]],
        weights=UNet(**{**UNET, "norm": ("instance", {"affine": True})}).state_dict(),
    )
    assert load_model(folder, CPU).data.n_outputs == 2


def test_without_orientation_axes_stay_as_stored(tmp_path: Path):
    scan = make_volume()
    flipped = Volume(scan.array, Geometry(scan.geometry.shape, scan.geometry.affine @ np.diag([-1, 1, 1, 1])))
    assert np.array_equal(prepare(tmp_path, flipped), scan.array)


def test_intensities_are_scaled_as_monai_does(tmp_path: Path):
    from monai.transforms import NormalizeIntensity, ScaleIntensity

    scan = make_volume()
    scan.array[0, :4] = 0
    for index, options in enumerate(({}, {"nonzero": True, "channel_wise": True})):
        found = prepare(
            tmp_path / f"{index}", scan, {"_target_": "NormalizeIntensityd", "keys": "image", **options}
        )
        assert np.allclose(found, NormalizeIntensity(**options)(scan.array).numpy(), atol=1e-5)
    for index, options in enumerate(({}, {"minv": -1.0, "channel_wise": True})):
        found = prepare(
            tmp_path / f"s{index}", scan, {"_target_": "ScaleIntensityd", "keys": "image", **options}
        )
        assert np.allclose(found, ScaleIntensity(**options)(scan.array).numpy(), atol=1e-5)


def test_a_flat_image_is_no_division_by_zero(tmp_path: Path):
    flat = Volume(np.full((1, 8, 8, 4), 5, np.float32), make_volume().geometry)
    assert not prepare(tmp_path / "a", flat, {"_target_": "ScaleIntensityd", "keys": "image"}).any()
    assert not prepare(tmp_path / "b", flat, {"_target_": "NormalizeIntensityd", "keys": "image"}).any()
    empty = Volume(np.zeros((1, 8, 8, 4), np.float32), flat.geometry)
    steps = {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True}
    assert not prepare(tmp_path / "c", empty, steps).any()


def test_a_range_need_not_be_clipped(tmp_path: Path):
    step = {**STEPS[3], "clip": False, "b_min": -1.0}
    scan = make_volume()
    assert np.allclose(prepare(tmp_path, scan, step), scan.array / 50 - 1, atol=1e-6)


def test_windows_weigh_alike_unless_it_says_gaussian(tmp_path: Path):
    flat = load_model(write_bundle(tmp_path / "a"), CPU)
    assert flat.blend is not None and bool((flat.blend((2, 2, 2)) == 1).all())
    inferer = {"_target_": "SlidingWindowInferer", "roi_size": [8, 8, 4], "mode": "gaussian"}
    model = load_model(write_bundle(tmp_path / "b", inferer=inferer), CPU)
    assert model.blend is None and model.infer.overlap == 0.25


def test_one_output_with_a_sigmoid_is_a_structure(tmp_path: Path):
    options = {**UNET, "out_channels": 1}
    after = {"transforms": [{"_target_": "Activationsd", "keys": "pred", "sigmoid": True}]}
    folder = write_bundle(
        tmp_path,
        network_def={"_target_": "UNet", **options},
        postprocessing=after,
        about={"0": "tumor"},
        weights={"model": {f"module.{k}": v for k, v in UNet(**options).state_dict().items()}},
    )
    data = load_model(folder, CPU).data
    assert (data.labels, data.n_outputs) == ({1: "tumor"}, 1)


SIGMOID = {"_target_": "Activationsd", "keys": "pred", "sigmoid": True}
SOFTMAX = {"_target_": "Activationsd", "keys": "pred", "softmax": True}
ARGMAX = {"_target_": "AsDiscreted", "keys": ["pred", "label"], "argmax": [True, False], "to_onehot": 2}
HALF = {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5}
LARGEST = {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "applied_labels": [1]}
INVERT = {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "nearest_interp": "$False"}


def write_after(root: Path, *steps: Any, outputs: int = 2, **config: Any) -> Path:
    """Write a bundle whose network is followed by these steps."""
    options = {**UNET, "out_channels": outputs}
    torch.manual_seed(0)
    config = {"postprocessing": {"_target_": "Compose", "transforms": [*steps]}, **config}
    return write_bundle(
        root,
        network_def={"_target_": "UNet", **options},
        about={"0": "tumor"} if outputs == 1 else None,
        weights=UNet(**options).state_dict(),
        **config,
    )


def test_steps_after_the_network_are_followed(tmp_path: Path):
    save = {"_target_": "SaveImaged", "_disabled_": "$not @save", "keys": "pred"}
    other = {"_target_": "AsDiscreted", "keys": "label", "to_onehot": 2}
    classes = load_model(write_after(tmp_path / "a", SOFTMAX, INVERT, ARGMAX, other, LARGEST, save), CPU)
    assert classes.data.n_outputs == 2 and not classes.data.regions
    (step,) = classes.infer.postprocess
    assert (step.name, step.options) == ("keep_largest", {"labels": [1], "connectivity": 26})
    region = load_model(
        write_after(tmp_path / "b", SIGMOID, HALF, {**LARGEST, "connectivity": 1}, outputs=1), CPU
    )
    assert [one.name for one in region.data.regions] == ["tumor"]
    assert region.infer.postprocess[0].options["connectivity"] == 6


def test_an_argmax_decides_whatever_came_before(tmp_path: Path):
    assert not load_model(write_after(tmp_path, SIGMOID, ARGMAX), CPU).data.regions


def test_components_are_those_of_monai(tmp_path: Path):
    from monai.transforms import KeepLargestConnectedComponentd

    options = {"applied_labels": 1, "connectivity": 2}
    model = load_model(write_after(tmp_path, ARGMAX, {**LARGEST, **options}), CPU)
    labels = (np.random.default_rng(1).random((9, 8, 5)) < 0.15).astype(np.uint8)
    found = Segmenter(model, model.infer).clean(Labels(labels, Geometry.of_spacing((9, 8, 5), (1, 1, 3))))
    monai = KeepLargestConnectedComponentd(keys="pred", **options)({"pred": labels[None].copy()})["pred"][0]
    assert 0 < found.array.sum() < labels.sum() and np.array_equal(found.array, np.asarray(monai))


@pytest.mark.parametrize(
    "evaluator", [{}, {"evaluator": {"postprocessing": "@post"}, "postprocessing": None}]
)
def test_references_lead_to_what_follows_the_network(tmp_path: Path, evaluator: Any):
    steps = [{**SIGMOID, "sigmoid": "@yes"}]
    tree = {"post": {"transforms": "@calls"}, "calls": steps, "yes": True, "postprocessing": "@post"}
    assert load_model(write_after(tmp_path, outputs=1, **(tree | evaluator)), CPU).data.regions


def test_references_lead_to_preprocessing(tmp_path: Path):
    folder = write_bundle(tmp_path, preprocessing="@pre", pre={"transforms": [STEPS[3]]})
    assert load_model(folder, CPU).preprocess(make_volume())[0].max() == 1


@pytest.mark.parametrize(
    ("steps", "outputs", "word"),
    [
        ([{**SIGMOID, "sigmoid": "$not False"}], 1, "$not False"),
        ([{**SIGMOID, "other": "$torch.sigmoid"}], 1, "$torch.sigmoid"),
        ([{**SIGMOID, "softmax": True}], 1, "either"),
        ([SIGMOID, SOFTMAX], 2, "after Activationsd"),
        ([SIGMOID, {**HALF, "threshold": 0.3}], 1, "0.3"),
        ([SIGMOID, {**HALF, "argmax": True}], 1, "AsDiscreted"),
        ([SIGMOID, {**HALF, "logit_thresh": 0.5}], 1, "logit_thresh"),
        ([SIGMOID, HALF, HALF], 1, "several AsDiscreted"),
        ([HALF], 1, "threshold"),
        ([HALF], 2, "threshold"),
        ([ARGMAX], 1, "one output"),
        ([], 1, "one output"),
        ([SIGMOID], 2, "overlap"),
        ([ARGMAX, {"_target_": "Lambdad", "keys": "pred", "func": "$f"}], 2, "Lambdad"),
        ([{"_target_": "Whatever", "keys": "pred"}], 2, "Whatever"),
        ([LARGEST, ARGMAX], 2, "before AsDiscreted"),
        ([ARGMAX, LARGEST, INVERT], 2, "Invertd"),
        ([ARGMAX, {**LARGEST, "num_components": 2}], 2, "one component"),
        ([ARGMAX, {**LARGEST, "connectivity": [1, 2]}], 2, "one component"),
        ([ARGMAX, {**LARGEST, "applied_labels": [0, 1]}], 2, "one component"),
        ([ARGMAX, {**LARGEST, "applied_labels": None, "independent": False}], 2, "one component"),
    ],
)
def test_what_would_make_another_mask_is_refused(tmp_path: Path, steps: Any, outputs: int, word: str):
    error = refuse(write_after(tmp_path, *steps, outputs=outputs))
    assert error.code == "BUNDLE_UNSUPPORTED" and word in error.message


def test_a_single_structure_needs_a_sigmoid_not_a_name(tmp_path: Path):
    about = {"0": "background", "1": "a", "2": "b"}
    assert refuse(write_bundle(tmp_path, about=about)).code == "MODEL_DAMAGED"


def test_a_disabled_transform_is_left_out(tmp_path: Path):
    scan, step = make_volume(), {"_target_": "Own", "_disabled_": True}
    assert np.array_equal(prepare(tmp_path, scan, step), scan.array)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"network_def": {"_target_": "os.system", "command": "true"}}, "system"),
        ({"network_def": {"_target_": "UNet", **UNET, "channels": "$[2, 4]"}}, "$[2, 4]"),
        ({"network_def": {"_target_": "UNet", **UNET, "norm": {"_target_": "Norm"}}}, "Norm"),
        ({"network_def": {"_target_": "UNet", **UNET, "depth": 3}}, "depth"),
        ({"network_def": {"_target_": "UNet", **UNET, "channels": "@nowhere"}}, "@nowhere"),
        ({"network_def": {"_target_": "UNet", **UNET, "channels": "@a"}, "a": "@a"}, "circle"),
        ({"network_def": "$make()"}, "$make()"),
        ({"network_def": {"class": "UNet"}}, "_target_"),
        ({"inferer": {"_target_": "SimpleInferer"}}, "SlidingWindowInferer"),
        ({"inferer": {"_target_": "SlidingWindowInferer", "roi_size": [8, 8, -1]}}, "[8, 8, -1]"),
        ({"inferer": {"_target_": "SlidingWindowInferer", "roi_size": [8, 8, 4], "mode": "x"}}, "`x`"),
        ({"inferer": {"_target_": "SlidingWindowInferer", "roi_size": [8, 8, 4], "overlap": 2}}, "overlap"),
        ({"steps": [{"_target_": "Lambdad", "keys": "image", "func": "$f"}]}, "Lambdad"),
        ({"steps": [{**STEPS[2], "pixdim": "$f()"}]}, "$f()"),
        ({"steps": [{**STEPS[2], "pixdim": [1, 1, -1]}]}, "Spacingd"),
        ({"steps": [{**STEPS[2], "mode": "bicubic"}]}, "Spacingd"),
        ({"steps": [{**STEPS[2], "recompute": True}]}, "recompute"),
        ({"steps": [STEPS[2], STEPS[2]]}, "Spacingd"),
        ({"steps": [STEPS[2], STEPS[1]]}, "Orientationd"),
        ({"steps": [{**STEPS[1], "axcodes": "RRS"}]}, "Orientationd"),
        ({"steps": [{**STEPS[3], "a_max": 0}]}, "ScaleIntensityRanged"),
        ({"steps": [{"_target_": "NormalizeIntensityd", "divisor": 2}]}, "NormalizeIntensityd"),
        ({"postprocessing": "$monai.transforms.Compose([])"}, "$monai"),
        ({"postprocessing": {"_target_": "Other", "transforms": []}}, "Other"),
        ({"postprocessing_list": []}, "postprocessing_list"),
        ({"preprocessing": "$pre"}, "$pre"),
        ({"preprocessing": None}, "preprocessing"),
        ({"pixdim": "@pixdim::a"}, "circle"),
    ],
)
def test_what_is_not_known_is_named(tmp_path: Path, config: dict[str, Any], word: str):
    error = refuse(write_bundle(tmp_path, **config))
    assert error.code == "BUNDLE_UNSUPPORTED" and word in error.message


@pytest.mark.parametrize(
    "config",
    [
        {"weights": {"a": torch.ones(1)}},
        {"weights": {"a": 1}},
        {"about": {"0": "background", "5": "x"}},
        {"about": 3},
        {"network_def": {"_target_": "UNet", **UNET, "strides": []}},
    ],
)
def test_a_bundle_that_contradicts_itself_is_damaged(tmp_path: Path, config: dict[str, Any]):
    assert refuse(write_bundle(tmp_path, **config)).code == "MODEL_DAMAGED"


def test_two_labels_of_one_name_are_refused(tmp_path: Path):
    options = {**UNET, "out_channels": 3}
    folder = write_bundle(
        tmp_path,
        about={"0": "background", "1": "a", "2": "a"},
        network_def={"_target_": "UNet", **options},
        weights=UNet(**options).state_dict(),
    )
    assert refuse(folder).code == "BUNDLE_UNSUPPORTED"


def test_channels_that_have_no_names_of_their_own_are_numbered(tmp_path: Path):
    options = {**UNET, "in_channels": 2}
    network = {"network_def": {"_target_": "UNet", **options}, "weights": UNet(**options).state_dict()}
    assert list(load_model(write_bundle(tmp_path, **network), CPU).data.channels) == ["image 0", "image 1"]


def test_options_that_are_not_given_are_monais_defaults(tmp_path: Path):
    from monai.networks.nets import SegResNet

    network = {"_target_": "monai.networks.nets.SegResNet", "init_filters": 8}
    folder = write_bundle(
        tmp_path, network_def=network, weights={"state_dict": SegResNet(init_filters=8).state_dict()}
    )
    model = load_model(folder, CPU)
    assert (model.plan.dims, model.n_inputs, model.data.n_outputs) == (3, 1, 2)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_configuration_that_is_no_json_object_is_damaged(tmp_path: Path, text: str):
    folder = write_bundle(tmp_path)
    (folder / "configs/inference.json").write_text(text)
    assert refuse(folder).code == "MODEL_DAMAGED"


def test_configurations_other_than_json_are_refused(tmp_path: Path):
    folder = write_bundle(tmp_path)
    (folder / "configs/inference.json").rename(folder / "configs/inference.yaml")
    assert refuse(folder).code == "BUNDLE_UNSUPPORTED"


def test_train_json_serves_where_there_is_no_other(tmp_path: Path):
    folder = write_bundle(tmp_path)
    (folder / "configs/inference.json").rename(folder / "configs/train.json")
    assert load_model(folder, CPU).name == "Spleen"


def test_a_bundle_without_a_network_is_refused(tmp_path: Path):
    folder = write_bundle(tmp_path)
    path = folder / "configs/inference.json"
    tree = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in tree.items() if "network" not in key}))
    assert "network_def" in refuse(folder).message


def test_weights_that_run_code_are_refused(tmp_path: Path):
    fired = tmp_path / "fired"

    class Bomb:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {fired}",)

    error = refuse(write_bundle(tmp_path, weights={"a": Bomb()}))
    assert error.code == "CHECKPOINT_UNSAFE" and not fired.exists()
