from __future__ import annotations

import signal
import threading

import pytest

from falconas.worker.uninterrupted import uninterrupted


def test_signals_wait_for_the_end_of_the_block() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: came.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        with uninterrupted():
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
            assert signal.SIGUSR1 in signal.sigpending()
            assert came == []
        assert came == [signal.SIGUSR1]
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_the_mask_is_put_back_whatever_happens() -> None:
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pytest.raises(ZeroDivisionError), uninterrupted():
        raise ZeroDivisionError

    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask


def test_faults_of_the_process_do_not_wait() -> None:
    with uninterrupted():
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())

    assert signal.SIGSEGV not in blocked
    assert signal.SIGABRT not in blocked
    assert {signal.SIGALRM, signal.SIGTERM, signal.SIGINT} <= blocked
