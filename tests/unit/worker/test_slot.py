from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from falconas.worker.slot import CELLS, SLOT_BYTES, Slot, SlotTable, Spoiled, State

if TYPE_CHECKING:
    from collections.abc import Iterator

A = b"epoch..1" + b"\0\0\0\0\0\0\0\1"
B = b"epoch..1" + b"\0\0\0\0\0\0\0\2"


@pytest.fixture
def table() -> Iterator[SlotTable]:
    table = SlotTable.create(3)
    yield table
    table.close()


class Killed(Exception):
    pass


class Cells(list[int]):
    """Cells of a process that is killed after some writes."""

    def __init__(self, writes: int) -> None:
        super().__init__([0] * CELLS)
        self.writes = writes

    def __setitem__(self, index: int, value: int) -> None:  # type: ignore[override]
        if not self.writes:
            raise Killed
        self.writes -= 1
        super().__setitem__(index, value)

    def tolist(self) -> list[int]:
        return list(self)


def slot_killed_after(writes: int) -> tuple[Slot, Cells]:
    cells = Cells(writes)
    return Slot(cells), cells  # type: ignore[arg-type]


def test_a_new_slot_is_in_boot_and_has_started_nothing(table: SlotTable) -> None:
    snapshot = table.slot(0).read()
    assert snapshot[:7] == (State.BOOT, b"", 0.0, 0, 0, 0, False)
    assert snapshot[8:] == (False, 0, 0, 0, Spoiled.NO)


def test_state_id_and_deadline_can_be_read_back(table: SlotTable) -> None:
    table.slot(1).enter(State.RUN, A, 12.5)
    snapshot = table.slot(1).read()
    assert snapshot.state is State.RUN
    assert snapshot.id == A
    assert snapshot.deadline == 12.5
    assert not snapshot.torn


def test_the_last_request_stays_after_its_reply(table: SlotTable) -> None:
    slot = table.slot(0)
    slot.enter(State.RUN, A, 12.5)
    for state in (State.COMMIT, State.REPLY, State.RESET, State.IDLE):
        slot.enter(state)
        assert slot.read()[:3] == (state, A, 12.5)


def test_slots_do_not_touch_each_other(table: SlotTable) -> None:
    table.slot(1).enter(State.RUN, A)
    table.slot(1).count(error=False)
    assert table.slot(0).read().state is State.BOOT
    assert table.slot(2).read()[:7] == (State.BOOT, b"", 0.0, 0, 0, 0, False)


def test_answers_and_errors_are_counted(table: SlotTable) -> None:
    slot = table.slot(0)
    slot.count(error=False)
    slot.count(error=True)
    assert slot.read()[3:5] == (2, 1)


def test_another_mapping_of_the_file_sees_the_same(table: SlotTable) -> None:
    other = SlotTable.attach(os.dup(table.fd), 3)
    table.slot(2).enter(State.COMMIT, B)
    assert other.slot(2).read().id == B
    other.close()


def test_a_new_life_forgets_the_last_one(table: SlotTable) -> None:
    slot = table.slot(0)
    slot.enter(State.RUN, A, 1.0)
    slot.count(error=True)
    slot.set_ready(ready=True)
    slot.wear(1, 3)
    slot.live(2)
    slot.spoil(Spoiled.CHILDREN)
    slot.clear(pid=42)
    assert slot.read()[:7] == (State.BOOT, b"", 0.0, 0, 0, 42, False)
    assert slot.read()[8:] == (False, 0, 0, 0, Spoiled.NO)


def test_an_id_of_another_length_is_refused(table: SlotTable) -> None:
    with pytest.raises(Exception, match="16 bytes"):
        table.slot(0).enter(State.RUN, b"short")


@pytest.mark.parametrize("writes", range(16))
def test_a_worker_killed_between_two_cells_names_no_wrong_request(writes: int) -> None:
    """In state RUN the id is whole and right, however far the writing got."""
    slot, cells = slot_killed_after(100)
    slot.enter(State.RUN, A, 1.0)
    slot.enter(State.IDLE)
    cells.writes = writes
    finished = True
    try:
        slot.enter(State.RUN, B, 2.0)
    except Killed:
        finished = False
    snapshot = slot.read()
    assert snapshot.torn is (not finished and writes > 0)
    if snapshot.state is State.RUN:
        assert snapshot.id == B
    else:
        assert snapshot.state is State.IDLE


@pytest.mark.parametrize("writes", range(4))
def test_a_worker_killed_while_it_commits_still_names_its_request(writes: int) -> None:
    slot, cells = slot_killed_after(100)
    slot.enter(State.RUN, A, 1.0)
    cells.writes = writes
    with suppress(Killed):
        slot.enter(State.COMMIT)
    assert slot.read().id == A


def test_a_torn_slot_is_sound_again_after_the_next_life(table: SlotTable) -> None:
    slot, cells = slot_killed_after(2)
    with pytest.raises(Killed):
        slot.enter(State.RUN, A)
    assert slot.read().torn
    cells.writes = 100
    slot.clear(pid=7)
    assert not slot.read().torn
    slot.enter(State.IDLE)
    assert slot.read().state is State.IDLE


def test_the_supervisor_sees_what_scripts_left_behind(table: SlotTable) -> None:
    slot = table.slot(1)
    before = slot.read().sequence
    slot.enter(State.RESET)
    assert slot.read().sequence > before  # a watchdog takes it for another moment
    slot.set_ready(ready=True)
    slot.wear(1 << 30, 50)
    slot.live(2)
    slot.spoil(Spoiled.MEMORY_ERROR)
    snapshot = slot.read()
    assert snapshot[8:] == (True, 1 << 30, 2, 50, Spoiled.MEMORY_ERROR)
    assert snapshot.sequence > before


def test_only_the_request_that_was_started_last_is_cancelled(table: SlotTable) -> None:
    slot = table.slot(0)
    assert not slot.is_cancelled()
    slot.cancel(B)
    slot.enter(State.RUN, A, 1.0)
    assert not slot.is_cancelled()
    slot.enter(State.RUN, B, 1.0)
    assert slot.is_cancelled()
    slot.enter(State.RUN, A, 1.0)
    assert not slot.is_cancelled()


@pytest.mark.parametrize("writes", range(4))
def test_a_half_written_cancel_names_no_request(writes: int) -> None:
    slot, cells = slot_killed_after(100)
    older = b"epoch..0" + B[8:]
    slot.cancel(older)
    slot.enter(State.RUN, B, 1.0)  # would match, with the new epoch and the old count
    cells.writes = writes
    with suppress(Killed):
        slot.cancel(A)
    assert not slot.is_cancelled()


def test_what_no_worker_wrote_is_nobodys(table: SlotTable) -> None:
    os.pwrite(table.fd, b"w" * SLOT_BYTES * 3, 0)
    for index in range(3):
        snapshot = table.slot(index).read()
        assert (snapshot.state, snapshot.id, snapshot.pid) == (State.BOOT, b"", 0)
        assert snapshot.torn


def test_nobody_can_cut_the_file_short(table: SlotTable) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(table.fd, 0)
