"""In processes of their own: what these tests do would meet all the others."""

from __future__ import annotations

import io
import logging
import os

import pytest

from falconas.worker.parts import Part
from falconas.worker.process import ProcessState
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
        state = ProcessState()

        def fail(*_: object) -> None:
            raise SystemExit

        answers = iter([1, 1])
        state._parts.append(Part("odd", lambda: next(answers), fail))
        state._looks.append(state._parts[-1].look)
        state._then.append(0)
        return state.restore()

    assert in_child(work) is False
