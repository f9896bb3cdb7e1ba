"""Tiny nnUNet_results folders as nnU-Net 2.8 writes them, and its two networks restated as functions."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Tree = dict[str, Any]
LINEAR = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
KERNELS, STRIDES = [[1, 3, 3], [3, 3, 3], [3, 3, 3]], [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
FEATURES = [2, 3, 4]


def make_configuration(dims: int = 3, network: str = "PlainConvUNet", **changes: Any) -> Tree:
    """Return an entry of `configurations`."""
    plain = network == "PlainConvUNet"
    arguments = {
        "n_stages": 3,
        "features_per_stage": FEATURES,
        "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
        "kernel_sizes": [kernel[-dims:] for kernel in KERNELS],
        "strides": [stride[-dims:] for stride in STRIDES],
        "n_conv_per_stage" if plain else "n_blocks_per_stage": [1, 2, 2],
        "n_conv_per_stage_decoder": [2, 1],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    resample = "resample_data_or_seg_to_shape"
    return {
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [4, 8, 8][-dims:],
        "spacing": [3.0, 1.5, 1.5][-dims:],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": resample,
        "resampling_fn_data_kwargs": {**LINEAR, "order": 3},
        "resampling_fn_seg": resample,
        "resampling_fn_seg_kwargs": {**LINEAR, "is_seg": True},
        "resampling_fn_probabilities": resample,
        "resampling_fn_probabilities_kwargs": LINEAR,
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{network}",
            "arch_kwargs": arguments,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        **changes,
    }


def make_plans(configurations: Tree, **changes: Any) -> Tree:
    """Return plans.json."""
    return {
        "dataset_name": "Dataset001_Tiny",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "configurations": configurations,
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 50.0, "std": 25.0, "percentile_00_5": 0.0, "percentile_99_5": 100.0}
        },
        **changes,
    }


def make_dataset(**changes: Any) -> Tree:
    """Return dataset.json."""
    labels = {"background": 0, "liver": 1, "spleen": 2}
    return {"channel_names": {"0": "MR"}, "labels": labels, "file_ending": ".nii.gz", **changes}


def write_results(
    root: Path,
    name: str = "3d_fullres",
    *,
    plans: Tree | None = None,
    dataset: Tree | None = None,
    n_inputs: int = 1,
    n_outputs: int = 3,
    folds: Sequence[int | str] = (0,),
    mirror_axes: tuple[int, ...] | None = None,
    **content: Any,
) -> Path:
    """Write root/Dataset001_Tiny/nnUNetTrainer__nnUNetPlans__<name> and return it."""
    plans = plans or make_plans({name: make_configuration()})
    folder = root / "Dataset001_Tiny" / f"nnUNetTrainer__nnUNetPlans__{name}"
    configuration = plans["configurations"][name]
    if "inherits_from" in configuration:
        configuration = plans["configurations"][configuration["inherits_from"]] | configuration
    for fold in folds:
        (folder / f"fold_{fold}").mkdir(parents=True)
        seed = int(fold) if fold != "all" else 9
        checkpoint = {
            "network_weights": make_weights(configuration, n_inputs, n_outputs, seed=seed),
            "optimizer_state": {"state": {}, "param_groups": [{"lr": np.float64(0.01)}]},
            "grad_scaler_state": None,
            "logging": {"train_losses": [np.float32(0.5), -0.25], "lrs": [0.01]},
            "_best_ema": np.float64(0.75),
            "current_epoch": 1,
            "init_args": {"plans": plans, "configuration": name, "fold": fold, "device": torch.device("cpu")},
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": mirror_axes,
            **content,
        }
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset or make_dataset()))
    return folder


def make_weights(configuration: Tree, n_inputs: int, n_outputs: int, seed: int = 0) -> dict[str, Tensor]:
    """Return random weights under all the names that nnU-Net's modules give them."""
    options = configuration["architecture"]["arch_kwargs"]
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    features, kernels, strides = (options[k] for k in ("features_per_stage", "kernel_sizes", "strides"))
    one = [1] * len(kernels[0])

    def add(name: str, *shape: int) -> None:
        found[name] = torch.randn(shape, generator=generator)
        if "bias" in name:
            found[name] *= 0.2  # so that no class wins everywhere

    def add_conv(name: str, inner: int, outer: int, kernel: Sequence[int], *, bias: bool = True) -> None:
        parts = {"conv.weight": (outer, inner, *kernel), "norm.weight": (outer,), "norm.bias": (outer,)}
        if bias:
            parts["conv.bias"] = (outer,)
        for part, shape in parts.items():
            add(f"{name}.{part}", *shape)
            copy = part.replace("conv", "all_modules.0").replace("norm", "all_modules.1")
            found[f"{name}.{copy}"] = found[f"{name}.{part}"]

    below = n_inputs
    if "n_blocks_per_stage" in options:
        below = features[0]
        add_conv("encoder.stem.convs.0", n_inputs, below, kernels[0])
    for level, (outer, kernel, stride) in enumerate(zip(features, kernels, strides)):
        for index in range((options.get("n_conv_per_stage") or options["n_blocks_per_stage"])[level]):
            if "n_conv_per_stage" in options:
                add_conv(f"encoder.stages.{level}.0.convs.{index}", below, outer, kernel)
            else:
                block = f"encoder.stages.{level}.blocks.{index}"
                add_conv(f"{block}.conv1", below, outer, kernel)
                add_conv(f"{block}.conv2", outer, outer, kernel)
                if below != outer:
                    step = int(max(stride) > 1 and index == 0)
                    add_conv(f"{block}.skip.{step}", below, outer, one, bias=False)
            below = outer
    found |= {f"decoder.{name}": value for name, value in list(found.items())}
    levels = len(features) - 1
    for stage, count in enumerate(options["n_conv_per_stage_decoder"]):
        level = levels - 1 - stage
        fine, coarse = features[level], features[level + 1]
        add(f"decoder.transpconvs.{stage}.weight", coarse, fine, *strides[level + 1])
        add(f"decoder.transpconvs.{stage}.bias", fine)
        for index in range(count):
            inner = fine if index else 2 * fine
            add_conv(f"decoder.stages.{stage}.convs.{index}", inner, fine, kernels[level])
        add(f"decoder.seg_layers.{stage}.weight", n_outputs, fine, *one)
        add(f"decoder.seg_layers.{stage}.bias", n_outputs)
    return found


