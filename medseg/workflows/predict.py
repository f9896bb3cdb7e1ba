"""Predict stored cases that a fold held out: from the store alone, the scans are not needed again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg.core.files import make_folder
from medseg.data.store import StoredCase
from medseg.inference.segment import Segmenter
from medseg.io import mask_suffix
from medseg.workflows.outputs import measure_labels, write_mask
from medseg.workflows.progress import Progress
from medseg.workflows.run_folder import RunFolder
from medseg.workflows.sidecar import find_versions, hash_outputs, is_done, write_sidecar
from medseg.workflows.trust import RECORD, Recorder


def predict_stored(
    segmenter: Segmenter,
    run: RunFolder,
    cases: Sequence[StoredCase],
    part: str,
    *,
    progress: Progress,
    is_recorded: bool = True,
) -> None:
    """Write RUN/predictions/<part>/<id>.nii.gz (or .png), a record and a sidecar for every case.

    Args:
        segmenter: With the networks that have not seen the cases.
        run: The run.
        cases: From its store.
        part: "fold_K" or "test".
        progress: Told after each case.
        is_recorded: Whether to write <id>_trust.safetensors, which trust is learnt from.
    """
    out = make_folder(run.predictions(part))
    model = segmenter.model
    with progress.track(f"predict {part}", len(cases)) as advance:
        for case in cases:
            mask, sidecar = f"{case.id}{mask_suffix(case.reference)}", out / f"{case.id}.json"
            identity = {
                "input_sha256": case.entry["key"],
                "model_sha256": model.networks_sha256,
                "settings": segmenter.settings.model_dump(mode="json"),
                "versions": find_versions("torch", "numpy"),
            }
            names = [mask, f"{case.id}{RECORD}"] if is_recorded else [mask]
            if not is_done(out, case.id, names, identity):
                image = np.asarray(case.image[:])
                recorder = Recorder(model, case, image) if is_recorded else None
                observers = [recorder.observe] if recorder else []
                labels, _ = segmenter.segment(image, case.placement, observers=observers)
                sidecar.unlink(missing_ok=True)  # it vouches for the mask, and a kill may come in between
                write_mask(out / mask, labels, like=case.reference)
                if recorder:
                    recorder.write(out / names[1])
                made, volumes = hash_outputs(out, names), measure_labels(labels, model.data)
                write_sidecar(sidecar, identity, labels.geometry, outputs=made, labels=volumes, warnings=[])
            advance(case.id)
