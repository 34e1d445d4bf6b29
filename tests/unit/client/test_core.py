"""The client's core, rule by rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from falconas import codec, protocol
from falconas.client.core import (
    CATALOGUE_INTERVAL,
    HELLO_INTERVAL,
    LOST_WINDOW,
    ClientCore,
)
from falconas.client.outstanding import GRACE, Outstanding
from falconas.client.replies import Positions
from falconas.client.verdict import Verdict
from falconas.errors import (
    Aborted,
    Cancelled,
    Code,
    DeadlineExceeded,
    FalconError,
    Internal,
    InvalidArgument,
    ResourceExhausted,
    Started,
    Unavailable,
)
from falconas.protocol import (
    Cancel,
    Catalogue,
    Hello,
    Kind,
    Ping,
    Pong,
    Reply,
    Request,
    Welcome,
)

ENDPOINT = "tcp://broker:5570"
EPOCH = b"epoch--1"
OTHER_EPOCH = b"epoch--2"
LIMITS = {"params_bytes": 100, "budget": 10.0, "client_requests": 1000}


class Harness:
    """A core and the broker's part of the dialogue."""

    def __init__(self, **options: Any) -> None:
        self.core = ClientCore(bytes(range(16)), ENDPOINT, **options)
        self.now = 100.0
        self.sent: list[tuple[Any, bytes]] = []
        self.verdicts: dict[str, Verdict] = {}

    def flush(self) -> list[Any]:
        """Send everything; return the messages without their bodies."""
        messages = []
        while self.core.sendable:
            frames = self.core.next_sends(self.now, 3)
            self.core.sent(self.now, len(frames))
            for header, body in frames:
                messages.append(protocol.decode(header, protocol.FRONTEND))
                self.sent.append((messages[-1], body))
        self.settle()
        return messages

    def settle(self) -> None:
        self.core.check_invariants()
        for owner, verdict in self.core.take_verdicts():
            assert owner not in self.verdicts, "a second verdict"
            self.verdicts[owner] = verdict

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.core.tick(self.now)
        self.settle()

    def give(self, message: Any, body: Any = None) -> str | None:
        raw = b"" if body is None else codec.encode_value(body)
        wrong = self.core.received((protocol.encode(message), raw), self.now)
        self.settle()
        return wrong

    def connect(self) -> Hello:
        self.core.connected(self.now)
        (hello,) = self.flush()
        assert isinstance(hello, Hello)
        return hello

    def welcome(
        self,
        hello: Hello,
        epoch: bytes = EPOCH,
        held: Sequence[bytes] = (),
        scripts: dict[str, bool] | None = None,
        limits: Any = LIMITS,
    ) -> list[Any]:
        """Answer HELLO and the catalogue; return what is sent upon that."""
        extras = {"limits": limits}
        assert self.give(Welcome(hello.id, epoch, 1.0, extras), list(held)) is None
        messages = self.flush()
        brief = [item for item in messages if item.extras == {"brief": True}]
        (catalogue,) = brief
        assert isinstance(catalogue, Catalogue)
        known = {"read": True, "write": False} if scripts is None else scripts
        assert (
            self.give(Reply(catalogue.id, Kind.OK, 0, {}), {"scripts": known}) is None
        )
        messages.remove(catalogue)
        return messages

    def meet(self, **options: Any) -> list[Any]:
        return self.welcome(self.connect(), **options)

    def lose(self) -> None:
        self.core.disconnected(self.now)
        self.settle()

    def call(self, owner: str, script: str = "read", **options: Any) -> Outstanding:
        body = codec.encode_params({"nonce": owner})
        return self.core.request(owner, script, body, self.now, **options)

    def reply(self, id_: bytes, value: Any = None, **extras: Any) -> str | None:
        return self.give(Reply(id_, Kind.OK, Code.OK, extras), value)

    def error(self, owner: str) -> FalconError:
        error = self.verdicts[owner].error
        assert error is not None
        return error


@pytest.fixture
def harness() -> Harness:
    return Harness()


@pytest.fixture
def met(harness: Harness) -> Harness:
    harness.meet()
    return harness


def outcome(error: FalconError) -> tuple[type[FalconError], str, bool]:
    return type(error), error.started.value, error.retry_safe


