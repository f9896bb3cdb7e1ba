"""The parent's side of worker.py: start it, ask it, watch the clock, and doubt what comes back."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import FormatError, ResourceError
from medseg.io.dicom.scan import Frame

START_S = 60.0  # to import numpy and pydicom, on a cold disk
GRACE_S = 3.0
FRAME_S, PIXEL_S = 0.1, 1e-6
"""CPU time that decoding may take: three seconds in all, and for each frame what the slowest codec needs
several times over (JPEG 2000 of 512 x 512: 0.05 s). So the whole is bounded too, not only each frame."""

WAIT_S, WAIT_FACTOR = 20.0, 10.0
"""Time by the clock for a frame, and how much longer it is than CPU time on a busy machine. It ends what
waits without working, and what works where the system cannot limit CPU time."""

MAX_LINE_BYTES = 1 << 12
DTYPES = {"|u1", "|i1", "<u2", "<i2", "<u4", "<i4"}


class Decoder:
    """Decodes frames in a process of its own, which starts with the first frame and ends with the context."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._granted_s = GRACE_S

    def __enter__(self) -> Decoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what is left unsent stays unsent
                    pipe.close()
        self._process.wait()

    def decode(self, frame: Frame) -> tuple[NDArray[Any], int]:
        """Return a frame's values, (rows, columns), with the bits that each has in the stream.

        Raises:
            FormatError: DICOM_DECODE, DICOM_DECODER, DICOM_TRUNCATED or DICOM_COLOUR.
            ResourceError: DECODER_START.
        """
        reply, data = self._ask(frame)
        pixels = frame.instance.pixels
        assert pixels is not None
        dtype, precision = reply.get("dtype"), reply.get("precision")
        shape = pixels.rows, pixels.columns
        if dtype not in DTYPES or not isinstance(precision, int) or not 1 <= precision <= 32:
            raise _broken("the decoder's answer makes no sense")
        if len(data) != shape[0] * shape[1] * np.dtype(str(dtype)).itemsize:
            raise _broken("the decoder's answer makes no sense")
        return np.frombuffer(data, str(dtype)).reshape(shape), precision

    def read_inflated(self, frame: Frame, count: int) -> NDArray[np.uint8]:
        """Return the `count` bytes that hold a frame of a deflated file."""
        _, data = self._ask(frame)
        if len(data) != count:
            raise _broken("the decoder's answer makes no sense")
        return np.frombuffer(data, np.uint8)

    def _ask(self, frame: Frame) -> tuple[dict[str, Any], bytearray]:
        pixels = frame.instance.pixels
        assert pixels is not None
        if self._process is None:
            self._process = self._start()
        grant_s = FRAME_S + PIXEL_S * pixels.rows * pixels.columns
        self._granted_s += grant_s
        request = {
            "path": os.fspath(frame.instance.path.absolute()),
            "index": frame.index,
            "pixels": asdict(pixels),
            "seconds": self._granted_s,
        }
        line = json.dumps(request).encode() + b"\n"
        most = 8 * pixels.rows * pixels.columns + 8
        reply, data = self._exchange(line, most, WAIT_S + WAIT_FACTOR * grant_s)
        if "code" in reply:
            message, hint, code = (str(reply.get(key, ""))[:300] for key in ("message", "hint", "code"))
            raise FormatError(message, hint=hint, code=code)
        return reply, data

    def _start(self) -> subprocess.Popen[bytes]:
        """Start the worker; it finds the modules that this process finds, and uses one thread."""
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-B", "-P", "-m", "medseg.io.dicom.pixels.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        try:
            self._exchange(b"", 0, START_S)
        except FormatError as error:
            raise ResourceError(
                "the process that decodes compressed images cannot start",
                hint="try again with more memory; `python -m medseg.io.dicom.pixels.worker` shows why",
                code="DECODER_START",
            ) from error
        return self._process

    def _exchange(self, line: bytes, most: int, limit_s: float) -> tuple[dict[str, Any], bytearray]:
        """Send a line; return the reply and at most `most` bytes, within a time limit."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        watch = threading.Timer(limit_s, process.kill)
        watch.start()
        started = time.monotonic()
        try:
            process.stdin.write(line)
            process.stdin.flush()
            reply = json.loads(process.stdout.readline(MAX_LINE_BYTES))
            count = reply.get("bytes", 0)
            if not isinstance(count, int) or not 0 <= count <= most:
                raise ValueError("a number of bytes that no frame has")
            data = bytearray(count)
            if process.stdout.readinto(data) != count:  # type: ignore[attr-defined]
                raise EOFError
        except (ValueError, AttributeError, EOFError, BrokenPipeError) as error:
            process.kill()
            raise self._explain(time.monotonic() - started, limit_s) from error
        finally:
            watch.cancel()
        return reply, data

    def _explain(self, taken_s: float, limit_s: float) -> FormatError:
        """Say why there is no answer."""
        assert self._process is not None
        status = self._process.wait()
        if taken_s >= limit_s or status == -getattr(signal, "SIGXCPU", 0):
            return _broken(f"decoding a frame was stopped after {taken_s:.0f} s")
        if status > 0:
            return _broken("the decoder refuses a compressed frame")
        return _broken(f"the decoder crashed on a compressed frame (signal {-status})")


def _broken(message: str) -> FormatError:
    return FormatError(
        message, hint="the compressed pixels are damaged; export the series again", code="DICOM_DECODE"
    )
