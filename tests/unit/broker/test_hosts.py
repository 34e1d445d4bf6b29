from __future__ import annotations

from typing import Any

import pytest

from falconas.broker.hosts import REASON_LIMIT, SILENCE, Hosts, beat_of
from falconas.broker.quarantine import Quarantine, Suspect
from falconas.codec import encode_value
from falconas.errors import FalconError, InvalidArgument, NotFound, Unavailable
from falconas.protocol import NAME_LIMIT, Heartbeat, Register


def register(hosts: Hosts, name: bytes, manifest: str, **scripts: Any) -> None:
    message = Register(b"r", name, "host", manifest, {})
    hosts.register(b"link " + name, message, scripts, 10.0)


def beat(hosts: Hosts, name: bytes, now: float = 12.0, **extras: Any) -> bool:
    return hosts.heartbeat(Heartbeat(b"h", name, extras), b"new link", now)


def test_three_missed_heartbeats_are_silence() -> None:
    hosts = Hosts()
    register(hosts, b"1", "m")
    register(hosts, b"2", "m")
    assert beat(hosts, b"2")

    assert not hosts.silent(10.0 + SILENCE)
    assert [s.uuid for s in hosts.silent(10.1 + SILENCE)] == [b"1"]
    assert [*hosts.supervisors] == [b"2"]
    assert hosts.supervisors[b"2"].identity == b"new link"
    (gone,) = hosts.leave(b"new link")
    assert gone.uuid == b"2"
    assert hosts.leave(b"new link") == []
    assert hosts.departed == ["host host is silent: given up", "host host left"]


def test_a_script_is_offered_while_some_host_has_it() -> None:
    hosts = Hosts()
    assert hosts.offers("echo")  # who knows, without a host
    register(hosts, b"1", "old", echo={})
    register(hosts, b"2", "new", other={})
    assert hosts.offers("echo")
    register(hosts, b"1", "new", other={})
    assert not hosts.offers("echo")
    hosts.leave(b"link 1")
    hosts.leave(b"link 2")
    assert hosts.offers("echo")


def test_who_never_registered_must() -> None:
    assert not beat(Hosts(), b"1")


def test_how_a_supervisor_is_comes_with_its_heartbeats() -> None:
    hosts = Hosts()
    register(hosts, b"1", "m")
    supervisor = hosts.supervisors[b"1"]
    said = {"id": b"\x01\xff", "state": "rolling", "reason": "", "future": 1}

    beat(hosts, b"1", draining=True, reload=said)
    assert supervisor.draining
    assert supervisor.reload == {"id": "01ff", "state": "rolling", "reason": ""}

    beat(hosts, b"1")
    assert not supervisor.draining
    assert supervisor.reload is None


@pytest.mark.parametrize(
    "said",
    [
        None,
        "done",
        {},
        {"id": 1, "state": "done"},
        {"id": b"1", "state": 1},
        {"state": "done", "reason": "x"},
    ],
)
def test_what_cannot_be_read_of_a_reload_is_left_out(said: Any) -> None:
    hosts = Hosts()
    register(hosts, b"1", "m")

    beat(hosts, b"1", draining="yes", reload=said)

    assert hosts.supervisors[b"1"].reload is None
    assert not hosts.supervisors[b"1"].draining


def test_what_a_supervisor_says_is_bounded() -> None:
    hosts = Hosts()
    register(hosts, b"1", "m")

    beat(hosts, b"1", reload={"id": "text", "state": "x" * 9999, "reason": "y" * 9999})
    told = hosts.supervisors[b"1"].reload
    assert told == {
        "id": b"text".hex(),
        "state": "x" * NAME_LIMIT,
        "reason": "y" * REASON_LIMIT,
    }

    beat(hosts, b"1", reload={"id": b"1", "state": "done", "reason": 1})
    told = hosts.supervisors[b"1"].reload
    assert told == {"id": "31", "state": "done", "reason": ""}


def test_supervisors_by_the_name_of_their_host() -> None:
    hosts = Hosts()
    with pytest.raises(Unavailable):
        hosts.named(None)
    with pytest.raises(NotFound, match="known: none"):
        hosts.named("host")
    register(hosts, b"1", "m")
    register(hosts, b"2", "m")

    assert len(hosts.named(None)) == len(hosts.named("host")) == 2
    wrong: list[tuple[Any, type[FalconError]]] = [
        ("other", NotFound),
        (7, InvalidArgument),
    ]
    for name, error in wrong:
        with pytest.raises(error):
            hosts.named(name)


def test_a_supervisor_leaves() -> None:
    hosts = Hosts()
    register(hosts, b"1", "m")
    register(hosts, b"2", "m")

    hosts.leave(b"link 1")

    assert [*hosts.supervisors] == [b"2"]


def test_catalogue_prefers_sound_and_new_versions() -> None:
    hosts = Hosts()
    bad, old, new = {"error": "x"}, {"hash": "old"}, {"hash": "new"}
    register(hosts, b"1", "m1", b=old, a=bad, c=old)
    register(hosts, b"2", "m2", b=new, a=bad, c=bad)

    catalogue = hosts.catalogue(Quarantine())

    assert catalogue == {"a": bad, "b": new, "c": old}
    assert [*catalogue] == ["a", "b", "c"]


def test_manifests_that_nobody_has_any_more_leave_the_catalogue() -> None:
    hosts = Hosts()
    register(hosts, b"1", "m1", a={})
    register(hosts, b"1", "m2", b={})

    assert hosts.catalogue(Quarantine()) == {"b": {}}


def test_the_version_that_is_shown_is_quarantined_or_not() -> None:
    hosts, quarantine = Hosts(), Quarantine()
    register(hosts, b"1", "m1", a={"hash": "old"})
    for _ in range(3):
        quarantine.crashed(Suspect("m1", "a"), 1.0)
    assert "quarantined" in hosts.catalogue(quarantine)["a"]

    register(hosts, b"2", "m2", a={"hash": "new"})

    assert hosts.catalogue(quarantine) == {"a": {"hash": "new"}}
    assert hosts.entry(Suspect("m1", "a")) == {"hash": "old"}
    assert hosts.entry(Suspect("m3", "a")) == hosts.entry(Suspect("m1", "b")) == {}


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ({"workers": [b"w"], "nodes": [1]}, ({b"w"}, [1])),
        ({"workers": [b"w", "w", [], None]}, ({b"w"}, None)),
        ({"workers": "w"}, (None, None)),
        ({}, (None, None)),
        ([b"w"], (None, None)),
        (None, (None, None)),
    ],
)
def test_a_heartbeats_body_is_read_as_far_as_it_can_be(said: Any, read: Any) -> None:
    assert beat_of(encode_value(said)) == read


def test_a_heartbeats_body_may_be_no_value_at_all() -> None:
    assert beat_of(b"\xc1") == (None, None)
