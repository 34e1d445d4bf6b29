from __future__ import annotations

import pytest

from falconas.database.transaction import (
    BEGIN_READ,
    POSITION,
    READ_AUTOCOMMIT,
    TransactionState,
)
from falconas.errors import Aborted, FalconError, ScriptError, Started


def write() -> TransactionState:
    return TransactionState("write", begun=True)


@pytest.mark.parametrize(
    ("tags", "idle", "started"),
    [
        (["COMMIT"], True, Started.UNKNOWN),
        (["INSERT 0 1", "COMMIT", "BEGIN"], False, Started.UNKNOWN),
        (["COMMIT"], False, Started.UNKNOWN),  # AND CHAIN
        (["ROLLBACK"], True, Started.YES),
        (["ROLLBACK", "BEGIN"], False, Started.YES),
        (["BEGIN"], False, Started.YES),
        (["START TRANSACTION"], False, Started.YES),
        (["PREPARE TRANSACTION"], True, Started.UNKNOWN),
        ([], True, Started.UNKNOWN),  # nobody has seen how
    ],
)
def test_statements_of_transactions_are_refused(
    tags: list[str], idle: bool, started: Started
) -> None:
    state = write()
    with pytest.raises(ScriptError) as caught:
        state.tagged(tags, idle=idle)
    assert state.breach is caught.value
    assert caught.value.started is started
    with pytest.raises(ScriptError):
        state.tagged(["SELECT 1"], idle=False)  # it stays so


@pytest.mark.parametrize("tag", ["ROLLBACK", "SAVEPOINT", "RELEASE", "INSERT 0 1", ""])
def test_savepoints_and_work_are_not(tag: str) -> None:
    state = write()
    state.tagged([tag], idle=False)
    assert state.breach is None


def test_a_read_that_commits_has_changed_nothing() -> None:
    state = TransactionState("read", begun=True)
    with pytest.raises(FalconError) as caught:
        state.tagged(["COMMIT"], idle=True)
    assert caught.value.started is Started.YES


def test_a_transaction_that_vanished_may_have_been_committed() -> None:
    state = write()
    state.watch(idle=False)
    assert state.breach is None
    state.watch(idle=True)
    assert state.breach is not None
    assert state.breach.started is Started.UNKNOWN


@pytest.mark.parametrize("tag", ["PREPARE", "DEALLOCATE", "DISCARD ALL"])
def test_what_survives_a_reset_is_noted(tag: str) -> None:
    state = write()
    state.tagged([tag], idle=False)
    assert state.lasting


def test_a_pending_begin_is_taken_once() -> None:
    state = TransactionState("read", BEGIN_READ)
    assert state.take_pending() is BEGIN_READ
    assert state.begun
    assert state.take_pending() is None
    state = TransactionState("read", READ_AUTOCOMMIT)
    assert state.take_pending() is READ_AUTOCOMMIT
    assert not state.begun


def test_each_write_has_a_mark_of_its_own() -> None:
    one, other = write(), write()
    assert one.nonce != other.nonce
    assert one.mark in one.begin_write
    assert one.nonce in one.commit
    assert one.commit.endswith(b"; COMMIT; " + POSITION)


@pytest.mark.parametrize(
    ("tags", "opaque", "needs"),
    [
        (["RESET"], False, True),
        (["SET"], False, False),
        (["RESET"], True, False),  # nobody knows whose transaction this is
        (["ROLLBACK", "RESET"], False, False),
    ],
)
def test_a_reset_asks_for_the_mark_again(
    tags: list[str], opaque: bool, needs: bool
) -> None:
    state = write()
    state.tagged(tags, idle=False, opaque=opaque)
    assert state.needs_mark(tags) is needs
    assert not TransactionState("read", begun=True).needs_mark(tags)


def test_a_transaction_that_is_not_ours_may_have_been_committed() -> None:
    state = write()
    verdict = state.replaced()
    assert verdict.started is Started.UNKNOWN
    assert state.breach is verdict


def test_a_swallowed_error_is_named() -> None:
    cause = Aborted("collision", retry_safe=True, sqlstate="40001")
    verdict = write().swallowed(cause)
    assert "collision" in verdict.message
    assert (verdict.sqlstate, verdict.retry_safe) == ("40001", True)
    verdict = write().swallowed(ScriptError("no such table", sqlstate="42P01"))
    assert (verdict.sqlstate, verdict.retry_safe) == ("42P01", False)
    assert write().swallowed(None).started is Started.YES


def test_what_an_interrupt_kept_from_being_seen_is_doubtful() -> None:
    state = write()
    state.unseen = True  # a COMMIT AND CHAIN may be under way
    assert not state.doubtful  # an error of the server's would say no
    state.interrupted = True
    assert state.doubtful
    state.tagged(["SET"], idle=False)
    assert not state.doubtful


def test_without_a_transaction_every_touched_write_is_doubtful() -> None:
    state = TransactionState("write", autocommit=True)
    assert not state.doubtful
    assert b"BEGIN" not in state.begin_write
    state.touched = True
    assert state.doubtful
    state.tagged(["INSERT 0 1", "VACUUM", "RESET"], idle=True)
    assert not state.needs_mark(["RESET"])
    with pytest.raises(ScriptError, match=r"makes transactions; .* may be") as caught:
        state.tagged(["BEGIN"], idle=False)
    assert caught.value.started is Started.UNKNOWN


def test_reads_are_never_doubtful() -> None:
    assert not TransactionState("read", opaque=True).doubtful
    assert write().doubtful is False
    ended = write()
    ended.watch(idle=True)
    assert ended.doubtful


@pytest.mark.parametrize(
    ("tags", "started"),
    [
        (["BEGIN"], Started.YES),
        (["COMMIT"], Started.UNKNOWN),
        (["ROLLBACK"], Started.UNKNOWN),
        (["BEGIN", "COMMIT"], Started.UNKNOWN),
    ],
)
@pytest.mark.parametrize("access", ["read", "write"])
def test_what_runs_behind_an_end_is_uncertain(
    access: str, tags: list[str], started: Started
) -> None:
    state = TransactionState(access)
    with pytest.raises(ScriptError) as caught:
        state.tagged(tags, idle=True, several=True)
    assert caught.value.started is started
