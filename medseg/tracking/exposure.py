"""Serving MLflow beyond this machine: only where it is asked for twice, and with a list of what is missing.

MLflow 3 answers requests by the names it was given only, since a web page elsewhere could otherwise reach a
server on this machine through a name of its own (DNS rebinding), and takes changes from pages of the same
names only. Its own list holds loopback and, for reading, addresses of private networks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from medseg.core.errors import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - every interface -> how this machine reaches it
NAME = re.compile(r"[A-Za-z0-9.-]+|[0-9A-Fa-f]*:[0-9A-Fa-f:]*:[0-9A-Fa-f:]*")  # no wildcard, no port


def check_exposure(host: str, names: Sequence[str], *, is_open: bool) -> None:
    """Refuse to listen beyond loopback unless it is meant, and names that MLflow would misread.

    Raises:
        ConfigError: UI_NOT_LOOPBACK or UI_HOST_INVALID.
    """
    if host not in LOOPBACK and not is_open:
        raise ConfigError(
            f"the interface is served on loopback only, not on {host}",
            hint="reach it from elsewhere through an SSH tunnel: ssh -L 5000:127.0.0.1:5000 MACHINE; "
            "or add --without-login where everyone on that network may read, change and delete runs",
            code="UI_NOT_LOOPBACK",
        )
    for name in (host, *names):
        if not NAME.fullmatch(name):
            raise ConfigError(
                f"`{name}` is not the name or address of a machine",
                hint="give names as browsers show them, without port: --allowed-host mlflow.example",
                code="UI_HOST_INVALID",
            )


def reach(host: str, port: int) -> str:
    """Return the address by which this machine reaches a server that listens on `host`."""
    return f"http://{_bracket(ANY.get(host, host))}:{port}"


def list_names(host: str, names: Sequence[str]) -> list[str]:
    """Return the names that the server answers to, beside loopback."""
    own = [] if host in LOOPBACK or host in ANY else [host]
    return list(dict.fromkeys([*own, *names]))


def make_options(host: str, port: int, names: Sequence[str]) -> list[str]:
    """Return the options of `mlflow server` that let browsers in by these names; none on loopback.

    A reverse proxy passes its own name on, without this port and perhaps with TLS.
    """
    others = [_bracket(name) for name in list_names(host, names)]
    if not others:
        return []
    hosts = [_bracket(name) for name in (*LOOPBACK, *list_names(host, names))]
    allowed = [form for name in hosts for form in (name, f"{name}:{port}")]
    origins = [
        form for name in others for form in (f"http://{name}:{port}", f"http://{name}", f"https://{name}")
    ]
    return ["--allowed-hosts", ",".join(allowed), "--cors-allowed-origins", ",".join(origins)]


def list_missing(host: str, names: Sequence[str]) -> list[str]:
    """Return what stands between these runs and everyone on the network: sentences, none on loopback."""
    if host in LOOPBACK:
        return []
    known = list_names(host, names)
    answers = (
        f"it answers to {', '.join(known)}"
        if known
        else "it answers to loopback names only: browsers elsewhere are refused until --allowed-host names it"
    )
    return [
        "no login: whoever reaches the port can read, change and delete runs and models",
        "no encryption: what is shown, case ids too, passes the network in the clear",
        f"allowed hosts: {answers}",
    ]


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host
