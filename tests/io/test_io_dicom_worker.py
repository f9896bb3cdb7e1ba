"""The process that decodes compressed frames, from outside and from inside."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.core.errors import FormatError, ResourceError
from medseg.io.dicom.pixels import decoder, worker
from medseg.io.dicom.pixels.codecs import CODECS
from medseg.io.dicom.pixels.decode import decode_frames
from medseg.io.dicom.pixels.decoder import Decoder
from medseg.io.dicom.scan import Instance
from tests import dicom_streams
from tests.dicom_compress import compress, compress_jpeg_lossless
from tests.dicom_pixels import DEFLATED, JPEG, RLE, make_frame, ramp, write_compressed, write_native

RAMP = ramp("u2")


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    return write_compressed(tmp_path / "a.dcm", RAMP, RLE, [compress(RAMP, RLE, 16)])


class Misbehaving(Decoder):
    """Runs another program instead of the worker."""

    program = ""

    def _start(self) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                decoder.subprocess,
                "Popen",
                lambda command, **options: POPEN([*PYTHON, self.program], **options),
            )
            return super()._start()


POPEN, PYTHON = decoder.subprocess.Popen, [sys.executable, "-c"]
READY = "import os, sys; print('{}', flush=True); sys.stdin.readline(); "


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("os.abort()", "crashed on a compressed frame \\(signal 6\\)"),
        ("os.kill(os.getpid(), 9)", "crashed on a compressed frame \\(signal 9\\)"),
        ("sys.exit(1)", "refuses a compressed frame"),
        ("import time; time.sleep(60)", "stopped after 0 s"),
        ("print('{\"bytes\": 9999999}', flush=True)", "(crashed|refuses)"),
        ("print('{\"bytes\": 240', flush=True)", "(crashed|refuses)"),
        ("print('[]', flush=True)", "(crashed|refuses)"),
        ('print(\'{"bytes": 240, "dtype": "O", "precision": 16}\' + "\\n" + "x" * 240)', "makes no sense"),
        ('print(\'{"bytes": 2, "dtype": "<u2", "precision": 16}\' + "\\nxx")', "makes no sense"),
    ],
)
def test_a_decoder_that_dies_hangs_or_lies_is_an_error_of_the_case(
    instance: Instance, monkeypatch: pytest.MonkeyPatch, program: str, message: str
) -> None:
    monkeypatch.setattr(decoder, "WAIT_S", 0.2)
    monkeypatch.setattr(decoder, "WAIT_FACTOR", 0)
    monkeypatch.setattr(Misbehaving, "program", READY + program)
    with Misbehaving() as broken, pytest.raises(FormatError, match=message) as error:
        broken.decode(make_frame(instance))
    assert error.value.code == "DICOM_DECODE"


def test_an_inflated_frame_of_another_length_makes_no_sense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = write_native(tmp_path / "a.dcm", RAMP, DEFLATED)
    monkeypatch.setattr(Misbehaving, "program", READY + "print('{\"bytes\": 2}\\nxx')")
    with Misbehaving() as broken, pytest.raises(FormatError, match="makes no sense"):
        broken.read_inflated(make_frame(instance), 240)


def test_a_decoder_that_cannot_start_is_the_machines_fault(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Misbehaving, "program", "import sys; sys.exit(1)")
    with Misbehaving() as broken, pytest.raises(ResourceError) as error:
        broken.decode(make_frame(instance))
    assert error.value.code == "DECODER_START"


def test_no_process_is_left_when_not_all_frames_are_asked_for(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def start(*args: Any, **options: Any) -> Any:
        started.append(POPEN(*args, **options))
        return started[-1]

    monkeypatch.setattr(decoder.subprocess, "Popen", start)
    frames = decode_frames([make_frame(instance)] * 3)
    next(frames)
    frames.close()  # type: ignore[attr-defined]
    assert [process.returncode is None for process in started] == [False]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not bound memory and time")
@pytest.mark.parametrize(
    ("codec", "message"), [("bytes(1 << 31)", "more memory"), ("max(iter(int, 1))", "stopped after")]
)
def test_a_codec_that_takes_too_much_memory_or_time_is_stopped(
    instance: Instance, monkeypatch: pytest.MonkeyPatch, codec: str, message: str
) -> None:
    monkeypatch.setattr(decoder, "GRACE_S", 0.0)
    program = (
        "from types import SimpleNamespace as Codec; from medseg.io.dicom.pixels import worker; "
        f"worker.CODECS['{RLE}'] = Codec(decode=lambda stream, pixels: {codec}); worker.main()"
    )
    monkeypatch.setattr(Misbehaving, "program", program)
    with Misbehaving() as broken, pytest.raises(FormatError, match=message) as error:
        broken.decode(make_frame(instance))
    assert error.value.code == "DICOM_DECODE"


# The worker's side, in this process


def ask(*requests: dict[str, Any], heard: bytes = b"") -> list[tuple[dict[str, Any], bytes]]:
    """Return the worker's replies."""
    replies = io.BytesIO()
    worker.serve([json.dumps(request).encode() for request in requests], replies, listen=lambda: heard)
    replies.seek(0)
    found = []
    while line := replies.readline():
        reply = json.loads(line)
        found.append((reply, replies.read(reply.get("bytes", 0))))
    return found


