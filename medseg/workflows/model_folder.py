"""RUN/model: what leaves training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from medseg import __version__
from medseg.config import Config
from medseg.config.layers import dump
from medseg.core.files import read_json, sha256_of
from medseg.inference.model import TRUST, save_model
from medseg.tracking.card import Card, write_card
from medseg.workflows.postprocess_choice import read_notes, recall_infer
from medseg.workflows.run_folder import RunFolder
from medseg.workflows.trust import note_trust, recall_trust


def export_weights(config: Config, run: RunFolder, fold: int, weights: Mapping[str, Tensor]) -> None:
    """Write the weights of a finished fold into RUN/model, beside those of other folds."""
    from safetensors.torch import save

    content = save({name: value.detach().cpu().contiguous() for name, value in weights.items()})
    write_model(config, run, {fold: content})


def write_model(
    config: Config,
    run: RunFolder,
    weights: Mapping[int, bytes],
    scores: Sequence[Mapping[str, object]] = (),
) -> None:
    """Write RUN/model: weights of new folds beside those already there, and a card with the scores."""
    description = {
        "name": config.name,
        "data": config.data.model_dump(mode="json"),
        "model": config.model.model_dump(mode="json"),
        "infer": recall_infer(config, run).model_dump(mode="json"),
    }
    splits, plan = run.load_splits(), run.load_plan()
    counts = {
        "cases": sum(map(len, splits.folds)),
        "folds planned": len(splits.folds),
        "test cases": len(splits.test),
    }
    card = Card(
        pipeline=config.name,
        version=__version__,
        purpose=config.summary,
        counts=counts,
        labels=config.data.labels,
        metrics=scores,
        plan={
            name: value for name, value in plan.to_json().items() if name not in {"reasons", "normalization"}
        },
        hashes={
            "config": sha256_of(config.model_dump(mode="json")),
            "plan": sha256_of(plan.to_json()),
            **_list_starts(run),
        },
        data_note=config.licence,
        notes=[*read_notes(run), *note_trust(run)],
    )
    # Ids of a fixed test set stay in the run; a model folder holds none.
    shared = config.model_copy(update={"split": config.split.model_copy(update={"test_ids": ()})})
    texts = {"config.yaml": dump(shared), "MODEL_CARD.md": write_card(card)}
    if (trust := recall_trust(run)) is not None:
        texts[TRUST] = trust
    save_model(run.model, description, plan, weights, texts)


def _list_starts(run: RunFolder) -> dict[str, str]:
    """Return the models that folds started from, for the card."""
    starts = {path.parent.name: read_json(path) for path in sorted(run.root.glob("fold_*/start.json"))}
    return {
        f"weights that {fold} started from ({start.get('model', 'a model')})": start["init_sha256"]
        for fold, start in starts.items()
    }
