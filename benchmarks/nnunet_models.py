"""nnU-Net's models in medseg: the same masks as from nnU-Net itself.

    python benchmarks/nnunet_models.py --json FILE [--nnunet-env DIR]

nnU-Net makes results folders of many kinds (its `initialize` and `save_checkpoint`, random weights) and
predicts phantoms with them; medseg loads the same folders. Rows hold the largest differences of the prepared
arrays and of the logits (nnU-Net sums windows in float16), and the share of equal voxels, those whose best
two outputs lie closer than 0.01 set aside. A last row holds what became of a checkpoint that runs a command
when it is unpickled.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nnunet_env
import numpy as np
import torch
from scipy import ndimage

from medseg.core.errors import CheckpointError
from medseg.core.geometry import Geometry
from medseg.core.volume import Volume
from medseg.data.cases import Case
from medseg.data.loading import load_image
from medseg.inference.model import load_model
from medseg.inference.segment import Segmenter
from medseg.io import read_labels, write_volume

CHILD = Path(__file__).with_name("nnunet_models_child.py")
TARGET, MARGIN = 0.999, 0.01
Tree = dict[str, Any]
CPU = torch.device("cpu")
PLAIN = {"background": 0, "liver": 1, "spleen": 2}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
KINDS: dict[str, Tree] = {
    "3d": {},
    "3d mirrored, 2 folds": {"mirror": True, "folds": [0, 1]},
    "3d CT": {"schemes": ["CTNormalization"], "masked": [False]},
    "2d": {"dims": 2, "patch": [32, 40], "spacing": [1.2, 1.0]},
    "2d mirrored": {"dims": 2, "patch": [32, 40], "spacing": [1.2, 1.0], "mirror": True},
    "residual encoder": {"network": "ResidualEncoderUNet"},
    "regions": {"labels": REGIONS, "order": [1, 2, 3]},
    "anisotropic": {"voxels_mm": [0.8, 0.9, 5.0], "spacing": [4.0, 1.0, 1.0], "patch": [8, 32, 32]},
    "transposed": {"transpose": [2, 0, 1], "spacing": [1.1, 1.3, 0.9]},
    "two channels, masked": {
        "schemes": ["ZScoreNormalization", "RescaleTo01Normalization"],
        "masked": [True, False],
    },
    "3d, low resolution": {"spacing": [2.4, 2.4, 2.4], "patch": [16, 16, 16]},
    "cascade": {"cascade": True, "spacing": [1.2, 1.2, 1.2]},
}


def make_order(kind: Tree, work: Path, shape: tuple[int, int, int]) -> Tree:
    """Return what the child does; images are written."""
    schemes, masked = kind.get("schemes", ["ZScoreNormalization"]), kind.get("masked", [False])
    labels = kind.get("labels", PLAIN)
    dims = kind.get("dims", 3)
    numbers = {"mean": 300.0, "std": 200.0, "percentile_00_5": 20.0, "percentile_99_5": 800.0}
    configurations = {"3d_fullres": configure(kind, schemes, masked)} if dims == 3 else {}
    if dims == 2:
        configurations["2d"] = configure(kind, schemes, masked)
    if kind.get("cascade"):
        coarse = {**kind, "spacing": [2.4, 2.4, 2.4], "patch": [16, 16, 16]}
        lowres = {**configure(coarse, schemes, masked), "next_stage": "3d_cascade_fullres"}
        final = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
        configurations |= {"3d_lowres": lowres, "3d_cascade_fullres": final}
    transpose = kind.get("transpose", [0, 1, 2])
    plans = {
        "dataset_name": "Dataset999_Phantom",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [40, 40, 40],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": transpose,
        "transpose_backward": np.argsort(transpose).tolist(),
        "configurations": configurations,
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(i): numbers for i in range(len(schemes))},
    }
    dataset = {
        "channel_names": {str(index): f"channel {index}" for index in range(len(schemes))},
        "labels": labels,
        "numTraining": 2,
        "file_ending": ".nii.gz",
        **({"regions_class_order": kind["order"]} if "order" in kind else {}),
    }
    voxels_mm = kind.get("voxels_mm", [0.9, 1.1, 1.5])
    cases = {
        f"case{seed}": write_case(work / "images", seed, shape, voxels_mm, len(schemes)) for seed in range(2)
    }
    is_cascade = kind.get("cascade", False)
    return {
        "results": str(work / "results"),
        "configurations": ["3d_lowres", "3d_cascade_fullres"] if is_cascade else list(configurations),
        "folds": kind.get("folds", [0]),
        "plans": plans,
        "dataset": dataset,
        "cases": cases,
        "mirror": kind.get("mirror", False),
        "spread": 5.0,
    }


def configure(kind: Tree, schemes: list[str], masked: list[bool]) -> Tree:
    """Return an entry of `configurations`, as nnU-Net 2.8 writes it."""
    dims, network = kind.get("dims", 3), kind.get("network", "PlainConvUNet")
    patch = kind.get("patch", [24, 32, 32])
    flat = [1] * dims
    step = [2] * dims if max(patch) < 3 * min(patch) else [1, 2, 2]
    count = "n_conv_per_stage" if network == "PlainConvUNet" else "n_blocks_per_stage"
    linear = {"order": 1, "order_z": 0, "force_separate_z": None}
    return {
        "data_identifier": "phantom",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": patch,
        "median_image_size_in_voxels": [40.0] * dims,
        "spacing": kind.get("spacing", [1.2, 1.0, 1.1]),
        "normalization_schemes": schemes,
        "use_mask_for_norm": masked,
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {**linear, "is_seg": False, "order": 3},
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {**linear, "is_seg": True},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**linear, "is_seg": False},
        "batch_dice": False,
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{network}",
            "arch_kwargs": {
                "n_stages": 3,
                "features_per_stage": [8, 16, 32],
                "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
                "kernel_sizes": [
                    [1, *[3] * (dims - 1)] if step[0] == 1 else [3] * dims,
                    [3] * dims,
                    [3] * dims,
                ],
                "strides": [flat, step, [2] * dims],
                count: [2, 2, 2] if network == "PlainConvUNet" else [1, 2, 2],
                "n_conv_per_stage_decoder": [2, 2] if network == "PlainConvUNet" else [1, 1],
                "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
                "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }


def write_case(
    folder: Path, seed: int, shape: tuple[int, int, int], voxels_mm: list[float], n_channels: int
) -> list[str]:
    """Write smooth noise in a ball with nothing around it, on a grid that is stored backwards."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(n + seed * 3) for n in shape)  # type: ignore[assignment]
    affine = np.diag([-voxels_mm[0], voxels_mm[1], voxels_mm[2], 1.0])
    affine[:3, 3] = 20, -30, 40
    place = np.stack(np.meshgrid(*(np.linspace(-1.1, 1.1, n) for n in shape), indexing="ij"))
    ball = (place**2).sum(axis=0) < 1
    files = []
    for channel in range(n_channels):
        noise = ndimage.gaussian_filter(rng.standard_normal(shape), 1.5)
        image = np.where(ball, 400 + 600 * noise / noise.std() / 3, 0).astype(np.float32)
        file = folder / f"case{seed}_{channel:04d}.nii.gz"
        write_volume(file, Volume(image[np.newaxis], Geometry(shape, affine)))
        files.append(str(file))
    return files


