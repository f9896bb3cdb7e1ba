"""A trained model as a folder: what leaves training and what inference needs, nothing else.

model.json                    labels, channels, network, settings, hashes; no case ids
plan.json                     the grid and intensities it was trained on
weights_fold_K.safetensors    one file per fold; several make an ensemble
trust.json                    what out-of-fold cases say of its reliability, where there were enough
config.yaml MODEL_CARD.md     for people
locator.*                     where structures can be, for the fast mode; not of every model
SHA256SUMS                    checked before anything is loaded
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medseg.core.errors import CheckpointError, DataError
from medseg.core.files import (
    make_folder,
    read_json,
    sha256_of,
    sha256_of_file,
    write_bytes,
    write_json,
    write_text,
)
from medseg.core.settings import Builder
from medseg.data.loading import class_values
from medseg.data.plan import Plan
from medseg.data.preprocess import preprocessing_key
from medseg.data.settings import Data
from medseg.inference.bundle.load import is_bundle, load_bundle
from medseg.inference.locator import FILES, load_locator
from medseg.inference.network import build_network
from medseg.inference.nnunet.folder import find_results
from medseg.inference.nnunet.load import load_results
from medseg.inference.settings import Infer
from medseg.inference.trained import TrainedModel
from medseg.inference.trust.fit import load_trust

SCHEMA = 1
SUMS = "SHA256SUMS"
TRUST = "trust.json"


def save_model(
    folder: Path,
    description: Mapping[str, Any],
    plan: Plan,
    weights: Mapping[int, bytes],
    texts: Mapping[str, str],
) -> None:
    """Write a model folder, keeping weights of other folds; SHA256SUMS comes last: a torn folder is refused.

    Args:
        folder: RUN/model.
        description: name, data, model, infer; becomes model.json.
        plan: The plan it was trained with.
        weights: safetensors bytes per fold.
        texts: File name -> text, for config.yaml, MODEL_CARD.md and trust.json.
    """
    make_folder(folder)
    (folder / SUMS).unlink(missing_ok=True)
    (folder / TRUST).unlink(missing_ok=True)  # of other weights, if it is not among `texts`
    data = Data.model_validate(description["data"])
    key = preprocessing_key(plan, class_values(data))
    write_json(folder / "model.json", {"schema": SCHEMA, "preprocessing": key, **description})
    write_json(folder / "plan.json", plan.to_json())
    for name, text in texts.items():
        write_text(folder / name, text)
    for fold, content in weights.items():
        write_bytes(folder / f"weights_fold_{fold}.safetensors", content)
    _write_sums(folder)


def add_locator(folder: Path, description: Mapping[str, Any], weights: bytes) -> None:
    """Write a locator into a model folder; its description vouches for the weights, SHA256SUMS for both."""
    for name in (SUMS, FILES[0]):
        (folder / name).unlink(missing_ok=True)
    write_bytes(folder / FILES[1], weights)
    write_json(folder / FILES[0], description)
    _write_sums(folder)


def _write_sums(folder: Path) -> None:
    sums = [f"{sha256_of_file(path)}  {path.name}\n" for path in sorted(folder.iterdir()) if path.is_file()]
    write_text(folder / SUMS, "".join(sums))


def find_model(path: Path) -> Path:
    """Return the model folder that a RUN folder or a model folder names.

    Raises:
        CheckpointError: There is none.
    """
    for folder in (path, path / "model"):
        if (folder / "model.json").is_file():
            return folder
    raise CheckpointError(
        "the path that was given for the model holds none",
        hint="give a run, its model folder, an nnU-Net results folder or a MONAI bundle",
        code="MODEL_MISSING",
    )


def load_model(
    path: Path, device: torch.device, folds: Sequence[int] | None = None, *, trust_code: bool = False
) -> TrainedModel:
    """Load a model folder after checking every file against SHA256SUMS, or a model of other software.

    Args:
        path: A RUN folder or its model folder; an nnU-Net results folder (Trainer__Plans__configuration, one
            of its folds, or a data set's with one configuration); a MONAI bundle.
        device: Where the networks go.
        folds: Which folds' networks to load; None: all there are.
        trust_code: Whether a model may name code outside medseg ("package.module:network").

    Raises:
        CheckpointError: Missing, damaged, of another schema, preprocessed by other rules, or not trusted;
            UNKNOWN_FOLD.
    """
    foreign = _load_foreign(path, device, folds)
    if foreign is not None:
        return foreign
    folder = find_model(path)
    _verify(folder)
    try:
        tree, plan = read_json(folder / "model.json"), Plan.from_json(read_json(folder / "plan.json"))
    except DataError as error:
        raise CheckpointError(error.message, code="MODEL_DAMAGED") from error
    if tree.get("schema") != SCHEMA:
        raise CheckpointError(
            f"model schema {tree.get('schema')} is not {SCHEMA}",
            hint="use the version that wrote it",
            code="MODEL_SCHEMA",
        )
    data = Data.model_validate(tree["data"])
    if tree["preprocessing"] != preprocessing_key(plan, class_values(data)):
        raise CheckpointError(
            "this version of medseg preprocesses images differently from the one that trained the model",
            hint="use the version named in the model card, or train again",
            code="PREPROCESSING_CHANGED",
        )
    builder = Builder.model_validate(tree["model"])
    infer = Infer.model_validate(tree["infer"])
    outside = [entry.name for entry in (builder, *infer.refine, *infer.postprocess) if ":" in entry.name]
    if outside and not trust_code:
        raise CheckpointError(
            f"the model runs code from outside medseg: {', '.join(outside)}",
            hint="give --trust-code if you know where the model comes from",
            code="MODEL_RUNS_CODE",
        )
    files = sorted(folder.glob("weights_fold_*.safetensors"))
    if not files:
        raise CheckpointError("the model folder holds no weights", code="MODEL_DAMAGED")
    if folds is not None:
        files = _choose_folds(files, folds)
    networks = tuple(_load_network(file, builder, plan, data).to(device) for file in files)
    trust = load_trust(folder / TRUST) if (folder / TRUST).is_file() else None
    locator = load_locator(folder, len(data.channels))
    digests = hash_model(folder, files)
    return TrainedModel(tree["name"], data, plan, infer, networks, *digests, trust=trust, locator=locator)


def _choose_folds(files: Sequence[Path], folds: Sequence[int]) -> list[Path]:
    found = {file.stem.removeprefix("weights_fold_"): file for file in files}
    if missing := [fold for fold in folds if str(fold) not in found]:
        raise CheckpointError(
            f"the model has no fold {missing[0]}",
            hint=f"folds that it has: {', '.join(found)}",
            code="UNKNOWN_FOLD",
        )
    return [found[str(fold)] for fold in folds]


def hash_model(folder: Path, files: Sequence[Path] | None = None) -> tuple[str, str]:
    """Return `sha256` and `networks_sha256` of the model in a folder, with these weights or with all."""
    files = sorted(folder.glob("weights_fold_*.safetensors")) if files is None else files
    decisive = [sha256_of_file(file) for file in (folder / "model.json", folder / "plan.json", *files)]
    tree = read_json(folder / "model.json")
    learnt = [{key: value for key, value in tree.items() if key != "infer"}, *decisive[1:]]
    if (folder / TRUST).is_file():
        decisive.append(sha256_of_file(folder / TRUST))
    return sha256_of(decisive), sha256_of(learnt)


def _load_foreign(path: Path, device: torch.device, folds: Sequence[int] | None) -> TrainedModel | None:
    """Load a model of other software; None where the path names none."""
    if is_bundle(path):
        if folds is not None:
            raise CheckpointError("a MONAI bundle has no folds", hint="leave them out", code="UNKNOWN_FOLD")
        return load_bundle(path, device)
    results = find_results(path)
    return None if results is None else load_results(results, device, folds)


def _load_network(file: Path, builder: Builder, plan: Plan, data: Data) -> nn.Module:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    network = build_network(builder, plan, len(data.channels), data.n_outputs)
    try:
        network.load_state_dict(load_file(file))
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"{file.name} does not fit the network",
            hint="the folder is damaged; copy it again",
            code="MODEL_DAMAGED",
        ) from error
    return network.eval()


def _verify(folder: Path) -> None:
    sums = folder / SUMS
    if not sums.is_file():
        raise CheckpointError(
            f"{SUMS} is missing: the model was not written to its end",
            hint="run train again",
            code="MODEL_DAMAGED",
        )
    lines = sums.read_bytes().decode(errors="replace").splitlines()
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    # What is loaded must be listed: a file put beside the others is not the model's.
    names = ("weights_fold_*.safetensors", TRUST, "locator.*")
    optional = [path for name in names for path in folder.glob(name)]
    needed = {"model.json", "plan.json", *(path.name for path in optional)}
    for name in sorted(listed.keys() | needed):
        path = folder / Path(name).name
        if not path.is_file() or sha256_of_file(path) != listed.get(name):
            raise CheckpointError(
                f"{Path(name).name} does not match its checksum",
                hint="copy the model folder again",
                code="MODEL_DAMAGED",
            )
