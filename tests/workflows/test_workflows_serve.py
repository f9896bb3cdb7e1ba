"""A model folder that MLflow serves gives the mask that `medseg infer` gives."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np
import pytest

from medseg.core.errors import DataError
from medseg.core.volume import Volume
from medseg.io import write_volume
from medseg.tracking.place import SETTINGS as MLFLOW_SETTINGS
from medseg.tracking.registry import save_servable
from medseg.tracking.ui import _choose_port
from medseg.workflows import serve
from medseg.workflows.promote import CODE
from medseg.workflows.serve import ScanServer, decode_scan
from tests.mlflow_server import serving
from tests.shown import ROOT
from tests.tiny import make_case, medseg


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        for name in (*MLFLOW_SETTINGS, "_MLFLOW_SERVER_ARTIFACT_ROOT"):
            patch.setenv(name, "")
            patch.delenv(name)
        patch.setenv("MEDSEG_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("LOGNAME", "drsmith")
        yield patch


@pytest.fixture(scope="module")
def servable(
    environment: pytest.MonkeyPatch, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder as `medseg promote` uploads it, made in a folder with a uv project of somebody else."""
    here = tmp_path_factory.mktemp("clinic")
    for name in ("uv.lock", "pyproject.toml"):
        (here / name).write_text("")
    folder = tmp_path_factory.mktemp("served") / "servable"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        save_servable(CODE, tiny_run / "model", folder, {**serve.SETTINGS, "threads": 1, "device": "cpu"})
    return folder


@pytest.fixture(scope="module")
def model(servable: Path) -> Any:
    import mlflow.pyfunc

    return mlflow.pyfunc.load_model(str(servable))


@pytest.fixture(scope="module")
def scan(tiny_cohort: Path) -> Path:
    return tiny_cohort / "imagesTr" / "subject-a7.nii.gz"