def compare(order: Tree) -> Tree:
    """Predict with medseg and return the row."""
    results = Path(order["results"]) / "Dataset999_Phantom"
    stages = [results / f"nnUNetTrainer__nnUNetPlans__{stage}" for stage in order["configurations"]]
    folder = stages[-1]
    started = time.perf_counter()
    model = load_model(folder, CPU)
    seconds = time.perf_counter() - started
    segmenter = Segmenter(model, model.infer)
    voxels = equal = aside = 0
    apart = {"prepared": 0.0, "logits": 0.0, "logits_mean": 0.0}
    for case, files in order["cases"].items():
        with np.load(folder / f"{case}.npz") as peer:
            data, logits, margin = peer["data"], peer["logits"], peer["margin"]
        image = load_image(Case(case, tuple(map(Path, files))), len(model.data.channels))
        array, placement = model.preprocess(image)
        if (
            model.previous is not None
        ):  # a network that nobody trained makes much of a voxel: its mask for both
            before = read_labels(stages[0] / "masks" / f"{case}.nii.gz").array
            array = model.prepare.add_mask(array[: len(model.data.channels)], placement, image, before)
        if model.plan.dims == 2:  # its slices come first
            data, logits = np.moveaxis(data, 1, -1), np.moveaxis(logits, 1, -1)
        apart["prepared"] = max(apart["prepared"], float(np.abs(array - data).max()))
        if hasattr(segmenter, "predict"):
            difference = np.abs(segmenter.predict(array) - logits)
            apart["logits"] = max(apart["logits"], float(difference.max()))
            apart["logits_mean"] = max(apart["logits_mean"], float(difference.mean()))
        labels, _ = segmenter.segment(array, placement)
        mask = read_labels(folder / "masks" / f"{case}.nii.gz").array
        clear = margin >= MARGIN
        voxels, aside = voxels + mask.size, aside + int((~clear).sum())
        equal += int((labels.array == mask)[clear].sum())
    return {
        "cases": len(order["cases"]),
        "load_s": round(seconds, 3),
        **{name: float(f"{value:.2e}") for name, value in apart.items()},
        "set_aside": round(aside / voxels, 6),
        "equal": round(equal / (voxels - aside), 6),
    }


