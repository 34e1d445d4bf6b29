"""Following a reload through the broker's reports."""

from __future__ import annotations

from typing import Any

from falconas.client.following import GONE_AFTER, IDLE_AFTER, Reloaded, Reloads

ID = bytes(range(16))
OTHER = "ff" * 16


def entry(
    host: str, manifest: str, state: str = "", *, pid: int = 1, id_: str = ID.hex()
) -> dict[str, Any]:
    reload = {"id": id_, "state": state, "reason": "why" if state == "failed" else ""}
    return {
        "host": host,
        "pid": pid,
        "manifest": manifest,
        "reload": reload if state else None,
    }


def report(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"supervisors": list(entries)}


def test_it_ends_when_each_that_was_told_has_ended() -> None:
    before = report(entry("a", "m1"), entry("b", "m1"), entry("c", "m1"))
    reloads = Reloads(ID, ["a", "b"], before)

    assert not reloads.look(before, 0.0)
    assert not reloads.look(
        report(entry("a", "m1", "loading"), entry("b", "m1", "failed")), 1.0
    )
    assert not reloads.look(report(entry("a", "m2", "rolling")), 2.0)
    assert reloads.look(report(entry("a", "m2", "done")), 3.0)
    assert reloads.results() == [
        Reloaded("a", 1, "done", "m1", "m2", ""),
        Reloaded("b", 1, "failed", "m1", "m1", "why"),
    ]


def test_another_reload_is_not_ours() -> None:
    reloads = Reloads(ID, ["a"], report(entry("a", "m1", "done", id_=OTHER)))

    assert not reloads.look(report(entry("a", "m1", "done", id_=OTHER)), 0.0)
    assert reloads.look(report(entry("a", "m2", "done")), 1.0)


def test_what_was_done_stays_done_when_another_reload_follows() -> None:
    reloads = Reloads(ID, ["a", "b"], report(entry("a", "m1"), entry("b", "m1")))
    reloads.look(report(entry("a", "m2", "done"), entry("b", "m1")), 0.0)

    assert reloads.look(
        report(entry("a", "m2", "loading", id_=OTHER), entry("b", "m2", "done")), 1.0
    )
    assert {result.result for result in reloads.results()} == {"done"}


def test_supervisors_of_one_host_are_told_apart() -> None:
    before = report(entry("a", "m1", pid=1), entry("a", "m1", pid=2))
    reloads = Reloads(ID, ["a", "a"], before)

    assert not reloads.look(
        report(entry("a", "m2", "done", pid=1), entry("a", "m1", "rolling", pid=2)), 0.0
    )
    assert reloads.look(
        report(entry("a", "m2", "done", pid=1), entry("a", "m1", "failed", pid=2)), 0.0
    )
    assert [result.result for result in reloads.results()] == ["done", "failed"]


def test_who_left_is_not_waited_for() -> None:
    reloads = Reloads(ID, ["a"], report(entry("a", "m1", pid=1)))
    successor = report(entry("a", "m2", pid=2))

    assert not reloads.look(successor, 10.0)
    assert not reloads.look(successor, 10.0 + GONE_AFTER - 0.1)
    assert reloads.look(successor, 10.0 + GONE_AFTER)
    (result,) = reloads.results()
    assert (result.result, result.reason) == ("gone", "its supervisor has left")


def test_who_comes_back_in_time_is_waited_for() -> None:
    reloads = Reloads(ID, ["a"], report(entry("a", "m1")))
    assert not reloads.look(report(), 10.0)
    assert not reloads.look(report(entry("a", "m1", "rolling")), 12.0)

    assert not reloads.look(report(entry("b", "m1")), 10.0 + GONE_AFTER)


def test_a_broker_that_is_away_has_lost_nobody() -> None:
    reloads = Reloads(ID, ["a"], report(entry("a", "m1")))

    assert not reloads.look({}, 10.0)
    assert not reloads.look({}, 10.0 + 2 * GONE_AFTER)


def test_who_came_just_before_the_command_is_waited_for() -> None:
    reloads = Reloads(ID, ["a"], report())

    assert not reloads.look(report(), 0.0)
    assert reloads.look(report(entry("a", "m2", "done")), 1.0)
    assert reloads.results() == [Reloaded("a", 1, "done", "", "m2", "")]


def test_what_did_not_end_says_how_far_it_came() -> None:
    reloads = Reloads(ID, ["a", "b"], report(entry("a", "m1"), entry("b", "m1")))
    reloads.look(report(entry("a", "m1", "rolling"), entry("b", "m1")), 0.0)

    assert [(r.result, r.reason) for r in reloads.results()] == [
        ("unknown", "still rolling"),
        ("unknown", "not heard of"),
    ]


def test_a_later_reload_that_has_ended_speaks_for_ours() -> None:
    reloads = Reloads(ID, ["a"], report(entry("a", "m1")))
    another = report(entry("a", "m2", "done", id_=OTHER))

    assert not reloads.look(report(entry("a", "m1", "rolling")), 0.0)
    assert not reloads.look(another, 1.0)
    assert not reloads.look(another, 1.0 + IDLE_AFTER - 0.1)
    assert reloads.look(another, 1.0 + IDLE_AFTER)
    assert reloads.results() == [Reloaded("a", 1, "done", "m1", "m2", "")]


def test_an_earlier_reload_does_not_speak_for_ours() -> None:
    before = report(entry("a", "m1", "done", id_=OTHER), entry("b", "m1"))
    reloads = Reloads(ID, ["a", "b"], before)

    assert not reloads.look(before, 1.0)
    assert reloads.look(before, 1.0 + IDLE_AFTER)
    assert {(r.result, r.reason) for r in reloads.results()} == {
        ("unknown", "it was not taken up")
    }


def test_a_reload_that_waits_for_another_is_waited_for() -> None:
    reloads = Reloads(ID, ["a"], report(entry("a", "m1")))
    another = report(entry("a", "m1", "rolling", id_=OTHER))

    for moment in (0.0, IDLE_AFTER, 10 * IDLE_AFTER):
        assert not reloads.look(another, moment)
    assert reloads.look(report(entry("a", "m2", "done")), 11 * IDLE_AFTER)
