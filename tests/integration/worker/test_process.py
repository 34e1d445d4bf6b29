"""In processes of their own: what these tests do would meet all the others."""

from __future__ import annotations

import io
import logging
import os
from functools import partial
from types import SimpleNamespace

import pytest

from falconas.worker.parts import Part
from falconas.worker.process import ProcessState, joined
from tests.child import in_child


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_what_cannot_be_undone_is_said() -> None:
    def work() -> list[bool]:
        state = ProcessState()
        os.setuid(65534)
        return [state.restore("x"), state.restore("x")]

    assert in_child(work) == [False, False]


def test_a_user_that_was_put_on_for_a_while_is_taken_off() -> None:
    def work() -> bool:
        state = ProcessState()
        os.seteuid(65534)
        return state.restore() and os.geteuid() == 0

    if os.geteuid() == 0:
        assert in_child(work)


def test_it_says_each_thing_once_for_a_script() -> None:
    def work() -> list[str]:
        lines = io.StringIO()
        logging.getLogger().handlers[:] = [logging.StreamHandler(lines)]
        state = ProcessState()
        for script in ("one", "one", "two"):
            os.environ["FALCONAS_TEST"] = "x"
            assert state.restore(script)
        return lines.getvalue().splitlines()

    said = in_child(work)

    assert [line.split()[1] for line in said] == ["one", "two"]


def test_a_part_that_fails_does_not_raise() -> None:
    def work() -> bool:
        answers = iter([0, 1, 1])

        def fail(*_: object) -> None:
            raise SystemExit

        return ProcessState([Part("odd", lambda: next(answers), fail)]).restore()

    assert in_child(work) is False


def test_all_looks_are_one_function() -> None:
    owner = SimpleNamespace(name="x")
    look = joined(
        [
            partial(getattr, owner, "name"),
            partial(int, "11", base=2),
            dict,
            partial(max, 3, 4),
        ]
    )
    assert look() == ("x", 3, {}, 4)
    owner.name = "y"
    assert look() == ("y", 3, {}, 4)
    assert joined([])() == ()


def test_what_looks_after_one_that_fails_is_seen() -> None:
    def work() -> list[object]:
        lines = io.StringIO()
        logging.getLogger().handlers[:] = [logging.StreamHandler(lines)]
        owner = SimpleNamespace(one=1, two=2)
        parts = [
            Part(name, partial(getattr, owner, name), partial(setattr, owner, name))
            for name in ("one", "two")
        ]
        state = ProcessState(parts)
        del owner.one
        owner.two = 3
        return [state.restore("x"), owner.one, owner.two, lines.getvalue()]

    restored, one, two, said = in_child(work)

    assert (restored, one, two) == (True, 1, 2)
    assert "one, two" in said