def try_bomb(work: Path) -> Tree:
    """Return what becomes of a checkpoint that runs a command."""
    folder = next((work / "results").rglob("fold_0"))
    fired = work / "fired"

    class Bomb:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {fired}",)

    torch.save({"network_weights": {}, "init_args": Bomb()}, folder / "checkpoint_final.pth")
    try:
        load_model(folder.parent, CPU)
        code = "loaded"
    except CheckpointError as error:
        code = error.code
    return {"kind": "hostile checkpoint", "code": code, "fired": fired.exists()}


def main() -> int:
    """Run all kinds, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--nnunet-env", type=Path, default=nnunet_env.DEFAULT, help="made where it is missing"
    )
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--shape", type=int, nargs=3, default=(44, 50, 30))
    options = parser.parse_args()
    torch.set_num_threads(1)
    programs = options.nnunet_env / "bin"
    if not (programs / "python").exists():
        programs = nnunet_env.ensure(options.nnunet_env)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for index, name in enumerate(options.kinds):
            work = Path(temporary, str(index))
            order = make_order(KINDS[name], work, tuple(options.shape))
            (work / "order.json").write_text(json.dumps(order))
            command = [str(programs / "python"), str(CHILD), str(work / "order.json")]
            its_own = {
                **nnunet_env.environment(work),
                "nnUNet_results": order["results"],
                "OMP_NUM_THREADS": "1",
            }
            done = subprocess.run(command, env=its_own, capture_output=True, text=True, check=False)
            if done.returncode:
                print(done.stderr[-3000:], file=sys.stderr)
                return 1
            rows.append({"kind": name, **compare(order)})
            print(rows[-1], flush=True)
        rows.append(try_bomb(work))
    bomb = rows[-1]
    ok = all(row["equal"] >= TARGET for row in rows[:-1])
    ok = ok and bomb["code"] == "CHECKPOINT_UNSAFE" and not bomb["fired"]
    worst = min(row["equal"] for row in rows[:-1])
    document = {"name": "nnunet_models", "rows": rows, "ratio": worst, "target": TARGET, "ok": ok}
    text = json.dumps(document, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