def test_a_call_is_answered_with_the_value_and_the_extras_of_its_reply(
    met: Harness,
) -> None:
    call = met.call("a", budget=2.0)
    (request,) = met.flush()
    assert request == Request(call.id, "read", 2.0, {"accept": ["ext"]})
    assert met.sent[-1][1] == codec.encode_params({"nonce": "a"})
    met.reply(call.id, [1, 2], worker="host/0")
    assert met.verdicts["a"].value() == [1, 2]
    assert met.verdicts["a"].info == {"worker": "host/0"}
    assert met.core.outstanding == 0


def test_an_error_reply_becomes_the_exception_of_its_code(met: Harness) -> None:
    call = met.call("a")
    met.flush()
    body = {"message": "deadlock", "started": "yes", "retry_safe": True}
    met.give(Reply(call.id, Kind.ERROR, Code.ABORTED, {"node": "n1"}), body)
    with pytest.raises(Aborted, match="deadlock"):
        met.verdicts["a"].value()
    assert met.verdicts["a"].info == {"node": "n1"}


def test_an_error_without_a_readable_body_keeps_its_code(met: Harness) -> None:
    call = met.call("a")
    met.flush()
    header = protocol.encode(Reply(call.id, Kind.ERROR, Code.ABORTED, {}))
    met.core.received((header, b"\xc1"), met.now)
    met.settle()
    assert outcome(met.error("a")) == (Aborted, "unknown", False)


def test_a_result_that_cannot_be_read_is_an_internal_error(met: Harness) -> None:
    call = met.call("a")
    met.flush()
    met.core.received((protocol.encode(Reply(call.id, 0, 0, {})), b"\xc1"), met.now)
    met.settle()
    with pytest.raises(Internal, match="cannot be read") as caught:
        met.verdicts["a"].value()
    assert caught.value.started is Started.YES


def test_what_replies_tell_of_writes_is_asked_for_by_later_requests() -> None:
    following = Harness(positions=Positions(follow=True))
    following.meet()
    write = following.call("a", "write")
    (request,) = following.flush()
    assert "min_lsn" not in request.extras
    following.call("b")
    following.reply(write.id, lsn={"main": 7})
    following.call("c")
    following.call("d", min_lsn={"main": 9, "other": 1})
    asked = [None, {"main": 7}, {"main": 9, "other": 1}]
    assert [item.extras.get("min_lsn") for item in following.flush()] == asked
    following.lose()
    again = following.meet(epoch=OTHER_EPOCH)
    assert [item.extras.get("min_lsn") for item in again] == asked
    following.core.catalogue("e", following.now)
    (catalogue,) = following.flush()
    assert catalogue.extras == {}


def test_a_wrong_min_lsn_is_refused_and_takes_no_place(met: Harness) -> None:
    with pytest.raises(InvalidArgument, match="min_lsn"):
        met.call("a", min_lsn={"main": "0/7"})
    assert met.core.outstanding == 0


def test_nothing_but_hello_is_sent_before_welcome(harness: Harness) -> None:
    harness.call("a")
    assert harness.flush() == []
    assert not harness.core.sendable
    hello = harness.connect()
    assert hello.session == bytes(range(16))
    assert [type(item) for item in harness.welcome(hello)] == [Request]


def test_hello_is_said_again_until_it_is_answered(harness: Harness) -> None:
    hello = harness.connect()
    assert harness.core.wake_at() == harness.now + HELLO_INTERVAL
    harness.pass_time(HELLO_INTERVAL)
    harness.pass_time(HELLO_INTERVAL)
    assert harness.flush() == [hello]
    harness.welcome(hello)
    assert harness.core.wake_at() == float("inf")
    harness.pass_time(HELLO_INTERVAL)
    assert harness.flush() == []


def test_a_second_welcome_is_dropped(harness: Harness) -> None:
    hello = harness.connect()
    harness.welcome(hello)
    call = harness.call("a")
    harness.flush()
    harness.give(Welcome(hello.id, OTHER_EPOCH, 1.0, {}), [])
    assert harness.core.counters["late"] == 1
    assert harness.core.outstanding == 1
    harness.reply(call.id)


def test_a_welcome_of_an_earlier_connection_is_dropped(harness: Harness) -> None:
    old = harness.connect()
    harness.lose()
    harness.give(Welcome(old.id, EPOCH, 1.0, {}), [])
    harness.connect()
    harness.give(Welcome(old.id, EPOCH, 1.0, {}), [])
    assert harness.core.counters["late"] == 2
    assert not harness.core.sendable


