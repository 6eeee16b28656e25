"""Signals that ask to end become one exception, at a moment when it does no harm."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from ser_batch import interrupt
from ser_batch.interrupt import Interrupted, Interruptions

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    """Signals as a terminal leaves them; the tests may run under nohup, or in the background of a script."""
    handlers = (signal.default_int_handler, signal.SIG_DFL, signal.SIG_DFL)
    before = {number: signal.signal(number, handler) for number, handler in zip(ALL, handlers, strict=True)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", ALL)
def test_each_signal_raises(number):
    with Interruptions(), pytest.raises(Interrupted):
        send(number)


def test_several_at_once_raise_once():
    """So that nobody interrupts the tidying up."""
    n_raised = 0
    with Interruptions():
        for number in (*ALL, *ALL):
            try:
                send(number)
            except KeyboardInterrupt:
                n_raised += 1
    assert n_raised == 1


def test_somebody_who_has_lost_patience_is_heard(monkeypatch):
    monkeypatch.setattr(interrupt, "_GRACE_S", 0.0)
    with Interruptions():
        with pytest.raises(Interrupted):
            send(signal.SIGINT)
        with pytest.raises(Interrupted):
            send(signal.SIGINT)


def test_a_deferred_stretch_is_finished_first():
    done = []
    with Interruptions() as interruptions, pytest.raises(Interrupted):
        with interruptions.deferred():
            send(signal.SIGTERM)
            done.append("committed")
        done.append("never")
    assert done == ["committed"]


def test_what_this_process_was_told_to_ignore_stays_ignored():
    """As `nohup` does it, and a shell for what runs in the background."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruptions():
            send(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_of_others_are_put_back():
    before = [signal.getsignal(number) for number in ALL]
    with Interruptions():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(number) for number in ALL] == before
