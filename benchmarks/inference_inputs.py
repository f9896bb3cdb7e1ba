"""What the inference benchmark runs on: nnU-Net's folders, synthetic CTs, a light model of many classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inference_child import CT_NUMBERS
from nnunet_models import configure
from safetensors.torch import save

from medseg.core.geometry import Geometry
from medseg.core.settings import Builder
from medseg.core.volume import Volume
from medseg.data.plan import Normalization, Plan
from medseg.data.settings import Channel, Data
from medseg.inference.model import save_model
from medseg.inference.network import build_network
from medseg.io import write_volume

Tree = dict[str, Any]

HIPPOCAMPUS: Tree = {"patch": [40, 56, 40], "spacing": [1.0, 1.0, 1.0], "features": [32, 64, 128, 256]}
ORGANS: Tree = {"patch": [128, 128, 128], "spacing": [1.5] * 3, "features": [32, 64, 128, 256, 320, 320]}
CT_MM = (0.8, 0.8, 1.0)  # voxels of 512x512x300 cover 410 mm of a body across and 300 along
MANY_MM = (0.75, 0.75, 1.0)
AIR_HU, WATER_HU = -1000, 40


def order_model(work: Path, kind: Tree, labels: Sequence[str], scheme: str, *, mirror: bool) -> Tree:
    """Return what makes a results folder of nnU-Net's own network, as `nnunet_models_child` reads it."""
    configuration = configure(kind, [scheme], [False])
    features = kind["features"]
    arguments = configuration["architecture"]["arch_kwargs"]
    arguments |= {
        "n_stages": len(features),
        "features_per_stage": features,
        "kernel_sizes": [[3, 3, 3]] * len(features),
        "strides": [[1, 1, 1], *[[2, 2, 2]] * (len(features) - 1)],
        "n_conv_per_stage": [2] * len(features),
        "n_conv_per_stage_decoder": [2] * (len(features) - 1),
    }
    numbers = dict(zip(("percentile_00_5", "percentile_99_5", "mean", "std"), CT_NUMBERS, strict=True))
    plans = {
        "dataset_name": "Dataset999_Timing",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": kind["spacing"],
        "original_median_shape_after_transp": kind["patch"],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": numbers},
    }
    dataset = {
        "channel_names": {"0": "image"},
        "labels": {"background": 0, **{name: 1 + index for index, name in enumerate(labels)}},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    return {
        "results": str(work),
        "configurations": ["3d_fullres"],
        "folds": [0],
        "plans": plans,
        "dataset": dataset,
        "cases": {},
        "mirror": mirror,
        "spread": 5.0,
        "blobs": True,
    }


def find_results(order: Tree) -> Path:
    """Return the folder that the order makes."""
    return Path(order["results"], order["plans"]["dataset_name"], "nnUNetTrainer__nnUNetPlans__3d_fullres")


def link_cases(images: Sequence[Path], folder: Path) -> None:
    """Name scans as nnU-Net wants them, for both sides: <case>_0000.nii.gz beside <case>.nii.gz."""
    for side in ("peer", "ours"):
        (folder / side).mkdir(parents=True, exist_ok=True)
    for image in images:
        case = image.name.removesuffix(".nii.gz")
        (folder / "peer" / f"{case}_0000.nii.gz").symlink_to(image)
        (folder / "ours" / f"{case}.nii.gz").symlink_to(image)


def write_ct(path: Path, shape: Sequence[int], voxels_mm: Sequence[float], seed: int = 0) -> None:
    """Write a body in air with organs of differing density, and noise."""
    rng = np.random.default_rng(seed)
    image = np.full(shape, AIR_HU, np.int16)
    place = _ellipsoid(image.shape, np.array([0.5, 0.5, 0.5]), np.array([0.45, 0.4, 0.8]))
    image[place[0]][place[1]] = WATER_HU
    for _ in range(60):
        centre, radii = rng.uniform([0.2, 0.2, 0.0], [0.8, 0.8, 1.0]), rng.uniform(0.03, 0.14, 3)
        part, inside = _ellipsoid(image.shape, centre, radii)
        image[part][inside] = rng.choice([-800, -100, 20, 60, 110, 180, 400, 900])
    for plane in image:  # one at a time: no copy of the whole in float
        noise = rng.normal(0, 12, plane.shape).astype(np.float32)
        plane += np.rint(noise).astype(np.int16)
    i, j, k = image.shape
    write_volume(path, Volume(image[None], Geometry.of_spacing((i, j, k), tuple(voxels_mm))))  # type: ignore[arg-type]


def _ellipsoid(shape: Sequence[int], centre: Any, radii: Any) -> tuple[tuple[slice, ...], Any]:
    """Return a box and which of its voxels lie inside; centre and radii are shares of the shape."""
    size = np.array(shape)
    low = np.maximum(0, np.floor((centre - radii) * size)).astype(int)
    high = np.minimum(size, np.ceil((centre + radii) * size) + 1).astype(int)
    axes = [((np.arange(a, b) / n - c) / r) ** 2 for a, b, n, c, r in zip(low, high, size, centre, radii)]
    distance = axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :]
    return tuple(slice(a, b) for a, b in zip(low, high)), distance < 1


def write_many_classes(folder: Path, classes: int) -> None:
    """Write a light model of `classes` outputs whose windows are quick; nobody trained it."""
    data = Data(
        channels={"ct": Channel(normalize="fixed", window=(-1000, 1000))},
        labels={value: f"structure {value}" for value in range(1, classes)},
    )
    levels = 5
    plan = Plan(
        dims=3,
        spacing_mm=(1.5, 1.5, 1.5),
        patch=(128, 128, 128),
        batch_size=1,
        strides=((1, 1, 1), *[(2, 2, 2)] * (levels - 1)),
        kernels=((3, 3, 3),) * levels,
        features=(),
        normalization=(Normalization("fixed", -1000, 1000, 0, 1000),),
        mirror_axes=(),
        rotate_axes=(),
        rotate_degrees=0.0,
        reasons={"all": "for a benchmark"},
    )
    model = Builder(name="light_unet", options={"size": "nano", "upsampling": "linear"})
    torch.manual_seed(0)
    network = build_network(model, plan, 1, classes)
    _make_blobs(network)
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    description = {
        "name": "many_classes",
        "data": data.model_dump(mode="json"),
        "model": model.model_dump(mode="json"),
        "infer": {"postprocess_choice": "off"},
    }
    save_model(folder, description, plan, {0: save(weights)}, {})


@torch.no_grad()
def _make_blobs(network: torch.nn.Module) -> None:
    """Let coarse levels decide, and background win often: masks as large as organs, not noise."""
    decoder: Any = network.get_submodule("net.decoder")
    for stage in decoder.stages:
        weight = stage.conv.weight
        weight[:, weight.shape[1] // 2 :] *= 0.05  # what skips a level
    head = decoder.heads[0]
    head.weight /= head.weight.norm(dim=1, keepdim=True)  # or few classes would win everywhere
    head.bias[0] += 1