def test_without_a_budget_the_script_has_its_own_up_to_the_longest_of_all(
    met: Harness,
) -> None:
    met.call("a")
    met.pass_time(3.0)
    (request,) = met.flush()
    assert request.budget is None
    met.pass_time(LIMITS["budget"] + GRACE - 0.01)
    assert "a" not in met.verdicts
    met.pass_time(0.01)
    assert outcome(met.error("a")) == (DeadlineExceeded, "unknown", True)


@pytest.mark.parametrize("limits", [None, [], {}, {"budget": -1}, {"budget": "x"}])
def test_limits_that_the_broker_does_not_tell_are_the_clients_own(limits: Any) -> None:
    harness = Harness(budget=4.0)
    harness.meet(limits=limits)
    harness.core.request("a", "read", b"x" * 5000, harness.now)
    harness.flush()
    harness.pass_time(4.0 + GRACE)
    assert outcome(harness.error("a")) == (DeadlineExceeded, "unknown", True)


def test_a_budget_is_what_is_left_of_it_when_the_request_leaves(
    harness: Harness,
) -> None:
    harness.call("a", budget=5.0)
    harness.pass_time(1.5)
    (request,) = harness.meet()
    assert request.budget == 3.5


def test_the_last_resort_is_the_clients_and_says_so(met: Harness) -> None:
    call = met.call("a", "write", budget=2.0)
    met.flush()
    assert met.core.wake_at() <= call.deadline + GRACE
    met.pass_time(2.0 + GRACE - 0.01)
    assert met.verdicts == {}
    assert met.core.wake_at() == call.deadline + GRACE
    met.pass_time(0.01)
    assert outcome(met.error("a")) == (DeadlineExceeded, "unknown", False)
    assert met.verdicts["a"].info == {"verdict": "client"}
    assert met.core.counters["last_resort"] == 1
    assert met.core.wake_at() == float("inf")
    met.reply(call.id, 1)
    assert met.core.counters["late"] == 1


def test_without_a_broker_a_call_ends_at_its_deadline_and_may_be_repeated(
    harness: Harness,
) -> None:
    harness.call("a", "write", budget=2.0)
    assert harness.core.wake_at() == harness.now + 2.0
    harness.pass_time(1.99)
    assert harness.verdicts == {}
    harness.pass_time(0.01)
    assert outcome(harness.error("a")) == (Unavailable, "no", True)
    assert str(harness.error("a")) == f"no broker at {ENDPOINT} after 2.0 s"
    assert harness.core.counters["unreachable"] == 1


def test_a_broker_that_does_not_answer_hello_is_named(harness: Harness) -> None:
    harness.call("a", budget=2.0)
    harness.connect()
    harness.pass_time(2.0)
    assert str(harness.error("a")) == f"no answer to HELLO from {ENDPOINT} after 2.0 s"


def test_a_broker_that_refuses_hello_is_named_with_its_reason(harness: Harness) -> None:
    harness.call("a", budget=2.0)
    hello = harness.connect()
    body = {"message": "use version 2"}
    assert harness.give(Reply(hello.id, Kind.ERROR, Code.UNIMPLEMENTED, {}), body)
    harness.pass_time(2.0)
    assert "refused HELLO (use version 2)" in str(harness.error("a"))


def test_what_a_busy_broker_does_not_take_expires_as_not_started(met: Harness) -> None:
    met.call("a", budget=2.0)
    met.pass_time(2.0)
    assert outcome(met.error("a")) == (DeadlineExceeded, "no", True)
    met.call("b", budget=2.0)
    met.now += 2.0
    assert met.flush() == []
    assert outcome(met.error("b")) == (DeadlineExceeded, "no", True)


def test_too_large_parameters_are_refused_and_not_sent(met: Harness) -> None:
    met.core.request("a", "read", b"x" * 101, met.now)
    met.core.request("b", "read", b"x" * 100, met.now)
    assert len(met.flush()) == 1
    assert outcome(met.error("a")) == (InvalidArgument, "no", False)
    assert "101 bytes, the limit is 100" in str(met.error("a"))


