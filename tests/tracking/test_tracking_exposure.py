"""Beyond loopback MLflow is served only where it is meant, by names, and with a list of what is missing."""

import pytest

from medseg.core.errors import ConfigError
from medseg.tracking.exposure import check_exposure, list_missing, make_options, reach

EVERYWHERE = "0.0.0.0"  # noqa: S104 - nothing listens in these tests


@pytest.mark.parametrize("host", [EVERYWHERE, "::", "192.0.2.1", "clinic.example"])
def test_other_hosts_than_loopback_are_refused_unless_they_are_meant(host: str):
    with pytest.raises(ConfigError) as error:
        check_exposure(host, (), is_open=False)
    assert error.value.code == "UI_NOT_LOOPBACK"
    check_exposure(host, (), is_open=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_loopback_needs_no_flag_no_option_and_misses_nothing(host: str):
    check_exposure(host, (), is_open=False)
    assert make_options(host, 5000, ()) == [] and list_missing(host, ()) == []


@pytest.mark.parametrize("name", ["*", "a,b", "a b", "http://a", "a:5000", ""])
def test_a_wildcard_a_list_and_a_link_are_no_names(name: str):
    with pytest.raises(ConfigError) as error:
        check_exposure(EVERYWHERE, (name,), is_open=True)
    assert error.value.code == "UI_HOST_INVALID"


@pytest.mark.parametrize(
    ("host", "address"),
    [
        (EVERYWHERE, "http://127.0.0.1:5000"),
        ("::", "http://[::1]:5000"),
        ("::1", "http://[::1]:5000"),
        ("192.0.2.1", "http://192.0.2.1:5000"),
    ],
)
def test_this_machine_reaches_every_interface_by_loopback(host: str, address: str):
    assert reach(host, 5000) == address


def test_a_name_is_let_in_with_and_without_the_port_and_behind_tls():
    _, hosts, _, origins = make_options(EVERYWHERE, 5000, ["mlflow.example"])

    assert hosts.split(",")[-2:] == ["mlflow.example", "mlflow.example:5000"]
    assert "127.0.0.1:5000" in hosts.split(",") and "*" not in hosts + origins
    assert origins.split(",") == [
        "http://mlflow.example:5000",
        "http://mlflow.example",
        "https://mlflow.example",
    ]


def test_an_address_that_is_listened_on_is_a_name_too_once():
    options = make_options("2001:db8::1", 5000, ["2001:db8::1"])
    assert options[-1].split(",") == [
        "http://[2001:db8::1]:5000",
        "http://[2001:db8::1]",
        "https://[2001:db8::1]",
    ]


def test_a_proxy_before_loopback_is_let_in_by_its_name():
    assert "https://mlflow.example" in make_options("127.0.0.1", 5000, ["mlflow.example"])[-1]


@pytest.mark.parametrize(
    ("host", "names", "words"),
    [
        (EVERYWHERE, (), "loopback names only"),
        (EVERYWHERE, ("a.example", "b.example"), "answers to a.example, b.example"),
        ("192.0.2.1", (), "answers to 192.0.2.1"),
    ],
)
def test_login_encryption_and_allowed_hosts_are_told(host: str, names: tuple[str, ...], words: str):
    login, encryption, hosts = list_missing(host, names)

    assert login.startswith("no login") and encryption.startswith("no encryption") and words in hosts
