"""Train and predict with nnU-Net v2 within CPU seconds; runs in nnU-Net's environment, started by the ledger.

    python nnunet_child.py ORDER.json SPENT      SPENT: CPU seconds of the budget that are used already

Its trainer, loaders, augmentation, loss, optimizer and predictor are its own; only the loop is ours, since
its own one knows no budget. Killed, the same command goes on after the last checkpoint.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import (
    nnUNetTrainerNoMirroring,
)

SAVE_EVERY_S = 20.0  # CPU seconds
SPARE = 1.1  # prediction of all cases, from that of one


class Budget:
    """CPU seconds left, of this process and of what came before it."""

    def __init__(self, limit_s: float, spent_s: float) -> None:
        self.limit_s, self.spent_s = limit_s, spent_s

    def left_s(self) -> float:
        """Return the CPU seconds that are left."""
        return self.limit_s - self.spent_s - time.process_time()


def main(path: str, spent_s: str) -> None:
    """Train, predict, and write done.json."""
    order = json.loads(Path(path).read_text())
    budget, work = Budget(order["budget_cpu_s"], float(spent_s)), Path(order["work"])
    torch.set_num_threads(order["threads"])
    trainer = make_trainer(order)
    predictor = make_predictor(trainer)
    state = load(work / "checkpoint.pt", trainer)
    state = train(trainer, order, budget, state, lambda: predict(predictor, order, order["held_out"][:1]))
    save(work / "checkpoint.pt", trainer, state)
    predict(predictor, order, order["held_out"])
    done = {key: state[key] for key in ("iterations", "train_cpu_s", "prediction_s", "losses")}
    (work / "done.json").write_text(json.dumps(done))


def make_trainer(order: dict[str, Any]) -> nnUNetTrainer:
    """Return a trainer that is ready for its first step."""
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(order["seed"])
    kind = nnUNetTrainer if order["recipe"]["mirror"] else nnUNetTrainerNoMirroring
    plans = {**order["plans"], "continue_training": False}
    trainer = kind(plans, "3d_fullres", order["fold"], order["dataset"], torch.device("cpu"))
    trainer.plot_network_architecture = lambda: None
    trainer.initialize()
    trainer.on_train_start()
    return trainer


def make_predictor(trainer: nnUNetTrainer) -> nnUNetPredictor:
    """Return its predictor around the trainer's network; no mirroring, half-overlapping windows."""
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        None,
        trainer.dataset_json,
        type(trainer).__name__,
        None,
    )
    return predictor


def train(
    trainer: nnUNetTrainer, order: dict[str, Any], budget: Budget, state: dict[str, Any], predict_one: Any
) -> dict[str, Any]:
    """Train until what is left is needed for the prediction."""
    if not state["prediction_s"]:
        started = time.process_time()
        predict_one()
        state["prediction_s"] = (time.process_time() - started) * len(order["held_out"]) * SPARE
    trainer.network.train()
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    saved = time.process_time()
    while (left_s := budget.left_s() - state["prediction_s"]) > state["longest_s"]:
        started = time.process_time()
        set_rate(trainer, state, left_s if order["recipe"]["scaled"] else None)
        state["losses"].append(round(float(step(trainer, order["recipe"]["bf16"])), 4))
        state["iterations"] += 1
        now = time.process_time()
        state["train_cpu_s"] += now - started
        state["longest_s"] = max(state["longest_s"], now - started)
        if now - saved > SAVE_EVERY_S:
            saved = now
            save(Path(order["work"], "checkpoint.pt"), trainer, state)
    return state


def set_rate(trainer: nnUNetTrainer, state: dict[str, Any], left_s: float | None) -> None:
    """Set the learning rate: its poly schedule over 1000 epochs, or over the CPU seconds that there are."""
    if left_s is None:
        trainer.lr_scheduler.step(state["iterations"] // trainer.num_iterations_per_epoch)
        return
    progress = state["train_cpu_s"] / (state["train_cpu_s"] + left_s)
    for group in trainer.optimizer.param_groups:
        group["lr"] = trainer.initial_lr * (1 - progress) ** 0.9


def step(trainer: nnUNetTrainer, is_bf16: bool) -> Any:
    """Do its training step and return the loss; under bf16, the same lines as its GPU path has."""
    batch = next(trainer.dataloader_train)
    if not is_bf16:
        return trainer.train_step(batch)["loss"]
    trainer.optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = trainer.loss(trainer.network(batch["data"]), batch["target"])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trainer.network.parameters(), 12)
    trainer.optimizer.step()
    return loss.detach()


def predict(predictor: nnUNetPredictor, order: dict[str, Any], cases: list[str]) -> None:
    """Write the masks of cases with the network as it is."""
    network = predictor.network
    network.eval()
    network.decoder.deep_supervision = False
    predictor.list_of_parameters = [{key: value.clone() for key, value in network.state_dict().items()}]
    masks = Path(order["work"], "masks")
    masks.mkdir(exist_ok=True)
    images = [[str(Path(order["images"], f"{case}_0000.nii.gz"))] for case in cases]
    predictor.predict_from_files_sequential(images, [str(masks / case) for case in cases])


def save(path: Path, trainer: nnUNetTrainer, state: dict[str, Any]) -> None:
    """Write a checkpoint, whole."""
    tree = {
        "network": trainer.network.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "state": state,
    }
    torch.save(tree, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def load(path: Path, trainer: nnUNetTrainer) -> dict[str, Any]:
    """Fill the trainer from a checkpoint, if there is one, and return the counters."""
    if not path.exists():
        times = {"train_cpu_s": 0.0, "prediction_s": 0.0, "longest_s": 0.0}
        return {"iterations": 0, "losses": [], **times}
    tree = torch.load(path, weights_only=True)
    trainer.network.load_state_dict(tree["network"])
    trainer.optimizer.load_state_dict(tree["optimizer"])
    state: dict[str, Any] = tree["state"]
    return state


if __name__ == "__main__":
    main(*sys.argv[1:3])