def test_the_number_of_outstanding_calls_is_bounded() -> None:
    harness = Harness(outstanding=2)
    harness.call("a")
    harness.meet()
    harness.call("b")
    with pytest.raises(ResourceExhausted) as caught:
        harness.call("c")
    assert outcome(caught.value) == (ResourceExhausted, "no", True)
    assert caught.value.retry_after == 0.1
    assert harness.core.counters["refused"] == 1
    harness.reply(harness.sent[-1][0].id)
    harness.call("c")


@pytest.mark.parametrize("budget", [float("nan"), float("inf"), 1e6, "3", True])
def test_a_budget_is_a_number_of_seconds(harness: Harness, budget: Any) -> None:
    with pytest.raises(InvalidArgument, match="budget must be"):
        harness.call("a", budget=budget)


@pytest.mark.parametrize("budget", [0, -1.5])
def test_a_budget_that_is_used_up_is_an_expired_deadline(
    harness: Harness, budget: Any
) -> None:
    with pytest.raises(DeadlineExceeded) as caught:
        harness.call("a", budget=budget)
    assert outcome(caught.value) == (DeadlineExceeded, "no", True)


@pytest.mark.parametrize("script", ["", "../etc", "Daily", "a" * 300, None, b"read"])
def test_a_name_that_no_script_can_have_is_refused(
    harness: Harness, script: Any
) -> None:
    with pytest.raises(InvalidArgument, match="name is like"):
        harness.call("a", script)


# The broker is lost


def lost_with(harness: Harness, **scripts: str) -> dict[str, Outstanding]:
    """Send a call of each script, then lose the connection."""
    calls = {owner: harness.call(owner, script) for owner, script in scripts.items()}
    harness.flush()
    harness.lose()
    return calls


def test_the_same_broker_still_answers_for_what_it_lists(met: Harness) -> None:
    calls = lost_with(met, a="write", b="read")
    met.pass_time(LOST_WINDOW - 0.01)
    assert met.meet(held=[calls["a"].id, calls["b"].id]) == []
    met.pass_time(1.0)
    met.reply(calls["a"].id, 1)
    met.reply(calls["b"].id, 2)
    assert [met.verdicts[owner].value() for owner in "ab"] == [1, 2]


def test_what_the_same_broker_does_not_list_is_repeated_only_if_idempotent(
    met: Harness,
) -> None:
    calls = lost_with(met, a="write", b="read", c="unknown")
    first = calls["b"].id
    (again,) = met.meet()
    assert (again, calls["b"].body) in met.sent
    assert again.id == calls["b"].id != first
    assert again.budget == 10.0
    assert again.extras == {"accept": ["ext"], "attempt": 2}
    assert outcome(met.error("a")) == (Unavailable, "unknown", False)
    assert outcome(met.error("c")) == (Unavailable, "unknown", False)
    met.reply(first, "late")
    met.reply(again.id, "right")
    assert met.verdicts["b"].value() == "right"
    assert met.core.counters["resent"] == 1
    assert met.core.counters["lost"] == 2


def test_another_broker_answers_for_nothing(met: Harness) -> None:
    calls = lost_with(met, a="write", b="read")
    held = [calls["a"].id, calls["b"].id]
    assert len(met.meet(epoch=OTHER_EPOCH, held=held)) == 1
    assert outcome(met.error("a")) == (Unavailable, "unknown", False)


def test_the_callers_word_counts_more_than_the_catalogue(met: Harness) -> None:
    met.call("a", "write", idempotent=True)
    met.call("b", "read", idempotent=False)
    met.flush()
    met.lose()
    (again,) = met.meet(epoch=OTHER_EPOCH)
    assert again.script == "write"
    assert outcome(met.error("b")) == (Unavailable, "unknown", False)


def test_not_started_is_said_of_all_attempts(met: Harness) -> None:
    lost_with(met, a="read")
    (again,) = met.meet(epoch=OTHER_EPOCH)
    body = {"message": "draining", "started": "no", "retry_safe": True}
    met.give(Reply(again.id, Kind.ERROR, Code.UNAVAILABLE, {}), body)
    assert outcome(met.error("a")) == (Unavailable, "unknown", True)


def test_a_call_is_repeated_once(met: Harness) -> None:
    lost_with(met, a="read")
    met.meet(epoch=OTHER_EPOCH)
    met.lose()
    assert met.meet(epoch=EPOCH) == []
    assert outcome(met.error("a")) == (Unavailable, "unknown", True)


