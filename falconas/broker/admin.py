"""The report for operators: what `falconas status` shows."""

from __future__ import annotations

from math import inf
from typing import Any

from falconas.broker.core import BrokerCore
from falconas.broker.nodes import NOWHERE, Facts
from falconas.broker.pool import Pool
from falconas.broker.records import Tally, Worker


def report(core: BrokerCore, now: float) -> dict[str, Any]:
    """Return the broker's state as plain values (docs/protocol.md, "INSPECT")."""
    flow = core.flow
    workers = sorted(flow.pool.by_uuid.values(), key=lambda worker: worker.name)
    return {
        "epoch": flow.epoch.hex(),
        "uptime": round(now - flow.began, 3),
        "draining": core.draining_until < inf,
        "queue": {"requests": flow.backlog.count, "bytes": flow.backlog.bytes},
        "counters": dict(sorted(flow.counters.items())),
        "workers": [_worker(worker, now) for worker in workers],
        "nodes": [_node(flow.pool, name) for name in _names(flow.pool)],
        "supervisors": [
            {
                "host": supervisor.host,
                "pid": supervisor.facts.get("pid"),
                "workers": len(flow.pool.of_supervisor(supervisor.uuid)),
                "seen_s": round(now - supervisor.seen, 3),
                "manifest": supervisor.manifest,
                "draining": supervisor.draining,
                "reload": supervisor.reload,
            }
            for supervisor in core.hosts.supervisors.values()
        ],
        "quarantined": [
            {
                "script": suspect.script,
                "manifest": suspect.manifest,
                "hash": core.hosts.entry(suspect).get("hash"),
                "since": round(now - since, 3),
            }
            for suspect, since in flow.pool.quarantine.since.items()
            if core.hosts.entry(suspect)  # else a reload has replaced it
        ],
        "clients": len(flow.clients),
    }


def _names(pool: Pool) -> list[str]:
    return sorted({*pool.nodes.facts, *(lane.node for lane in pool.lanes)})


def _node(pool: Pool, name: str) -> dict[str, Any]:
    facts = pool.nodes.facts.get(name, Facts())
    lanes = [lane for lane in pool.lanes.values() if lane.key.node == name]
    workers = [worker for lane in lanes for worker in lane.workers]
    past = pool.tallies.get(name, Tally())
    return {
        "name": name,
        "database": facts.database or None,
        "role": facts.role,
        "up": facts.up,
        "lag": facts.lag,
        "lsn": None if facts.lsn == NOWHERE else facts.lsn,
        "timeline": facts.timeline or None,
        "reason": facts.reason or None,
        "workers": len(workers),
        "ready": sum(lane.ready for lane in lanes),
        "busy": sum(bool(worker.hands) for worker in workers),
        "requests": past.requests + sum(worker.served for worker in workers),
        "errors": past.errors + sum(worker.errors for worker in workers),
    }


def summary(core: BrokerCore) -> str:
    """Return one line for the service manager."""
    flow = core.flow
    return f"{len(flow.pool.by_uuid)} workers, {flow.backlog.count} requests waiting"


def _worker(worker: Worker, now: float) -> dict[str, Any]:
    pending = next(iter(worker.hands.values()), None)
    state = "busy" if pending else "idle" if worker.ready else "unready"
    return {
        "worker": worker.name,
        "pid": worker.facts.get("pid"),
        "host": worker.facts.get("host"),
        "group": worker.lane.group,
        "node": worker.lane.node,
        "manifest": worker.lane.manifest,
        "state": state,
        "reason": worker.facts.get("reason") or None,
        "script": pending.script if pending else None,
        "running_s": round(now - pending.handed, 3) if pending else None,
        "served": worker.served,
        "errors": worker.errors,
    }
