"""infer: scans in, masks out; a case already done is skipped, a bad one is reported, the rest goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from medseg.core.errors import ConfigError, ResourceError
from medseg.core.files import make_folder, sweep
from medseg.data.cases import Case, pseudonymize, read_key
from medseg.data.inputs import find_inputs
from medseg.data.studies import Wanted
from medseg.inference.backends.choose import AUTO
from medseg.inference.model import load_model
from medseg.inference.modes import apply_mode, describe_effort, find_box
from medseg.inference.network import choose_device
from medseg.inference.segment import Segmenter
from medseg.inference.trained import TrainedModel
from medseg.inference.trust.watch import count_members
from medseg.workflows.foresight import TOO_LARGE, Foresight, count_windows
from medseg.workflows.machine import count_cores
from medseg.workflows.overlap import run_stages
from medseg.workflows.progress import Progress
from medseg.workflows.report import CaseResult, Report
from medseg.workflows.shard import Shard
from medseg.workflows.stages import CaseStages


def infer(
    inputs: Sequence[Path],
    model_path: Path,
    out: Path,
    *,
    progress: Progress,
    report: Report,
    key_file: Path,
    is_pseudonymous: bool = False,
    wanted: Wanted | None = None,
    formats: Sequence[str] = ("nifti",),
    save_probabilities: bool = False,
    save_uncertainty: bool = False,
    device: str = "auto",
    backend: str = "torch",
    threads: int | None = None,
    trust_code: bool = False,
    memory_gb: float | None = None,
    mode: str = "exact",
    folds: Sequence[int] | None = None,
    shard: Shard | None = None,
    is_tracked: bool = False,
    tell: Callable[[str], None] | None = None,
) -> TrainedModel:
    """Segment every input and write OUT/<id>.nii.gz (2D: .png), OUT/<id>.json and OUT/report.json.

    The next case is read, and the last cleaned and written, while one is predicted.

    Args:
        inputs: Images, folders of images, of patients or of DICOM files, or a table.
        model_path: A RUN folder or its model folder.
        out: OUT.
        progress: A step a case.
        report: Gets a result a case.
        key_file: The site's secret for pseudonyms, made on first use; ids of DICOM scans need it.
        is_pseudonymous: Whether other ids are pseudonyms too.
        wanted: Which series of a DICOM study, and what may be repaired.
        formats: Of `outputs.FORMATS`.
        save_probabilities: Whether to write OUT/<id>_prob.nii.gz too.
        save_uncertainty: Whether to write OUT/<id>_entropy.nii.gz and OUT/<id>_disagreement.nii.gz too.
        device: auto, cpu or cuda.
        backend: auto, torch, openvino or onnxruntime.
        threads: Of the CPU; None takes all.
        trust_code: Whether the model may use code from outside medseg.
        memory_gb: What a case may take; slower ways are chosen to keep within it. None: most of what is free.
        mode: Of `modes.MODES`.
        folds: Whose networks predict; None: all.
        shard: Which part of the cases; None: all. Others may be at work in the same OUT.
        is_tracked: Whether MLflow gets a run of it.
        tell: Gets a line about each case before it starts: windows and the forecast of its memory.

    Raises:
        ResourceError: INFER_MEMORY, after all other cases, where some need more.
        DataError: No input was found, or DICOM and other images are mixed.
        ConfigError: Masks would be written beside, or over, the scans; no such series or mode.
        CheckpointError: The model is missing, damaged or preprocesses differently.
    """
    torch.set_num_threads(threads or count_cores())
    loaded = load_model(model_path, choose_device(device), folds, trust_code=trust_code)
    model, how = apply_mode(loaded, mode)
    cases = find_inputs(inputs, model.data, partial(read_key, key_file), wanted)
    if is_pseudonymous:
        cases = pseudonymize(cases, key_file)
    _refuse_scans_in(out, inputs, cases)
    shard = shard or Shard()
    cases = shard.take(cases)
    make_folder(out)
    sweep(out)
    segmenter = make_segmenter(model, backend, cases, save_uncertainty=save_uncertainty)
    report.extra["backend"] = segmenter.decision.to_json()
    if backend == AUTO:
        progress.say(segmenter.decision.describe())
    foresee = Foresight(
        segmenter,
        memory_gb,
        tell,
        overlaps=may_overlap(segmenter),
        has_maps=save_uncertainty,
        has_probabilities=save_probabilities,
    )
    stages = CaseStages(
        segmenter,
        cases,
        out,
        foresee=foresee,
        find=partial(find_box, model) if how.is_located else None,
        save_probabilities=save_probabilities,
        save_uncertainty=save_uncertainty,
        formats=formats,
        settings={**describe_effort(model, how), **({"folds": [*folds]} if folds else {})},
        repairs=(wanted or Wanted()).settings,
    )
    works = [foresee.count_windows(case) for case in cases]
    with progress.track("infer", len(cases), works) as advance:

        def note(result: CaseResult) -> None:
            report.add(result)
            advance(result.id, is_free=result.status != "done")

        run_stages(len(cases), stages, note, lanes=count_lanes(segmenter, cases))
    if is_tracked:
        from medseg.workflows.tracked_infer import track_infer  # with MLflow's import, which takes seconds

        track_infer(report, model, out)
    report.write(out / shard.report_name)
    raise_if_too_large(report)
    return model


def make_segmenter(
    model: TrainedModel, backend: str, cases: Sequence[Case], *, save_uncertainty: bool
) -> Segmenter:
    """Return what predicts all cases of a command; a forecast of them needs the same."""
    n_windows = count_windows(model, cases) if backend == AUTO else None
    is_watched = save_uncertainty or model.trust is not None
    tells_disagreement = is_watched and count_members(model) > 1
    return Segmenter(
        model, model.infer, tells_disagreement=tells_disagreement, backend=backend, n_windows=n_windows
    )


def may_overlap(segmenter: Segmenter) -> bool:
    """Whether reading and writing beside the network keeps to the threads that were asked for.

    A cascade predicts while it reads: that would be two networks at once.
    """
    is_single = segmenter.device.type == "cpu" and torch.get_num_threads() == 1
    return not is_single and segmenter.model.previous is None


def count_lanes(segmenter: Segmenter, cases: Sequence[Case]) -> int:
    """Return how many threads beside the network read and write, each with one core.

    One where the network wants the cores too, or where there is DICOM: its reader has settings that belong to
    the whole process.
    """
    has_dicom = any(not isinstance(image, Path) for case in cases for image in case.images)
    return 1 if has_dicom or segmenter.device.type == "cpu" else 2


def raise_if_too_large(report: Report) -> None:
    """End with the exit code of the machine where cases were refused for it."""
    refused = [case for case in report.cases if case.code == TOO_LARGE]
    if refused:
        raise ResourceError(
            f"{len(refused)} of {len(report.cases)} cases need more memory than allowed; the first: "
            f"{refused[0].message}",
            hint=refused[0].hint or "",
            code="INFER_MEMORY",
        )


def _refuse_scans_in(out: Path, inputs: Sequence[Path], cases: Sequence[Case]) -> None:
    """Masks carry the names of their scans: in one folder they would replace them.

    Below a DICOM folder, which is read with all that lies below, they would be taken for inputs next time.
    """
    place = out.resolve()
    roots = [path.resolve() for path in inputs if path.is_dir()]
    for image in (image for case in cases for image in case.images):
        homes = {path.resolve().parent for path in ((image,) if isinstance(image, Path) else image.files)}
        is_among = not isinstance(image, Path) and any(
            place.is_relative_to(root) and home.is_relative_to(root) for root in roots for home in homes
        )
        if place in homes or is_among:
            raise ConfigError(
                "the output folder holds the scans", hint="choose another with -o", code="OUT_HOLDS_INPUT"
            )
