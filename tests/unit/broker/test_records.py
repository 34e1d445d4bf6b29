from __future__ import annotations

from falconas.broker.records import LaneKey, Worker


def test_a_workers_name_is_what_it_says_or_host_and_index() -> None:
    lane = LaneKey("m", "default", "")
    facts = {"host": "db1", "index": 3}

    assert Worker(b"u", b"i", b"s", lane, facts).name == "db1/3"
    assert Worker(b"u", b"i", b"s", lane, {"name": "w"}).name == "w"