def test_a_repetition_that_had_not_left_yet_is_kept(met: Harness) -> None:
    lost_with(met, a="read")
    hello = met.connect()
    met.give(Welcome(hello.id, OTHER_EPOCH, 1.0, {}), [])
    met.lose()
    (again,) = met.meet(epoch=OTHER_EPOCH)
    met.reply(again.id, 1)
    assert met.verdicts["a"].value() == 1


def test_a_repetition_that_never_leaves_ends_with_an_unknown_outcome(
    met: Harness,
) -> None:
    call = met.call("a", "read", budget=2.0)
    met.flush()
    met.lose()
    hello = met.connect()
    met.give(Welcome(hello.id, OTHER_EPOCH, 1.0, {}), [])
    assert call.id in met.core._calls.unsent
    met.now += 2.0
    met.flush()
    assert outcome(met.error("a")) == (Unavailable, "unknown", True)


def test_what_is_past_its_deadline_is_not_repeated(met: Harness) -> None:
    met.call("a", "read", budget=0.5)
    met.flush()
    met.lose()
    met.now += 0.5
    assert met.meet(epoch=OTHER_EPOCH) == []
    assert outcome(met.error("a")) == (Unavailable, "unknown", True)


def test_after_the_window_all_that_was_sent_is_answered(met: Harness) -> None:
    lost_with(met, a="write", b="read")
    met.call("c", "write")
    assert met.core.wake_at() == met.now + LOST_WINDOW
    met.pass_time(LOST_WINDOW - 0.01)
    assert met.verdicts == {}
    met.pass_time(0.01)
    assert outcome(met.error("a")) == (Unavailable, "unknown", False)
    assert outcome(met.error("b")) == (Unavailable, "unknown", True)
    assert "c" not in met.verdicts, "what was never sent waits for its deadline"
    assert [item.script for item in met.meet(epoch=OTHER_EPOCH)] == ["write"]


def test_a_connection_without_welcome_does_not_prolong_the_window(met: Harness) -> None:
    lost_with(met, a="read")
    met.pass_time(0.5)
    met.connect()
    met.lose()
    met.pass_time(LOST_WINDOW - 0.5)
    assert outcome(met.error("a")) == (Unavailable, "unknown", True)


def test_losing_a_connection_that_never_was_means_nothing(harness: Harness) -> None:
    harness.lose()
    assert harness.core.counters["disconnected"] == 0
    assert harness.core.wake_at() == float("inf")


def test_a_client_that_is_asked_to_introduces_itself_again(met: Harness) -> None:
    kept = met.call("a", "write")
    met.call("b", "write")
    met.flush()
    met.core.cancel(kept, met.now)
    met.give(Welcome(b"?", EPOCH, 1.0, {}), [])
    met.give(Welcome(b"?", EPOCH, 1.0, {}), [])
    (hello,) = met.flush()
    assert isinstance(hello, Hello)
    assert met.welcome(hello, held=[kept.id]) == [Cancel(kept.id, {})]
    assert outcome(met.error("b")) == (Unavailable, "unknown", False)
    met.reply(kept.id, 1)
    assert met.verdicts["a"].value() == 1


@pytest.mark.parametrize("body", [{"a": 1}, 7])
def test_a_welcome_without_a_list_holds_nothing(met: Harness, body: Any) -> None:
    lost_with(met, a="write")
    hello = met.connect()
    assert met.give(Welcome(hello.id, EPOCH, 1.0, {}), body)
    assert outcome(met.error("a")) == (Unavailable, "unknown", False)
    assert met.core.counters["malformed"] == 1


def test_odd_ids_in_a_welcome_are_passed_over(met: Harness) -> None:
    call = lost_with(met, a="write")["a"]
    met.meet(held=[[1], "x", call.id])
    assert met.core.outstanding == 1


# The catalogue


def test_an_unknown_script_makes_the_client_ask_again_but_not_often(
    met: Harness,
) -> None:
    met.pass_time(CATALOGUE_INTERVAL)
    met.call("a", "new")
    met.call("b", "new")
    met.call("c", "new", idempotent=True)
    kinds = [type(item) for item in met.flush()]
    assert kinds == [Request, Request, Request, Catalogue]
    met.pass_time(CATALOGUE_INTERVAL)
    met.call("d", "read")
    met.call("e", "new", idempotent=False)
    assert [type(item) for item in met.flush()] == [Request, Request]


