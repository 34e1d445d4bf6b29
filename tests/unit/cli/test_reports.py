from __future__ import annotations

from typing import Any

from falconas.cli.reports import (
    catalogue_text,
    example_call,
    nodes_text,
    reloads_text,
    script_text,
    signature,
    status_text,
)
from falconas.client.operator import Reloaded

PARAMS: list[dict[str, Any]] = [
    {"name": "id", "type": "int", "required": True, "schema": {"type": "integer"}},
    {"name": "kind", "type": "str", "required": False, "default": "a"},
    {
        "name": "tags",
        "type": "list[str]",
        "required": True,
        "schema": {
            "type": "array",
            "items": {"$ref": "#/$defs/Tag"},
            "$defs": {
                "Tag": {
                    "properties": {"size": {"type": "integer", "minimum": 1}},
                    "required": ["size"],
                }
            },
        },
    },
]
GOOD: dict[str, Any] = {
    "access": "read",
    "idempotent": True,
    "budget": 2.0,
    "hash": "00ffeeddccbbaa99",
    "description": "Does it.\n\nReally.",
    "params": PARAMS,
    "error": None,
}
COUNTS = ["workers", "ready", "busy", "requests", "errors"]
BAD: dict[str, Any] = {"params": [], "error": "bad.py:1: SyntaxError: no\x1b"}


def test_signature_reads_like_python() -> None:
    assert signature(PARAMS) == 'id: int, kind: str = "a", tags: list[str]'
    assert signature([]) == ""


def test_catalogue_lists_what_is_served_and_what_does_not_load() -> None:
    lines = catalogue_text({"bad": BAD, "good": GOOD}).split("\n")
    heads = ["script", "access", "hash", "parameters", "description"]
    assert lines[0].split() == heads
    assert lines[2].startswith("good    read    00ffeedd  id: int, kind")
    assert lines[2].endswith("Does it.")
    assert lines[3:] == ["", "do not load:", r"  bad: bad.py:1: SyntaxError: no\x1b"]


def test_a_quarantined_script_is_named() -> None:
    held = {**GOOD, "quarantined": "it killed 3 workers"}
    text = catalogue_text({"good": GOOD, "held": held})
    assert text.endswith("\n\nquarantined:\n  held: it killed 3 workers")
    assert "quarantined: it killed 3 workers" in script_text("held", {"held": held})
    assert "quarantined" not in script_text("good", {"good": GOOD})


def test_an_empty_catalogue_says_so() -> None:
    assert catalogue_text({}) == "no script is served"
    assert "do not load" not in catalogue_text({"good": GOOD})


def test_a_script_in_full() -> None:
    text = script_text("good", {"good": GOOD})
    for part in (
        "good(id: int",
        "Does it.\n\nReally.",
        "read",
        "2s",
        "00ffeeddccbbaa99",
        "yes",
    ):
        assert part in text
    rows = [line.split() for line in text.split("\n")[-8:]]
    assert rows == [
        ["id", "int", "(required)"],
        ["kind", "str", '"a"'],
        ["tags", "list[Tag]", "(required)"],
        [],
        ["Tag:"],
        ["field", "type", "default"],
        ["-----", "--------", "----------"],
        ["size", "int", ">=", "1", "(required)"],
    ]


def test_a_datetime_is_called_one() -> None:
    param = {"name": "at", "type": "datetime", "required": True}
    param["schema"] = {"type": "string"}
    text = script_text("x", {"x": {**GOOD, "params": [param]}})
    assert text.splitlines()[-1].split() == ["at", "datetime", "(required)"]


def test_a_script_that_does_not_load() -> None:
    assert script_text("bad", {"bad": BAD}).endswith(r"SyntaxError: no\x1b")


def test_a_script_without_budget_has_the_brokers() -> None:
    assert "the broker's" in script_text("x", {"x": {**GOOD, "budget": None}})


def test_example_call_gives_what_is_required() -> None:
    assert example_call({"good": GOOD, "bad": BAD}) == "good id=1 tags:=[]"
    assert example_call({"bad": BAD}) == "SCRIPT key=value"


def report(**changes: Any) -> dict[str, Any]:
    worker = {
        "worker": "h/0",
        "pid": 7,
        "host": "h",
        "group": "default",
        "node": "main",
        "manifest": "0123456789abcdef",
        "state": "busy",
        "reason": None,
        "script": "echo",
        "running_s": 1.26,
        "served": 5,
        "errors": 2,
    }
    idle = {**worker, "worker": "h/1", "state": "idle", "script": None}
    idle["running_s"] = None
    return {
        "epoch": "00",
        "uptime": 93784.5,
        "draining": False,
        "queue": {"requests": 3, "bytes": 2048},
        "counters": {"lost": 1, "zero": 0},
        "workers": [worker, idle],
        "supervisors": [],
        "clients": 4,
        **changes,
    }


def test_status_shows_broker_and_workers() -> None:
    lines = status_text(report()).split("\n")
    assert lines[:4] == [
        "broker:  up 1d 2h",
        "queue:   3 requests, 2KiB",
        "clients: 4",
        "workers: 2, 1 busy",
    ]
    assert (
        " ".join(lines[7].split()) == "h/0 default main 01234567 busy echo 1.3 s 5 2 7"
    )
    assert " ".join(lines[8].split()) == "h/1 default main 01234567 idle - - 5 2 7"
    assert lines[-1] == "lost: 1"