def request_of(instance: Instance, index: int = 0) -> dict[str, Any]:
    assert instance.pixels is not None
    return {"path": str(instance.path), "index": index, "pixels": asdict(instance.pixels), "seconds": 1}


def test_the_worker_answers_with_values_and_their_precision(tmp_path: Path) -> None:
    instance = write_compressed(tmp_path / "a.dcm", RAMP, JPEG + "51", [dicom_streams.JPEG_12], BitsStored=12)
    ((reply, data),) = ask(request_of(instance))
    assert reply == {"bytes": 240, "dtype": "<u2", "precision": 12}
    np.testing.assert_array_equal(np.frombuffer(data, "<u2").reshape(12, 10), RAMP * 30)


def test_the_worker_answers_with_bytes_of_a_deflated_frame(tmp_path: Path) -> None:
    frames = ramp("u2", frames=2)
    instance = write_native(tmp_path / "a.dcm", frames, DEFLATED)
    replies = ask(request_of(instance, 1), request_of(instance, 0))
    assert [data for _, data in replies] == [frames[1].tobytes(), frames[0].tobytes()]


def test_the_worker_goes_on_after_a_refusal(tmp_path: Path, instance: Instance) -> None:
    bad = write_compressed(tmp_path / "bad.dcm", RAMP, RLE, [b"no"])
    refused, answered = ask(request_of(bad), request_of(instance))
    assert (refused[0]["code"], len(answered[1])) == ("DICOM_DECODE", 240)


def test_the_worker_refuses_what_a_library_calls_corrupt(tmp_path: Path) -> None:
    instance = write_compressed(tmp_path / "a.dcm", RAMP, JPEG + "70", [compress_jpeg_lossless(RAMP, 16)])
    ((reply, _),) = ask(request_of(instance), heard=b"Corrupt JPEG data: premature end of data segment\n")
    assert reply["code"] == "DICOM_DECODE"


@pytest.mark.parametrize(("raised", "code"), [(MemoryError, "DICOM_DECODE"), (ImportError, "DICOM_DECODER")])
def test_the_worker_tells_missing_memory_and_missing_libraries(
    instance: Instance, monkeypatch: pytest.MonkeyPatch, raised: type[Exception], code: str
) -> None:
    def fail(stream: bytes, pixels: object) -> Any:
        raise raised

    monkeypatch.setitem(CODECS, RLE, replace(CODECS[RLE], decode=fail))
    ((reply, data),) = ask(request_of(instance))
    assert (reply["code"], data) == (code, b"")


def test_a_larger_frame_may_take_more_memory_and_a_later_one_more_time(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, int]] = []
    monkeypatch.setattr(worker, "_held_bytes", lambda: 0)
    monkeypatch.setattr(worker, "_set_limit", lambda name, value: asked[-1].update({name: value}))
    assert instance.pixels is not None
    asked.append({})
    limits = worker.Limits()
    for rows, seconds in ((12, 5.0), (1012, 15.0)):
        asked.append({})
        frame = replace(instance.pixels, rows=rows)
        limits.set(worker.Request(instance.path, 0, frame, seconds))
    assert asked[0] == {"RLIMIT_CORE": 0, "RLIMIT_FSIZE": 0}
    assert asked[2]["RLIMIT_AS"] - asked[1]["RLIMIT_AS"] == 1000 * 10 * worker.BYTES_PER_PIXEL
    assert asked[2]["RLIMIT_CPU"] - asked[1]["RLIMIT_CPU"] == 10
