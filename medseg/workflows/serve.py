"""A model folder that answers encoded scans, as a server needs it: loaded once, one scan at a time.

What is done with a scan is what `medseg infer` does with its file, so the mask is the same byte for byte. The
scan lies in a private temporary folder while it is segmented, and nowhere afterwards.
"""

from __future__ import annotations

import base64
import binascii
import json
import tempfile
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from medseg.core.errors import DataError, FormatError
from medseg.core.files import make_folder, read_if_whole, write_bytes
from medseg.data.cases import Case
from medseg.inference.model import load_model
from medseg.inference.modes import apply_mode, describe_effort, find_box
from medseg.inference.network import choose_device
from medseg.io import FORMATS
from medseg.io.compression import GZIP_MAGIC
from medseg.workflows.foresight import Foresight
from medseg.workflows.infer import make_segmenter
from medseg.workflows.machine import count_cores
from medseg.workflows.report import CaseResult, Report
from medseg.workflows.stages import CaseStages

SCAN = "scan"  # the id of every case: a request has no name
SETTINGS: dict[str, Any] = {
    "device": "auto",
    "mode": "exact",
    "threads": 0,  # all
    "max_scan_mb": 512,
    "trust_code": False,
}
"""What who serves a model may change; see the arguments of `ScanServer`."""


class ScanServer:
    """A model ready for scans in base64.

    Args:
        folder: The model folder.
        device: auto, cpu or cuda.
        mode: Of `modes.MODES`.
        threads: Of the CPU; 0 takes all.
        max_scan_mb: Most MB a file may have; MEDSEG_MAX_IMAGE_GB bounds what it may unpack to.
        trust_code: Whether the model may use code from outside medseg.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "auto",
        mode: str = "exact",
        threads: int = 0,
        max_scan_mb: float = 512,
        trust_code: bool = False,
    ) -> None:
        torch.set_num_threads(threads or count_cores())
        loaded = load_model(folder, choose_device(device), trust_code=trust_code)
        self.model, how = apply_mode(loaded, mode)
        self._segmenter = make_segmenter(self.model, "torch", [], save_uncertainty=False)
        self._find = partial(find_box, self.model) if how.is_located else None
        self._settings = describe_effort(self.model, how)
        self._max_bytes = int(max_scan_mb * 1e6)
        self._turn = Lock()  # requests come in threads; two scans at once would share memory and cores

    def answer(self, encoded: object) -> dict[str, str | None]:
        """Return "mask", base64 of a .nii.gz, and "report", the JSON of `medseg infer` with its sidecar.

        A scan that is refused has no mask, and the report says why; nothing is raised for it.

        Args:
            encoded: Base64 of a .nii or .nii.gz file.
        """
        report = Report("infer")
        with self._turn, tempfile.TemporaryDirectory(prefix="medseg-") as private:
            work = Path(private)
            mask, sidecar = work / "out" / f"{SCAN}.nii.gz", work / "out" / f"{SCAN}.json"
            try:
                scan = self._write_scan(encoded, work)
            except DataError as error:
                report.add(CaseResult.of_error(SCAN, error))
            else:
                report.add(self._segment(scan, mask.parent))
                report.extra["sidecar"] = read_if_whole(sidecar)
            is_done = not report.bad_cases
            found = base64.b64encode(mask.read_bytes()).decode() if is_done else None
        return {"mask": found, "report": json.dumps(report.to_json(), sort_keys=True, allow_nan=False)}

    def _write_scan(self, encoded: object, folder: Path) -> Path:
        content = decode_scan(encoded, self._max_bytes)
        suffix = ".nii.gz" if content.startswith(GZIP_MAGIC) else ".nii"
        path = folder / f"{SCAN}{suffix}"
        write_bytes(path, content)
        return path

    def _segment(self, scan: Path, out: Path) -> CaseResult:
        stages = CaseStages(
            self._segmenter,
            [Case(SCAN, (scan,))],
            make_folder(out),
            foresee=Foresight(self._segmenter, None),
            find=self._find,
            settings=self._settings,
        )
        return stages.write(stages.predict(stages.read(0)))


def decode_scan(encoded: object, max_bytes: int) -> bytes:
    """Return the bytes of a NIfTI file in base64, line breaks allowed.

    Raises:
        DataError: SCAN_TOO_LARGE or SCAN_ENCODING.
        FormatError: SCAN_NOT_NIFTI.
    """
    text = encoded if isinstance(encoded, str) else ""
    if len(text) > max_bytes * 4 // 3 + max_bytes // 16 + 8:  # with breaks of lines
        raise DataError(
            f"the scan has more than {max_bytes / 1e6:g} MB",
            hint="compress it, or raise max_scan_mb of the server",
            code="SCAN_TOO_LARGE",
        )
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        content = b""
    if not content:
        raise DataError(
            "the scan is not base64, or there is nothing in it",
            hint='send {"nifti": base64 of a .nii or .nii.gz file}',
            code="SCAN_ENCODING",
        )
    if not FORMATS["nifti"].sniff(content[: 1 << 16]):
        raise FormatError(
            "the scan is not NIfTI", hint="medseg convert makes NIfTI of other files", code="SCAN_NOT_NIFTI"
        )
    return content
