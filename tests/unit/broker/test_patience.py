"""How long requests wait where nobody serves them."""

from __future__ import annotations

from falconas.errors import Code
from falconas.protocol import Reply
from tests.unit.broker.desk import Desk, node, serving


def test_a_known_script_waits_a_second_for_a_worker() -> None:
    desk = serving()
    id_ = desk.ask("read")
    desk.tick(0.99)
    assert not desk.take()

    desk.tick(0.02)

    got, code, body = desk.verdict()
    assert (got, code) == (id_, Code.UNAVAILABLE)
    assert (body["started"], body["retry_after"]) == ("no", 1.0)


def test_a_worker_that_comes_in_time_serves_and_then_the_deadline_counts() -> None:
    desk = serving()
    desk.ask("read")
    other = desk.ask("read", budget=9.0)
    desk.tick(0.9)
    desk.worker("w1", supervisor=b"T" * 16)
    desk.tick(5.0)
    desk.take()

    desk.lost("w1", next(iter(desk.known("w1").hands)))  # a read: once more

    assert not desk.take()
    desk.tick(0.9)
    assert not desk.take()
    desk.tick(0.2)
    verdicts = desk.take()
    assert {send.message.id for send in verdicts} >= {other}
    assert len(verdicts) == 2


def test_patience_for_a_worker_is_not_renewed() -> None:
    desk = serving()
    desk.ask("read")
    desk.tick(0.9)
    desk.worker("w1", ready=False)
    desk.tick(0.2)

    assert desk.verdict()[1] is Code.UNAVAILABLE


def test_after_the_start_scripts_wait_three_seconds() -> None:
    desk = Desk(fresh=True)
    unknown = desk.ask("nothing", client="c1")
    broken = desk.ask("broken", client="c2")
    known = desk.ask("read", client="c3")
    desk.tick(2.0)
    assert not desk.take()
    desk.register()
    desk.tick(1.1)

    replies = [s.message for s in desk.take() if isinstance(s.message, Reply)]
    codes = {reply.id: reply.code for reply in replies}
    assert codes == {
        unknown: Code.NOT_FOUND,
        broken: Code.NOT_FOUND,
        known: Code.UNAVAILABLE,
    }


def test_the_wait_for_a_node_counts_from_the_first_return() -> None:
    desk = serving("w1")
    desk.report(node("main", "primary"))
    desk.ask("write", budget=50.0)
    wait = desk.core.settings.worker_wait
    desk.give_back(desk.handed(), refused=True)
    desk.tick(wait / 2)
    (again,) = desk.report(node("main", "primary"))

    desk.give_back(again, refused=True)

    (waiting,) = desk.flow.backlog
    assert waiting.due == 100.0 + wait
    desk.tick(wait / 2 + 0.02)
    assert desk.verdict()[1] is Code.UNAVAILABLE


def test_what_waits_is_given_up_together_once_nobody_is_ready() -> None:
    desk = serving("w1")
    desk.ask("read", client="busy")
    desk.take()
    ids = {desk.ask("write", client=f"c{n}") for n in range(3)}
    brief = desk.ask("write", client="c4", budget=0.5)
    desk.now += 0.2

    desk.tick(0.0)
    desk.status("w1", ready=False)

    assert desk.core.wake_at() <= 100.51
    desk.tick(0.4)
    assert desk.verdict()[:2] == (brief, Code.DEADLINE_EXCEEDED)
    desk.tick(0.5)
    assert not desk.take()
    assert desk.core.wake_at() == 101.2
    desk.tick(0.1)
    replies = [s.message for s in desk.take() if isinstance(s.message, Reply)]
    assert {(reply.id, reply.code) for reply in replies} == {
        (id_, Code.UNAVAILABLE) for id_ in ids
    }


def test_who_comes_later_waits_longer() -> None:
    desk = serving("w1")
    desk.ask("read")
    desk.take()
    first = desk.ask("write", client="c1")
    desk.status("w1", ready=False)
    desk.tick(0.5)
    second = desk.ask("write", client="c2")

    desk.tick(0.51)
    assert desk.verdict()[0] == first
    desk.tick(0.48)
    assert not desk.take()
    desk.tick(0.02)
    assert desk.verdict()[0] == second


def test_a_worker_that_is_ready_again_ends_the_wait_for_all() -> None:
    desk = serving()
    desk.worker("w1", supervisor=b"T" * 16)  # one that is not missed
    desk.ask("read")
    desk.take()
    desk.ask("write", client="c1")
    desk.status("w1", ready=False)
    desk.tick(0.5)
    desk.ask("write", client="c2")

    desk.status("w1", ready=True)  # it has still one in hand

    desk.tick(5.0)
    assert not desk.take()
    desk.status("w1", ready=False)
    desk.tick(0.99)
    assert not desk.take()
    desk.tick(0.02)
    assert len([s for s in desk.take() if isinstance(s.message, Reply)]) == 2


def test_what_was_taken_back_waits_for_a_worker_anew() -> None:
    """Not for the rest of the lease that it had behind others."""
    desk = serving("w1")
    desk.ask("read", client="c0")
    desk.reply(desk.handed(), run_us=100)
    desk.take()
    desk.ask("read", client="c1")
    desk.ask("read", client="c2")
    first, _ = desk.take()

    desk.lost("w1", first.message.id, "COMMIT")

    desk.tick(0.9)
    assert not desk.take()
    desk.tick(0.2)
    assert len(desk.take()) == 2


def test_what_moves_keeps_the_wait_that_it_has_begun() -> None:
    """Whether its queue follows it as a whole, or it goes to another."""
    for others in (False, True):
        desk = serving()
        waits = desk.ask("read", client="c1")
        if others:
            desk.ask("brief", client="c2", budget=0.3)
            desk.ask("nothing", client="c3")
        desk.tick(0.9)
        desk.take()
        desk.worker("w1", ready=False)

        desk.tick(0.11)

        assert waits in {send.message.id for send in desk.take()}
