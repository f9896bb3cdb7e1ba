"""docker/Dockerfile, read line by line: an image that is small, pinned and not root's."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
Line = tuple[str, str]


@pytest.fixture(scope="module")
def lines() -> list[Line]:
    """(instruction, rest) of every instruction, continuation lines joined, comments left out."""
    text = (ROOT / "docker/Dockerfile").read_text()
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", kept)
    pairs = (line.split(maxsplit=1) for line in joined.splitlines() if line.strip())
    return [(name.upper(), rest) for name, rest in pairs]


def rest_of(lines: list[Line], name: str) -> list[str]:
    return [rest for instruction, rest in lines if instruction == name]


def final_stage(lines: list[Line]) -> list[Line]:
    last = max(i for i, (name, _) in enumerate(lines) if name == "FROM")
    return lines[last:]


def test_it_builds_in_stages_and_the_last_has_no_compiler_or_sources(lines: list[Line]):
    assert len(rest_of(lines, "FROM")) >= 2
    copies = rest_of(final_stage(lines), "COPY")
    assert copies and all(rest.startswith("--from=") for rest in copies)


def test_the_base_is_an_argument_with_a_pinned_version(lines: list[Line]):
    assert lines[0][0] == "ARG"
    name, _, image = lines[0][1].partition("=")
    assert re.search(r":[\w.-]*\d", image), f"{image} names no version"
    bases = [rest.split()[0] for rest in rest_of(lines, "FROM")]
    assert set(bases) == {f"${{{name}}}"}


def test_nothing_is_the_latest(lines: list[Line]):
    assert not [rest for _, rest in lines if ":latest" in rest or rest.endswith("@latest")]


def test_it_does_not_run_as_root(lines: list[Line]):
    users = rest_of(final_stage(lines), "USER")
    assert users and users[-1].split(":")[0] not in {"root", "0"}


def test_it_starts_medseg_without_a_shell(lines: list[Line]):
    assert rest_of(final_stage(lines), "ENTRYPOINT") == ['["medseg"]']


def test_it_holds_no_secret_and_copies_no_whole_folder(lines: list[Line]):
    secret = re.compile(r"password|passwd|token|secret|api_?key|credential", re.IGNORECASE)
    assert not [rest for _, rest in lines if secret.search(rest)]
    assert not [rest for rest in rest_of(lines, "COPY") if rest.split()[-2:-1] == ["."]]
    assert not rest_of(lines, "ADD")


def test_installs_leave_no_cache_and_use_the_tested_versions(lines: list[Line]):
    installs = [rest for rest in rest_of(lines, "RUN") if "pip install" in rest]
    assert installs
    for rest in installs:
        assert "--mount=type=cache" in rest or "--no-cache-dir" in rest
        assert "-c constraints.txt" in rest


def test_everything_copied_is_let_through_to_the_builder(lines: list[Line]):
    allowed = {line[1:].strip("/") for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"}
    for rest in rest_of(lines, "COPY"):
        if not rest.startswith("--from="):
            for source in rest.split()[:-1]:
                assert source.strip("./") in {name.strip("./") for name in allowed}, source


def test_the_constraints_pin_every_version():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line.strip() and not line.startswith("#")]
    assert pins and all("==" in line for line in pins)


@pytest.fixture(scope="module")
def team() -> dict:
    return yaml.safe_load((ROOT / "docker/compose.yaml").read_text())


def test_only_the_proxy_of_a_team_is_published_and_only_with_tls(team: dict):
    assert {name: entry.get("ports") for name, entry in team["services"].items() if "ports" in entry} == {
        "proxy": ["443:443"]
    }
    assert team["networks"]["inside"] == {"internal": True}
    inner = {name for name, entry in team["services"].items() if entry["networks"] == ["inside"]}
    assert inner == {"database", "mlflow"}


def test_the_proxy_asks_for_a_login_before_everything():
    text = (ROOT / "docker/Caddyfile").read_text()
    site = text[text.index("{$NAME} {") :]
    assert re.search(r"^\tbasic_auth \{\n\t\timport /etc/caddy/users$", site, re.M)  # no matcher: all paths
    assert re.search(r"^\ttls ", site, re.M) and "reverse_proxy mlflow:5000" in site


def test_the_file_for_a_team_holds_no_password_and_pins_its_images(team: dict):
    text = (ROOT / "docker/compose.yaml").read_text()
    assert not re.search(r"PASSWORD: |:[^@$\s]+@", text)
    assert all(entry["file"].startswith("${MLFLOW_SECRETS:?") for entry in team["secrets"].values())
    images = [entry["image"] for entry in team["services"].values() if "image" in entry]
    assert images and all(re.search(r":\d+\.\d+", image) for image in images)


def test_mlflow_for_a_team_has_what_the_local_one_has(team: dict):
    from medseg.tracking.place import SETTINGS

    server = team["services"]["mlflow"]
    of_servers = ("DISABLE_TELEMETRY", "SERVER_ENABLE_JOB_EXECUTION", "ALLOW_PICKLE_DESERIALIZATION")
    safe = {f"MLFLOW_{name}": SETTINGS[f"MLFLOW_{name}"] for name in of_servers}
    assert safe.items() <= server["environment"].items()
    assert "--allowed-hosts" in server["command"][0] and "*" not in server["command"][0]
