from __future__ import annotations

from falconas.broker.admin import report, summary
from falconas.protocol import Reply
from tests.unit.broker.desk import Desk, node


def test_each_node_is_reported_with_its_workers_and_their_figures() -> None:
    desk = Desk()
    desk.register()
    desk.worker("w1", node="n1")
    desk.worker("w2", node="n1", ready=False)
    desk.worker("bare", node="other", ready=False)
    down = node("n2", up=False, lag=None, lsn=-1, reason="connection refused")
    desk.report(node("n1", "primary", timeline=3), down)
    desk.ask("write")
    sent = desk.handed()
    desk.core.reply(desk.backend("w1"), Reply(sent.message.id, 2, 2, {}), b"", desk.now)
    desk.ask("write")
    desk.lost("w1", desk.handed().message.id)
    desk.worker("w3", node="n1")
    desk.worker("w4", node="n1")
    desk.ask("write")

    nodes = report(desk.core, desk.now)["nodes"]

    assert nodes == [
        {
            "name": "n1",
            "database": "main",
            "role": "primary",
            "up": True,
            "lag": 0.0,
            "lsn": 10,
            "timeline": 3,
            "reason": None,
            "workers": 3,
            "ready": 2,
            "busy": 1,
            "requests": 2,
            "errors": 2,
        },
        {
            "name": "n2",
            "database": "main",
            "role": "standby",
            "up": False,
            "lag": None,
            "lsn": None,
            "timeline": None,
            "reason": "connection refused",
            **dict.fromkeys(("workers", "ready", "busy", "requests", "errors"), 0),
        },
        {
            "name": "other",
            "database": None,
            "role": "unknown",
            "up": True,
            "lag": None,
            "lsn": None,
            "timeline": None,
            "reason": None,
            "workers": 1,
            "ready": 0,
            "busy": 0,
            "requests": 0,
            "errors": 0,
        },
    ]


def test_the_line_for_the_service_manager() -> None:
    desk = Desk()
    desk.worker("w1")

    assert summary(desk.core) == "1 workers, 0 requests waiting"
