"""How the command line starts: at once, and with nothing heavy."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from safetensors.torch import save

from medseg import __version__
from medseg.core.settings import Builder
from medseg.data.settings import Channel, Data
from medseg.inference.model import save_model
from medseg.inference.network import build_network
from medseg.io import write_volume
from tests.builders import make_plan
from tests.tiny import make_case, medseg

HEAVY = ("torch", "monai", "mlflow", "SimpleITK", "scipy", "matplotlib")
VERBS = ("check", "plan", "preprocess", "train", "run", "infer", "evaluate", "phantom", "list")
PROBE = """
import sys
from medseg.cli import main
sys.argv = ["medseg", *sys.argv[1:]]
try:
    main()
finally:
    print("HEAVY", sorted(set(sys.modules) & {heavy}), file=sys.stderr)
""".replace("{heavy}", repr(set(HEAVY)))


def probe(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROBE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["infer", "--help"], ["list", "pipelines"]])
def test_looking_around_imports_nothing_heavy(arguments: list[str]):
    result = probe(*arguments)
    assert result.returncode == 0 and result.stderr.endswith("HEAVY []\n"), result.stderr


def test_inference_imports_torch_and_nothing_else_heavy(tmp_path: Path):
    plan, options = make_plan(patch=(8, 8, 8)), {"size": "nano"}
    data = Data(channels={"mr": Channel(normalize="none")}, labels={1: "organ"})
    network = build_network(Builder(name="light_unet", options=options), plan, 1, 2)
    description = {
        "name": "light",
        "data": data.model_dump(mode="json"),
        "model": {"name": "light_unet", "options": options},
        "infer": {},
    }
    save_model(tmp_path / "model", description, plan, {0: save(network.state_dict())}, {})
    image, _ = make_case(0)
    write_volume(tmp_path / "scan.nii.gz", image)
    result = probe("infer", tmp_path / "scan.nii.gz", "-m", tmp_path / "model", "-o", tmp_path / "out")
    assert (tmp_path / "out" / "scan.nii.gz").exists(), result.stderr
    assert result.stderr.endswith("HEAVY ['scipy', 'torch']\n"), result.stderr


def test_an_unknown_key_is_refused_with_a_suggestion_before_anything_heavy_is_imported(tmp_path: Path):
    result = probe(
        *("run", "phantom_ct", "--data", tmp_path, "-o", tmp_path / "RUN", "--set", "train.epoch=3")
    )
    assert result.returncode == 2
    assert "UNKNOWN_KEY" in result.stderr and "did you mean `epochs`?" in result.stderr
    assert result.stderr.endswith("HEAVY []\n") and not (tmp_path / "RUN").exists()


def test_it_runs_as_a_module():
    command = [sys.executable, "-m", "medseg", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == f"medseg {__version__}\n"


def test_the_console_script_is_the_same_command():
    tree = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert tree["project"]["scripts"] == {"medseg": "medseg.cli:main"}


def test_help_names_every_verb():
    result = medseg("--help")
    verbs = [
        "check",
        "plan",
        "preprocess",
        "train",
        "run",
        "infer",
        "evaluate",
        "phantom",
        "list",
        "ui",
        "doctor",
        "config",
    ]
    assert result.exit_code == 0 and all(f" {verb} " in result.stdout for verb in verbs)


@pytest.mark.parametrize(
    "verb", ["check", "plan", "preprocess", "train", "run", "infer", "evaluate", "phantom", "list", "doctor"]
)
def test_every_verb_explains_itself_with_an_example(verb: str):
    result = medseg(verb, "--help")
    assert result.exit_code == 0 and f"medseg {verb}" in result.stdout


def test_an_unknown_verb_is_a_usage_error():
    assert medseg("trian").exit_code == 2