@pytest.fixture(scope="module")
def inferred(scan: Path, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mask of `medseg infer`, its sidecar beside it."""
    out = tmp_path_factory.mktemp("inferred")
    command = ("infer", scan, "-m", tiny_run, "-o", out, "--threads", "1", "--device", "cpu", "--quiet")
    assert medseg(*command).exit_code == 0
    return out / scan.name


def encode(content: bytes) -> str:
    return base64.b64encode(content).decode()


def ask(model: Any, *encoded: object) -> list[dict[str, Any]]:
    import pandas as pd

    return list(model.predict(pd.DataFrame({"nifti": list(encoded)})))


def read_case(answer: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(answer["report"])["cases"][0])


def test_loaded_without_pickle_it_gives_the_bytes_of_infer(model, scan, inferred):
    import mlflow.environment_variables as settings

    assert settings.MLFLOW_ALLOW_PICKLE_DESERIALIZATION.get() is False
    [answer] = ask(model, encode(scan.read_bytes()))
    assert base64.b64decode(answer["mask"]) == inferred.read_bytes()


def test_the_report_holds_the_sidecar_of_infer(model, scan, inferred):
    report = json.loads(ask(model, encode(scan.read_bytes()))[0]["report"])
    expected = json.loads(inferred.with_name("subject-a7.json").read_text())
    for key in ("grid", "input_sha256", "labels", "model_sha256", "settings", "trust", "versions"):
        assert report["sidecar"][key] == expected[key]
    assert (report["command"], report["exit_code"], report["cases"][0]["id"]) == ("infer", 0, "scan")


def test_an_uncompressed_scan_gets_the_same_mask(model, scan, inferred):
    [answer] = ask(model, encode(gzip.decompress(scan.read_bytes())))
    assert base64.b64decode(answer["mask"]) == inferred.read_bytes()


def test_a_scan_that_is_refused_does_not_stop_the_next_one(model, scan):
    cut = encode(scan.read_bytes()[:-40])
    bad, good = ask(model, cut, encode(scan.read_bytes()))
    assert (bad["mask"], read_case(bad)["status"], read_case(bad)["code"]) == (
        None,
        "rejected",
        "NII_TRUNCATED",
    )
    assert json.loads(bad["report"])["exit_code"] == 3 and good["mask"]


@pytest.mark.parametrize(
    ("encoded", "code"),
    [
        ("not base64!", "SCAN_ENCODING"),
        ("", "SCAN_ENCODING"),
        (None, "SCAN_ENCODING"),
        (7, "SCAN_ENCODING"),
        ("é" * 8, "SCAN_ENCODING"),
        (encode(b"\x89PNG\r\n\x1a\n" + bytes(400)), "SCAN_NOT_NIFTI"),
        (encode(b"ObjectType = Image\nElementDataFile = /etc/passwd\n"), "SCAN_NOT_NIFTI"),
        (encode(b"\x1f\x8b" + bytes(100)), "SCAN_NOT_NIFTI"),
        ("A" * 2000, "SCAN_TOO_LARGE"),
    ],
)
def test_what_is_no_scan_is_refused_with_a_code(encoded, code):
    with pytest.raises(DataError) as caught:
        decode_scan(encoded, 1000)
    assert caught.value.code == code


def test_base64_in_lines_is_read(scan):
    content = scan.read_bytes()
    assert decode_scan(base64.encodebytes(content).decode(), len(content)) == content


def test_nothing_of_a_scan_stays_on_the_disk(model, scan, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ask(model, encode(scan.read_bytes()), encode(scan.read_bytes()[:-40]))
    assert list(tmp_path.iterdir()) == []


def test_texts_of_the_header_are_in_no_answer(model, scan):
    named = bytearray(gzip.decompress(scan.read_bytes()))
    named[148:228] = b"DOE^JANE 1970-01-01".ljust(80, b"\0")  # descrip
    [answer] = ask(model, encode(bytes(named)))
    mask = gzip.decompress(base64.b64decode(answer["mask"]))
    assert b"DOE" not in mask and "DOE" not in answer["report"]


def test_a_scan_with_other_channels_is_refused(model, tmp_path):
    image, _ = make_case(0)
    write_volume(tmp_path / "two.nii.gz", Volume(np.repeat(image.array, 2, axis=0), image.geometry))
    [answer] = ask(model, encode((tmp_path / "two.nii.gz").read_bytes()))
    assert answer["mask"] is None and read_case(answer)["code"] == "CHANNELS"


def test_the_fast_mode_is_a_setting(tiny_run, scan):
    server = ScanServer(tiny_run / "model", device="cpu", mode="fast", threads=1)
    report = json.loads(server.answer(encode(scan.read_bytes()))["report"])
    assert report["sidecar"]["settings"]["where"] != "everywhere"


def test_the_folder_names_no_user_no_machine_and_nothing_of_the_current_folder(servable, tiny_run):
    files = [path for path in servable.rglob("*") if path.is_file()]
    text = b"\n".join(path.read_bytes() for path in files).decode(errors="replace")
    for secret in ("drsmith", str(tiny_run), str(servable), str(Path.cwd()), sys.prefix, "http", "subject-"):
        assert secret not in text
    names = {path.name for path in files}
    assert not names & {"uv.lock", "pyproject.toml"} and not any(name.endswith(".pkl") for name in names)


def test_the_signature_says_what_goes_in_and_comes_out(model):
    signature = model.metadata.signature
    assert signature.inputs.input_names() == ["nifti"]
    assert signature.outputs.input_names() == ["mask", "report"]


def test_the_code_of_the_model_takes_the_defaults_where_no_settings_are_stored(tiny_run, environment, model):
    from medseg.workflows.served import Served

    served = Served()
    served.load_context(SimpleNamespace(artifacts={"model": str(tiny_run / "model")}, model_config=None))
    import pandas as pd

    [answer] = served.predict(None, pd.DataFrame({"nifti": ["?"]}))
    assert read_case(answer)["code"] == "SCAN_ENCODING"


@pytest.fixture(scope="module")
def address(tiny_run: Path, tiny_home: Path) -> Iterator[str]:
    """`mlflow models serve`, as docs/serving.md has it, of the model that the run registered."""
    port, activated = _choose_port("127.0.0.1", 0), f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    store = f"sqlite:///{tiny_home}/mlflow.db"
    page = (ROOT / "docs" / "serving.md").read_text()
    (shown,) = re.findall("^mlflow models serve .*", page, re.MULTILINE)
    words = {"models:/hippocampus_mr@champion": "models:/phantom_ct/1", "5001": str(port)}
    assert words.keys() <= set(shown.split())
    environment = {**os.environ, **MLFLOW_SETTINGS, "MLFLOW_TRACKING_URI": store, "PATH": activated}
    command = [words.get(word, word) for word in shown.split()[1:]]
    with serving(command, port, environment) as server:
        yield f"{server}/invocations"


@pytest.mark.parametrize("wrap", ["dataframe_records", "inputs", "instances"])
def test_the_registered_model_served_answers_a_scan_with_the_mask_of_infer(wrap, address, scan, inferred):
    body = json.dumps({wrap: [{"nifti": encode(scan.read_bytes())}]}).encode()
    request = Request(address, body, {"Content-Type": "application/json"})  # noqa: S310 - loopback
    with build_opener(ProxyHandler({})).open(request, timeout=60) as reply:
        [answer] = json.load(reply)["predictions"]
    assert base64.b64decode(answer["mask"]) == inferred.read_bytes()
