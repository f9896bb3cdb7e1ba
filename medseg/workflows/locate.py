"""The locator of a run's model: trained once its folds are, where images hold many windows."""

from __future__ import annotations

from functools import partial
from math import prod
from statistics import median

from medseg.config import Config
from medseg.core.files import read_if_whole, sha256_of
from medseg.data.store import StoredCase
from medseg.inference.locator import FEATURES, FILES, choose_spacing
from medseg.inference.model import add_locator
from medseg.train.locator import choose_margin, count_inside, make_coarse, train_locator
from medseg.workflows.progress import Progress
from medseg.workflows.run_folder import RunFolder

VERSION = 1  # raise it when another locator would come out of the same cases
WORTH_PATCHES = 8  # of the median image: below it hardly a window would be saved
MOST_CASES = 100  # of each side, evenly through the ids


def settle_locator(config: Config, run: RunFolder, *, progress: Progress) -> None:
    """Train the locator of RUN/model on fold 0, unless it is there, is switched off or is not worth it.

    Args:
        config: The task.
        run: Its folder; a fold at least is trained.
        progress: Told what was found.
    """
    plan, splits = run.load_plan(), run.load_splits()
    training, held_out = (_choose(run, ids) for ids in (splits.training(0), splits.validation(0)))
    voxels = median(prod(case.shape) for case in training)
    if config.train.locator == "off" or plan.dims == 2 or voxels < WORTH_PATCHES * prod(plan.patch):
        return
    keys = [[case.entry["key"] for case in cases] for cases in (training, held_out)]
    origin = sha256_of([VERSION, config.seed, FEATURES, plan.patch, keys])
    if read_if_whole(run.model / FILES[0]).get("origin") == origin:
        return
    coarse_mm = choose_spacing(plan.spacing_mm)
    make = partial(make_coarse, spacing_mm=plan.spacing_mm, coarse_mm=coarse_mm)
    seen = [make(case) for case in training]
    if not any(case.is_large for case in seen):
        return
    network, shape = train_locator(seen, seed=config.seed)
    choice = choose_margin(
        network,
        [make(case) for case in held_out],
        plan.spacing_mm,
        coarse_mm,
        lambda index, box: count_inside(held_out[index], box),
    )
    from safetensors.torch import save

    description = {
        "origin": origin,
        "shape": shape,
        "spacing_mm": coarse_mm,
        **vars(choice),
        "held_out_cases": len(held_out),
    }
    add_locator(run.model, description, save(network.state_dict()))
    progress.say(
        f"locator: recall {choice.recall:.4f} of {len(held_out)} held-out cases' foreground within "
        f"{choice.margin_mm:.0f} mm, {choice.share:.0%} of the image"
    )


def _choose(run: RunFolder, ids: tuple[str, ...]) -> list[StoredCase]:
    step = max(1, -(-len(ids) // MOST_CASES))
    return [run.case(name) for name in ids[::step]]
