"""Predict stored cases that a fold held out: from the store alone, the scans are not needed again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg.core.files import make_folder
from medseg.data.store import StoredCase
from medseg.inference.segment import Segmenter
from medseg.workflows.infer import is_done, versions, write_mask, write_sidecar
from medseg.workflows.progress import Progress
from medseg.workflows.run_folder import RunFolder


def predict_stored(
    segmenter: Segmenter, run: RunFolder, cases: Sequence[StoredCase], part: str, *, progress: Progress
) -> None:
    """Write RUN/predictions/<part>/<id>.nii.gz (or .png) and a sidecar for every case.

    Args:
        segmenter: With the networks that have not seen the cases.
        run: The run.
        cases: From its store.
        part: "fold_K" or "test".
        progress: Told after each case.
    """
    out = make_folder(run.predictions(part))
    model = segmenter.model
    with progress.track(f"predict {part}", len(cases)) as advance:
        for case in cases:
            suffix = ".png" if case.reference.suffix == ".png" else ".nii.gz"
            identity = {
                "input_sha256": case.entry["key"],
                "model_sha256": model.sha256,
                "settings": model.infer.model_dump(mode="json"),
                "versions": versions(),
            }
            if not is_done(out, case.id, [f"{case.id}{suffix}"], identity):
                labels, _ = segmenter.segment(np.asarray(case.image[:]), case.placement)
                write_mask(out, case.id, labels, like=case.reference, suffix=suffix)
                write_sidecar(out, case.id, labels, model, identity, [])
            advance(case.id)