@pytest.mark.parametrize("body", [None, 7, {}, {"scripts": [1]}])
def test_a_catalogue_that_is_none_changes_nothing(met: Harness, body: Any) -> None:
    met.pass_time(CATALOGUE_INTERVAL)
    met.call("a", "new")
    *_, catalogue = met.flush()
    assert met.give(Reply(catalogue.id, Kind.OK, 0, {}), body)
    lost_with(met, b="read")
    assert [item.script for item in met.meet(epoch=OTHER_EPOCH)] == ["read"]


def test_a_refused_catalogue_is_counted(met: Harness) -> None:
    met.pass_time(CATALOGUE_INTERVAL)
    met.call("a", "new")
    *_, catalogue = met.flush()
    assert met.give(Reply(catalogue.id, Kind.ERROR, 13, {}), {"scripts": {}})


def test_the_whole_catalogue_is_a_call_like_others(met: Harness) -> None:
    call = met.core.catalogue("a", met.now, budget=2.0)
    assert met.flush() == [Catalogue(call.id, {})]
    met.lose()
    assert met.meet(epoch=OTHER_EPOCH) == [Catalogue(call.id, {})]
    met.reply(call.id, {"scripts": {"read": {}}})
    assert met.verdicts["a"].value() == {"scripts": {"read": {}}}


def test_the_whole_catalogue_is_waited_for_as_long_as_the_client_has_patience(
    harness: Harness,
) -> None:
    harness.core.catalogue("a", harness.now)
    harness.meet()
    harness.pass_time(30.0 + GRACE)
    assert outcome(harness.error("a")) == (DeadlineExceeded, "unknown", True)


# Cancelling


def test_what_has_not_left_is_cancelled_at_once(met: Harness) -> None:
    call = met.call("a", "write")
    met.core.cancel(call, met.now)
    assert met.flush() == []
    assert outcome(met.error("a")) == (Cancelled, "no", True)


def test_what_was_sent_is_cancelled_by_the_broker(met: Harness) -> None:
    call = met.call("a", "write")
    met.flush()
    met.core.cancel(call, met.now)
    met.core.cancel(call, met.now)
    assert met.flush() == [Cancel(call.id, {})]
    assert met.verdicts == {}
    met.reply(call.id, "too late")
    assert met.verdicts["a"].value() == "too late"
    met.core.cancel(call, met.now)
    assert met.flush() == []


def test_a_cancel_after_the_verdict_is_not_sent(met: Harness) -> None:
    call = met.call("a", "write")
    met.flush()
    met.reply(call.id, 1)
    met.core.cancel(call, met.now)
    assert met.flush() == []


def test_a_cancel_during_the_loss_is_sent_when_the_broker_is_back(met: Harness) -> None:
    calls = lost_with(met, a="write", b="read")
    met.core.cancel(calls["a"], met.now)
    met.core.cancel(calls["b"], met.now)
    assert met.flush() == []
    assert met.meet(held=[calls["a"].id]) == [Cancel(calls["a"].id, {})]
    assert outcome(met.error("b")) == (Cancelled, "unknown", True)


def test_a_cancelled_repetition_may_have_been_started(met: Harness) -> None:
    call = lost_with(met, a="read")["a"]
    hello = met.connect()
    met.give(Welcome(hello.id, OTHER_EPOCH, 1.0, {}), [])
    met.core.cancel(call, met.now)
    met.settle()
    assert outcome(met.error("a")) == (Cancelled, "unknown", True)


def test_cancelled_calls_of_a_lost_broker_end_as_cancelled(met: Harness) -> None:
    call = lost_with(met, a="write")["a"]
    met.core.cancel(call, met.now)
    met.pass_time(LOST_WINDOW)
    assert outcome(met.error("a")) == (Cancelled, "unknown", False)


def test_a_cancelled_call_ends_here_when_the_broker_does_not_say_how(
    met: Harness,
) -> None:
    call = met.call("a", "write", budget=20.0)
    met.flush()
    met.core.cancel(call, met.now)
    assert met.core.wake_at() == met.now + GRACE
    met.pass_time(GRACE - 0.01)
    assert met.verdicts == {}
    met.pass_time(0.01)
    assert outcome(met.error("a")) == (Cancelled, "unknown", False)
    assert str(met.error("a")) == f"cancelled; no word of it from {ENDPOINT}"
    assert met.verdicts["a"].info == {"verdict": "client"}
    assert met.core.counters["last_resort"] == 1


