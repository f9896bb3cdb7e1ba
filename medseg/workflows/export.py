"""export: a model as a folder that other programs run, with a description of the whole pipeline and a runner.

DIR/model_fold_K.onnx|.xml+.bin|.pt   the networks, for one window at a time
DIR/pipeline.json                     all that is done before and after them, as plain data
DIR/run.py runner/                    a runner that needs neither medseg nor torch
DIR/MODEL_CARD.md SHA256SUMS          for people; for `verify` and the runner
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medseg import __version__
from medseg.core.errors import ConfigError
from medseg.core.files import make_folder, read_if_whole, sha256_of_file, to_json, write_bytes, write_text
from medseg.core.select import select
from medseg.data.loading import class_values, output_names, region_paints
from medseg.data.resample import ANISOTROPY
from medseg.inference.backends.convert import (
    flatten,
    make_window,
    one_by_one,
    require,
    require_equal,
    to_onnx,
    to_openvino,
    to_torchscript,
    tracing,
)
from medseg.inference.bundle.load import is_bundle
from medseg.inference.model import SUMS, find_model, load_model
from medseg.inference.nnunet.folder import find_results
from medseg.inference.trained import TrainedModel
from medseg.workflows.report import CaseResult, Report
from medseg.workflows.runner.cleanup import STEPS
from medseg.workflows.runner.network import load_network
from medseg.workflows.verify import check_sums

SCHEMA = 1
RUNNER = Path(__file__).parent / "runner"
RUN = '''\
"""Segment NIfTI scans with the model in this folder: python run.py SCAN... -o OUT"""

import sys
from pathlib import Path

sys.dont_write_bytecode = True

from runner.main import main  # noqa: E402

sys.exit(main(Path(__file__).resolve().parent))
'''


def export(model_path: Path, to: str, out: Path, *, report: Report, trust_code: bool = False) -> None:
    """Write DIR; what is there already, whole and of the same model, is left alone.

    Args:
        model_path: A RUN folder or its model folder.
        to: A name of `WRITERS`.
        out: DIR.
        report: Gets a result per network.
        trust_code: Whether the model may use code from outside medseg.

    Raises:
        ConfigError: UNKNOWN_NAME, BACKEND_MISSING, BACKEND_FAILED, EXPORT_UNSUPPORTED; CONFIG_CHANGED where
            DIR holds another export.
        CheckpointError: The model is missing or damaged.
    """
    writer = select("format", WRITERS, to)
    _refuse_foreign(model_path)
    folder = find_model(model_path)
    model = load_model(folder, torch.device("cpu"), trust_code=trust_code)
    weights = sorted(folder.glob("weights_fold_*.safetensors"))
    names = [f"{path.stem.replace('weights', 'model')}{SUFFIXES[to]}" for path in weights]
    pipeline = describe_pipeline(model, names)
    if found := read_if_whole(out / "pipeline.json"):
        if found != pipeline:
            raise ConfigError(
                "the folder holds the export of another model", hint="another -o", code="CONFIG_CHANGED"
            )
        if (out / SUMS).is_file() and not any(result.code for result in check_sums(out)):
            report.cases += [CaseResult(name, "skipped") for name in pipeline["networks"]]
            return
    make_folder(out / RUNNER.name)
    (out / SUMS).unlink(missing_ok=True)
    for name, network in zip(pipeline["networks"], model.networks, strict=True):
        _write_network(out / name, network, model, writer)
        report.add(CaseResult(name, "done", outputs=[name]))
    for source in sorted(RUNNER.glob("*.py")):
        write_bytes(out / RUNNER.name / source.name, source.read_bytes())
    shutil.copyfile(folder / "MODEL_CARD.md", out / "MODEL_CARD.md")
    write_text(out / "run.py", RUN)
    write_text(out / "pipeline.json", to_json(pipeline))
    files = sorted(path for path in out.rglob("*") if path.is_file())
    for path in files:
        path.chmod(0o600)
    write_text(out / SUMS, "".join(f"{sha256_of_file(path)}  {path.relative_to(out)}\n" for path in files))


def _refuse_foreign(path: Path) -> None:
    kind = "a MONAI bundle" if is_bundle(path) else "nnU-Net's" if find_results(path) else ""
    if kind:
        raise ConfigError(
            f"the model is {kind}: the stand-alone runner has no preprocessing but medseg's own",
            hint="run it with `medseg infer`, which needs nothing else installed",
            code="EXPORT_UNSUPPORTED",
        )


def describe_pipeline(model: TrainedModel, networks: Sequence[str]) -> dict[str, Any]:
    """Return all that happens between a scan and its mask, as plain data.

    Raises:
        ConfigError: EXPORT_UNSUPPORTED: a step that the runner does not have.
    """
    plan, data, infer = model.plan, model.data, model.infer
    if strange := [step.name for step in infer.postprocess if step.name not in STEPS]:
        raise ConfigError(
            f"the stand-alone runner does not have the step `{strange[0]}`",
            hint=f"it has {', '.join(STEPS)}; leave the others out of infer.postprocess",
            code="EXPORT_UNSUPPORTED",
        )
    if infer.refine:
        raise ConfigError(
            "the stand-alone runner refines no probabilities",
            hint="leave infer.refine empty",
            code="EXPORT_UNSUPPORTED",
        )
    paints = region_paints(data)
    return {
        "schema": SCHEMA,
        "name": model.name,
        "medseg": __version__,
        "model_sha256": model.sha256,
        "networks": list(networks),
        "dims": plan.dims,
        "channels": list(data.channels),
        "orientation": "RAS",  # axes are permuted and flipped, not interpolated
        "crop": "nonzero",  # the box of voxels that are not 0 in every channel
        "normalization": [vars(step) for step in plan.normalization],
        "spacing_mm": list(plan.spacing_mm),
        "resampling": {"image_order": 3, "logits_order": 1, "anisotropy": ANISOTROPY},
        "rounding": "float16",  # of the preprocessed image
        "patch": list(plan.patch),
        "overlap": infer.overlap,
        "window_weights": {"kind": "gaussian", "sigma_share": 0.125, "floor": 1e-4},
        "mirror_axes": list(plan.mirror_axes) if infer.mirror else [],
        "outputs": [*([] if paints else ["background"]), *output_names(data)],
        "regions": [{"name": r.name, "paints": paint} for r, paint in zip(data.regions, paints, strict=True)],
        "class_values": class_values(data),
        "labels": {str(value): name for value, name in data.labels.items()},
        "postprocess": [step.model_dump(mode="json") for step in infer.postprocess],
    }


def _write_network(
    path: Path, network: nn.Module, model: TrainedModel, writer: Callable[[nn.Module, Tensor, Path], None]
) -> None:
    """Write one network, and run the file as the runner does: its logits must be torch's."""
    plan, channels = model.plan, len(model.data.channels)
    with tracing(path.suffix[1:], network):
        writer(network, flatten(make_window(channels, plan.patch), plan.dims), path)
    if path.suffix == ".onnx":
        require("onnxruntime")
    run = one_by_one(load_network(path, torch.get_num_threads()), plan.dims)
    require_equal(path.suffix[1:], run, network, make_window(channels, plan.patch, seed=1), plan.dims)


def _write_onnx(network: nn.Module, window_BC: Tensor, path: Path) -> None:
    write_bytes(path, to_onnx(network, window_BC))


def _write_openvino(network: nn.Module, window_BC: Tensor, path: Path) -> None:
    model = to_openvino(network, window_BC)
    require("openvino").save_model(model, path, compress_to_fp16=False)


def _write_torchscript(network: nn.Module, window_BC: Tensor, path: Path) -> None:
    to_torchscript(network, window_BC).save(str(path))


WRITERS = {"onnx": _write_onnx, "openvino": _write_openvino, "torchscript": _write_torchscript}
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torchscript": ".pt"}