def test_status_without_workers() -> None:
    text = status_text(report(workers=[], uptime=4, draining=True, counters={}))
    assert text.startswith("broker:  up 4s, draining\n")
    assert text.endswith("workers: 0, 0 busy")


def test_status_says_why_a_worker_is_not_ready() -> None:
    worker = {**report()["workers"][1], "state": "unready", "reason": "no database"}
    assert "h/1 is not ready: no database" in status_text(report(workers=[worker]))


def supervisor(host: str, **changes: Any) -> dict[str, Any]:
    entry = {"host": host, "pid": 9, "workers": 2, "seen_s": 0.1}
    entry |= {"manifest": "0123456789abcdef", "draining": False, "reload": None}
    return entry | changes


def test_status_shows_the_supervisors_and_their_reloads() -> None:
    failed = {"id": "00", "state": "failed", "reason": "a.py:1: SyntaxError\x1b"}
    text = status_text(
        report(
            supervisors=[
                supervisor("a"),
                supervisor("b", draining=True, reload={"state": "done", "reason": ""}),
                supervisor("c", reload=failed),
            ]
        )
    )
    rows = [" ".join(line.split()) for line in text.split("\n")]
    start = rows.index("host pid workers manifest state reload")
    assert rows[start + 2 : start + 6] == [
        "a 9 2 01234567 serving -",
        "b 9 2 01234567 draining done",
        "c 9 2 01234567 serving failed",
        r"c: reload failed: a.py:1: SyntaxError\x1b",
    ]


def test_status_says_what_is_quarantined() -> None:
    entry = {"script": "bad", "manifest": "0123456789abcdef", "hash": "1", "since": 75}
    text = status_text(report(quarantined=[entry]))
    assert "bad is quarantined for 1m 15s: it killed its workers" in text
    assert "(manifest 01234567)" in text


def test_a_reload_is_a_row_for_each_supervisor() -> None:
    old, new = "0123456789abcdef", "fedcba9876543210"
    lines = reloads_text(
        [
            Reloaded("a", 1, "done", old, new, ""),
            Reloaded("b", 2, "failed", old, old, "x.py does not load"),
            Reloaded("c", 3, "gone", "", "", "its supervisor has left"),
        ]
    ).split("\n")
    assert [" ".join(line.split()) for line in lines] == [
        "host pid result manifest reason",
        "---- --- ------ -------------------- -----------------------",
        "a 1 done 01234567 -> fedcba98 -",
        "b 2 failed 01234567 -> 01234567 x.py does not load",
        "c 3 gone ? -> ? its supervisor has left",
    ]


def test_status_takes_a_report_of_an_older_broker() -> None:
    worker = report()["workers"][0]
    del worker["reason"]
    assert "h/0" in status_text(report(workers=[worker]))


def node(**changes: Any) -> dict[str, Any]:
    return {
        "name": "n1",
        "database": "main",
        "role": "primary",
        "up": True,
        "lag": 0.0,
        "lsn": 50331976,
        "timeline": 1,
        "reason": None,
        "workers": 4,
        "ready": 4,
        "busy": 1,
        "requests": 120,
        "errors": 2,
        **changes,
    }


def test_nodes_and_what_is_wrong_with_one() -> None:
    text = nodes_text(
        [
            node(),
            node(name="n2", role="standby", lag=0.26),
            node(name="n3", role="unknown", lag=None, up=False, reason="refused\x1b"),
            node(name="n4", lag=None, up=False),
        ],
        1,
    )
    assert [line.split() for line in text.splitlines() if "--" not in line] == [
        ["node", "database", "role", "lag", "health", *COUNTS],
        ["n1", "main", "primary", "0.0", "s", "up", "4", "4", "1", "120", "2"],
        ["n2", "main", "standby", "0.3", "s", "up", "4", "4", "1", "120", "2"],
        ["n3", "main", "unknown", "-", "down", "4", "4", "1", "120", "2"],
        ["n4", "main", "was", "primary", "-", "down", "4", "4", "1", "120", "2"],
        ["n3:", r"refused\x1b"],
    ]


def test_no_nodes_say_why() -> None:
    assert nodes_text([], 0).startswith("no node is known: no worker and no superv")
    assert nodes_text([], 2).startswith("no node is known: no supervisor has")


def test_nodes_stand_in_the_status() -> None:
    text = status_text(report(nodes=[node(name="n7", up=False, reason="gone")]))
    assert "n7    main" in text
    assert "n7: gone" in text
    assert "database" not in status_text(report())


def test_groups_stand_in_the_catalogue_where_there_are_several() -> None:
    first, second = ({**GOOD, "group": group} for group in ("reports", "web"))
    text = catalogue_text({"a": first, "b": second})
    assert text.split("\n")[0].split()[:3] == ["script", "access", "group"]
    assert "reports" in text
    assert "group" not in catalogue_text({"a": first, "b": first})


def test_a_script_s_group_and_lag() -> None:
    text = script_text("x", {"x": {**GOOD, "group": "web", "max_lag": 2.0}})
    assert "group:" in text
    assert "max_lag:" in text
    assert "2s" in text
    assert "max_lag" not in script_text("x", {"x": {**GOOD, "max_lag": None}})
