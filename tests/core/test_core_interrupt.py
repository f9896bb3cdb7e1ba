"""Signals that end a process let it close what it has open."""

import signal
import threading
from collections.abc import Iterator

import pytest

from medseg.core.interrupt import as_interrupt


@pytest.fixture(autouse=True)
def usual_signals() -> Iterator[None]:
    """The tests themselves may run under nohup."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_becomes_an_interrupt(number: signal.Signals):
    with pytest.raises(KeyboardInterrupt), as_interrupt(signal.SIGTERM, signal.SIGHUP):
        signal.raise_signal(number)


def test_what_handled_the_signal_before_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with as_interrupt(signal.SIGTERM):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_is_ignored_stays_ignored_as_nohup_asks():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with as_interrupt(signal.SIGHUP):
        signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_a_thread_handles_no_signals():
    seen: list[object] = []

    def look() -> None:
        with as_interrupt(signal.SIGTERM):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