def run_network(configuration: Tree, weights: dict[str, Tensor], image_BC: Tensor) -> Tensor:
    """Return the finest logits as nnU-Net's network gives them, biases before norms included."""
    options = configuration["architecture"]["arch_kwargs"]
    strides, levels = options["strides"], options["n_stages"] - 1
    dims = image_BC.dim() - 2
    conv = {2: functional.conv2d, 3: functional.conv3d}[dims]
    up = {2: functional.conv_transpose2d, 3: functional.conv_transpose3d}[dims]
    pool = {2: functional.avg_pool2d, 3: functional.avg_pool3d}[dims]

    def norm(name: str, x: Tensor, stride: Any = 1) -> Tensor:
        kernel = weights[f"{name}.conv.weight"]
        padding = [size // 2 for size in kernel.shape[2:]]
        x = conv(x, kernel, weights.get(f"{name}.conv.bias"), stride, padding)
        scale = weights[f"{name}.norm.weight"], weights[f"{name}.norm.bias"]
        return functional.instance_norm(x, weight=scale[0], bias=scale[1], eps=1e-5)

    def act(x: Tensor) -> Tensor:
        return functional.leaky_relu(x, 0.01)

    x, skips = image_BC, []
    if "n_blocks_per_stage" in options:
        x = act(norm("encoder.stem.convs.0", x))
    for level, stride in enumerate(strides):
        for index in range((options.get("n_conv_per_stage") or options["n_blocks_per_stage"])[level]):
            step = stride if index == 0 else [1] * dims
            if "n_conv_per_stage" in options:
                x = act(norm(f"encoder.stages.{level}.0.convs.{index}", x, step))
                continue
            block = f"encoder.stages.{level}.blocks.{index}"
            around = pool(x, step, step) if max(step) > 1 else x
            skip = f"{block}.skip.{int(max(step) > 1)}"
            around = norm(skip, around) if f"{skip}.conv.weight" in weights else around
            x = act(norm(f"{block}.conv2", act(norm(f"{block}.conv1", x, step))) + around)
        skips.append(x)
    for stage, count in enumerate(options["n_conv_per_stage_decoder"]):
        level, name = levels - 1 - stage, f"decoder.transpconvs.{stage}"
        x = up(x, weights[f"{name}.weight"], weights[f"{name}.bias"], strides[level + 1])
        x = torch.cat([x, skips[level]], 1)
        for index in range(count):
            x = act(norm(f"decoder.stages.{stage}.convs.{index}", x))
    head = f"decoder.seg_layers.{levels - 1}"
    return conv(x, weights[f"{head}.weight"], weights[f"{head}.bias"])
