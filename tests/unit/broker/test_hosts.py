from __future__ import annotations

from typing import Any

from falconas.broker.hosts import SILENCE, Hosts
from falconas.protocol import Register


def register(hosts: Hosts, name: bytes, manifest: str, **scripts: Any) -> None:
    message = Register(b"r", name, "host", manifest, {})
    hosts.register(b"link " + name, message, scripts, 10.0)


def test_three_missed_heartbeats_are_silence() -> None:
    hosts = Hosts()
    register(hosts, b"1", "m")
    register(hosts, b"2", "m")
    assert hosts.heartbeat(b"2", b"new link", 12.0)

    assert not hosts.silent(10.0 + SILENCE)
    assert [s.uuid for s in hosts.silent(10.1 + SILENCE)] == [b"1"]
    assert [*hosts.supervisors] == [b"2"]
    assert hosts.supervisors[b"2"].identity == b"new link"


def test_who_never_registered_must() -> None:
    assert not Hosts().heartbeat(b"1", b"link", 1.0)


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

    catalogue = hosts.catalogue()

    assert catalogue == {"a": bad, "b": new, "c": old}
    assert [*catalogue] == ["a", "b", "c"]


def test_manifests_that_nobody_has_any_more_leave_the_catalogue() -> None:
    hosts = Hosts()
    register(hosts, b"1", "m1", a={})
    register(hosts, b"1", "m2", b={})

    assert hosts.catalogue() == {"b": {}}
