"""Make results folders with nnU-Net v2 and predict with them; runs in nnU-Net's environment.

    python nnunet_models_child.py ORDER.json

Writes, per case of the order, <case>.npz: the prepared array, its logits, and the margin between the best two
outputs on the scan's grid (regions: the distance to the threshold); masks lie in a folder of their own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot


def main(path: str) -> None:
    """Do what is ordered."""
    order = json.loads(Path(path).read_text())
    torch.set_num_threads(1)
    results = Path(order["results"])
    for configuration in order["configurations"]:
        folder = results / order["plans"]["dataset_name"] / f"nnUNetTrainer__nnUNetPlans__{configuration}"
        for fold in order["folds"]:
            make_fold(order, configuration, fold, folder)
        (folder / "plans.json").write_text(json.dumps(order["plans"]))
        (folder / "dataset.json").write_text(json.dumps(order["dataset"]))
        if order["cases"]:
            predict(order, folder)


def make_fold(order: dict[str, Any], configuration: str, fold: int, folder: Path) -> None:
    """Write a checkpoint of a network that nobody trained; logits are spread as those of one that is."""
    torch.manual_seed(fold)
    plans = {**order["plans"], "continue_training": False}
    trainer = nnUNetTrainer(plans, configuration, fold, order["dataset"], torch.device("cpu"))
    trainer.plot_network_architecture = lambda: None
    stored = Path(trainer.preprocessed_dataset_folder)
    stored.mkdir(parents=True, exist_ok=True)
    (stored / "case.b2nd").touch()  # it looks at the suffix
    trainer.initialize()
    with torch.no_grad():
        for name, value in trainer.network.named_parameters():
            if value.ndim == 1:
                value += 0.2 * torch.randn_like(value)
            if "seg_layers" in name:
                value *= order["spread"]
        if order.get("blobs"):
            make_blobs(trainer.network)
    axes = tuple(range(len(trainer.configuration_manager.patch_size)))
    trainer.inference_allowed_mirroring_axes = axes if order["mirror"] else None  # which training sets
    (folder / f"fold_{fold}").mkdir(parents=True, exist_ok=True)
    trainer.save_checkpoint(str(folder / f"fold_{fold}" / "checkpoint_final.pth"))


def make_blobs(network: torch.nn.Module) -> None:
    """Let coarse levels decide, and background win often: masks as large as organs, not noise.

    Upsampling repeats voxels, and of what skips a level little is left.
    """
    decoder = network.decoder
    for up, stage in zip(decoder.transpconvs, decoder.stages, strict=True):
        spatial = tuple(range(2, up.weight.ndim))
        up.weight.copy_(up.weight.mean(spatial, keepdim=True).expand_as(up.weight))
        stage.convs[0].conv.weight[:, up.weight.shape[1] :] *= 0.05
    for layer in decoder.seg_layers:
        layer.bias[0] += 2 * layer.weight.flatten(1).norm(dim=1).mean()


def predict(order: dict[str, Any], folder: Path) -> None:
    """Predict all cases; of a cascade, with the masks of the stage before."""
    predictor = nnUNetPredictor(
        use_mirroring=order["mirror"], device=torch.device("cpu"), allow_tqdm=False, verbose=False
    )
    predictor.initialize_from_trained_model_folder(str(folder), tuple(order["folds"]), "checkpoint_final.pth")
    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    masks = folder / "masks"
    masks.mkdir(exist_ok=True)
    previous = configuration.previous_stage_name
    before = None if previous is None else folder.parent / f"nnUNetTrainer__nnUNetPlans__{previous}" / "masks"
    cases = {case: [str(file) for file in files] for case, files in order["cases"].items()}
    predictor.predict_from_files_sequential(
        list(cases.values()),
        [str(masks / case) for case in cases],
        folder_with_segs_from_prev_stage=None if before is None else str(before),
    )
    preprocessor = configuration.preprocessor_class(verbose=False)
    for case, files in cases.items():
        mask = None if before is None else str(before / f"{case}.nii.gz")
        data, seg, properties = preprocessor.run_case(files, mask, plans, configuration, order["dataset"])
        if mask is not None:
            labels = predictor.label_manager.foreground_labels
            data = np.vstack([data, convert_labelmap_to_one_hot(seg[0], labels, data.dtype)])
        logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data).float())
        margin = measure_margin(predictor, logits, properties)
        np.savez(folder / f"{case}.npz", data=data, logits=logits.float().numpy(), margin=margin)


def measure_margin(predictor: nnUNetPredictor, logits: Any, properties: dict[str, Any]) -> np.ndarray:
    """Return the margin on the stored grid, infinite outside the box."""
    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    spacing = [properties["spacing"][axis] for axis in plans.transpose_forward]
    wanted = properties["shape_after_cropping_and_before_resampling"]
    current = configuration.spacing
    current = current if len(current) == 3 else [spacing[0], *current]
    full = np.asarray(configuration.resampling_fn_probabilities(logits.float(), wanted, current, spacing))
    if predictor.label_manager.has_regions:
        near = np.abs(full).min(axis=0)
    else:
        best = np.sort(full, axis=0)[-2:]
        near = best[1] - best[0]
    whole = np.full(properties["shape_before_cropping"], np.inf, np.float32)
    whole[tuple(slice(a, b) for a, b in properties["bbox_used_for_cropping"])] = near
    return whole.transpose(plans.transpose_backward).transpose(2, 1, 0)


if __name__ == "__main__":
    main(sys.argv[1])