def test_a_cancel_does_not_put_the_end_off(met: Harness) -> None:
    call = met.call("a", "write", budget=2.0)
    met.flush()
    met.pass_time(2.5)
    met.core.cancel(call, met.now)
    met.pass_time(GRACE - 0.5)
    assert outcome(met.error("a")) == (Cancelled, "unknown", False)


def test_what_ended_here_meanwhile_is_cancelled_at_a_broker_that_has_it(
    met: Harness,
) -> None:
    call = met.call("a", "write", budget=20.0)
    met.flush()
    met.core.cancel(call, met.now)
    met.lose()
    met.pass_time(LOST_WINDOW)
    assert outcome(met.error("a")) == (Cancelled, "unknown", False)
    assert met.meet(held=[call.id]) == [Cancel(call.id, {})]


@pytest.mark.parametrize("clients", [False, True])
@pytest.mark.parametrize("calls", [None, False, True])
def test_the_broker_is_told_whether_to_cancel_on_disconnect(
    clients: bool, calls: bool | None
) -> None:
    harness = Harness(cancel_on_disconnect=clients)
    harness.meet()
    harness.call("a", "write", cancel_on_disconnect=calls)
    (request,) = harness.flush()
    wanted = clients if calls is None else calls
    more = {"cancel_on_disconnect": True} if wanted else {}
    assert request.extras == {"accept": ["ext"], **more}


def test_a_ping_of_the_broker_is_passed_over(met: Harness) -> None:
    met.call("a", "write")
    met.flush()
    assert met.give(Ping(b"p", {})) is None
    assert met.flush() == []
    assert met.verdicts == {}


def test_close_ends_every_call_and_tells_the_broker(met: Harness) -> None:
    first, second = met.call("a", "write"), met.call("b", "read")
    met.flush()
    met.core.cancel(second, met.now)
    met.flush()
    met.call("c", "write")
    met.core.close()
    assert met.flush() == [Cancel(first.id, {})]
    assert outcome(met.error("a")) == (Cancelled, "unknown", False)
    assert outcome(met.error("b")) == (Cancelled, "unknown", True)
    assert outcome(met.error("c")) == (Cancelled, "no", True)
    with pytest.raises(RuntimeError, match="the client is closed"):
        met.call("d")
    with pytest.raises(RuntimeError, match="the client is closed"):
        met.core.catalogue("d", met.now)


def test_close_without_a_broker_sends_nothing(met: Harness) -> None:
    lost_with(met, a="write")
    met.core.close("stopped")
    assert met.flush() == []
    assert str(met.error("a")) == "stopped"


# What no broker should send


def test_a_partial_reply_is_an_error_of_that_call(met: Harness) -> None:
    call = met.call("a", "write")
    met.flush()
    assert met.give(Reply(call.id, Kind.PARTIAL, 0, {}), 1)
    assert outcome(met.error("a")) == (Internal, "yes", False)
    met.reply(call.id, 2)
    assert met.core.counters["late"] == 1


@pytest.mark.parametrize(
    "frames",
    [
        (),
        (b"",),
        (b"\xc1", b""),
        (b"", b"", b""),
        (protocol.encode(Cancel(b"1", {})), b""),
        (protocol.encode(Reply(b"1", Kind.OK, 0, {}))[:-1], b""),
    ],
)
def test_malformed_messages_are_counted_and_change_nothing(
    met: Harness, frames: Any
) -> None:
    met.call("a", "write")
    met.flush()
    assert met.core.received(frames, met.now)
    met.settle()
    assert met.core.counters["malformed"] == 1
    assert met.core.outstanding == 1


def test_unknown_replies_are_counted_as_late_and_pongs_are_welcome(
    met: Harness,
) -> None:
    assert met.reply(b"nobody's") is None
    assert met.reply(b"nobody's") is None
    assert met.give(Pong(b"1", {})) is None
    assert met.core.counters["late"] == 2
    assert met.core.counters["malformed"] == 0


def test_ids_are_16_bytes_begin_with_the_session_and_differ(met: Harness) -> None:
    ids = {met.call(str(index)).id for index in range(100)}
    assert len(ids) == 100
    assert {(len(id_), id_[:8]) for id_ in ids} == {(16, bytes(range(8)))}
