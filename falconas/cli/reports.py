"""The catalogue and the broker's report as text for people."""

from __future__ import annotations

import difflib
import json
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from falconas.cli.output import short
from falconas.cli.shapes import fields, shape
from falconas.cli.table import UNLIMITED, render, table
from falconas.logs import printable
from falconas.quantities import format_duration, format_size

if TYPE_CHECKING:
    from falconas.client.operator import Reloaded

_SAMPLES = {"integer": "=1", "number": "=1.5", "boolean": "=true"}
_SAMPLES |= {"array": ":=[]", "object": ":={}"}
_WORKER_COLUMNS = ("worker", "group", "node", "manifest", "state", "script", "running")
_NODE_COUNTS = ("workers", "ready", "busy", "requests", "errors")
_COUNT_COLUMNS = ("served", "errors", "pid")


def catalogue_text(scripts: dict[str, Any]) -> str:
    """List the scripts that are served, then those that cannot be."""
    good = {n: entry for n, entry in scripts.items() if not entry.get("error")}
    grouped = len({entry.get("group") for entry in good.values()}) > 1
    lines = []
    if good:
        rows = [
            {
                "script": name,
                "access": entry.get("access", "?"),
                **({"group": entry.get("group")} if grouped else {}),
                "hash": short(entry.get("hash")),
                "parameters": signature(entry.get("params") or []),
                "description": _first_line(entry.get("description")),
            }
            for name, entry in sorted(good.items())
        ]
        lines += table(rows, width=_width())
    else:
        lines.append("no script is served")
    held = sorted(name for name, entry in good.items() if entry.get("quarantined"))
    if held:
        lines += ["", "quarantined:"]
        lines += [f"  {n}: {printable(good[n]['quarantined'])}" for n in held]
    bad = sorted(scripts.keys() - good.keys())
    if bad:
        lines += ["", "do not load:"]
        lines += [f"  {name}: {printable(scripts[name]['error'])}" for name in bad]
    return "\n".join(lines)


def script_text(name: str, scripts: dict[str, Any]) -> str:
    """Tell all that the catalogue says about one script."""
    entry = scripts[name]
    params = entry.get("params") or []
    lines = [f"{name}({signature(params)})"]
    if entry.get("error"):
        return "\n".join([*lines, "", f"does not load: {printable(entry['error'])}"])
    if entry.get("quarantined"):
        lines += ["", f"quarantined: {printable(entry['quarantined'])}"]
    if entry.get("description"):
        lines += ["", render(entry["description"])]
    budget, lag = entry.get("budget"), entry.get("max_lag")
    facts = {
        "access": entry.get("access", "?"),
        "idempotent": "yes" if entry.get("idempotent") else "no",
        "budget": "the broker's" if budget is None else format_duration(budget),
        **({"group": entry["group"]} if entry.get("group") else {}),
        **({"max_lag": format_duration(lag)} if lag is not None else {}),
        "hash": entry.get("hash", "?"),
    }
    lines += ["", render(facts)]
    if params:
        rows = [
            {
                "parameter": param["name"],
                "type": _type(param),
                "default": "(required)" if param["required"] else _default(param),
            }
            for param in params
        ]
        lines += ["", *table(rows, width=_width())]
    structs: dict[str, Any] = {}
    for param in params:
        structs |= fields(param.get("schema") or {})
    for struct, rows in structs.items():
        lines += ["", f"{struct}:", *table(rows, width=_width())]
    return "\n".join(lines)


def _type(param: dict[str, Any]) -> str:
    declared: str = param["type"]
    schema = param.get("schema")
    # A datetime without a zone is a mere text to JSON Schema.
    return shape(schema) if schema and "datetime" not in declared else declared


def signature(params: list[dict[str, Any]]) -> str:
    """Write parameters as in Python: `customer_id: int, limit: int = 10`."""
    return ", ".join(
        f"{param['name']}: {param['type']}"
        + ("" if param["required"] else f" = {_default(param)}")
        for param in params
    )


def nearest(name: str, scripts: dict[str, Any]) -> str:
    """Say which script may have been meant by a name that none has."""
    near = difflib.get_close_matches(name, scripts, 1)
    return (
        f"did you mean {near[0]}?" if near else "`falconas scripts` lists all there are"
    )


def example_call(scripts: dict[str, Any]) -> str:
    """Write a call of the first script with what it requires: `echo value=text`."""
    good = sorted(n for n, entry in scripts.items() if not entry.get("error"))
    if not good:
        return "SCRIPT key=value"
    required = [p for p in scripts[good[0]].get("params") or [] if p["required"]]
    samples = [
        p["name"] + _SAMPLES.get((p.get("schema") or {}).get("type", ""), "=text")
        for p in required
    ]
    return " ".join([good[0], *samples])


def status_text(report: dict[str, Any]) -> str:
    """Show the broker in a few lines, its workers and their supervisors as tables."""
    queue = report["queue"]
    workers = report["workers"]
    busy = sum(worker["state"] == "busy" for worker in workers)
    facts = {
        "broker": f"up {_age(report['uptime'])}"
        + (", draining" if report["draining"] else ""),
        "queue": f"{queue['requests']} requests, {format_size(queue['bytes'])}",
        "clients": report["clients"],
        "workers": f"{len(workers)}, {busy} busy",
    }
    lines = [render(facts)]
    if workers:
        lines += ["", *table([_row(w) for w in workers], width=_width())]
    reasons = [w for w in workers if w.get("reason")]
    lines += [f"{w['worker']} is not ready: {printable(w['reason'])}" for w in reasons]
    if report.get("nodes"):
        lines += ["", nodes_text(report["nodes"], len(report["supervisors"]))]
    lines += _hosts(report["supervisors"])
    lines += [
        f"{q['script']} is quarantined for {_age(q['since'])}: it killed its workers;"
        f" a reload lifts that (manifest {short(q['manifest'])})"
        for q in report.get("quarantined", ())
    ]
    counters = {name: n for name, n in report["counters"].items() if n}
    if counters:
        lines += ["", render(counters)]
    return "\n".join(lines)


def _row(worker: dict[str, Any]) -> dict[str, Any]:
    running = worker["running_s"]
    row = {name: worker.get(name) for name in _WORKER_COLUMNS}
    row["manifest"] = short(row["manifest"])
    row["running"] = None if running is None else f"{running:.1f} s"
    return row | {name: worker[name] for name in _COUNT_COLUMNS}


def nodes_text(nodes: list[dict[str, Any]], supervisors: int) -> str:
    """Show the database nodes, and what is wrong with one."""
    if not nodes:
        why = "no worker and no supervisor is there"
        if supervisors:
            why = "no supervisor has found one yet; the log says why"
        return f"no node is known: {why}"
    rows = [
        {
            "node": node["name"],
            "database": node["database"] or None,
            "role": _role(node),
            "lag": None if node["lag"] is None else f"{node['lag']:.1f} s",
            "health": "up" if node["up"] else "down",
            **{name: node[name] for name in _NODE_COUNTS},
        }
        for node in nodes
    ]
    reasons = [
        f"{node['name']}: {printable(node['reason'])}"
        for node in nodes
        if node.get("reason")
    ]
    return "\n".join([*table(rows, width=_width()), *reasons])


def _role(node: dict[str, Any]) -> str:
    """Tell what a node is, or was before it went down."""
    role: str = node["role"]
    return role if node["up"] or role == "unknown" else f"was {role}"


def _hosts(supervisors: list[dict[str, Any]]) -> list[str]:
    """Show who keeps workers, and what became of the last reload there."""
    if not supervisors:
        return []
    rows = [
        {
            "host": entry.get("host"),
            "pid": entry.get("pid"),
            "workers": entry.get("workers"),
            "manifest": short(entry.get("manifest")),
            "state": "draining" if entry.get("draining") else "serving",
            "reload": (entry.get("reload") or {}).get("state"),
        }
        for entry in supervisors
    ]
    reasons = [
        f"{entry['host']}: reload {said['state']}: {printable(said['reason'])}"
        for entry in supervisors
        if (said := entry.get("reload")) and said.get("reason")
    ]
    return ["", *table(rows, width=_width()), *reasons]


def reloads_text(results: Sequence[Reloaded]) -> str:
    """Show how a reload ended for each supervisor."""
    rows = [
        {
            "host": result.host,
            "pid": result.pid,
            "result": result.result,
            "manifest": f"{short(result.old) or '?'} -> {short(result.new) or '?'}",
            "reason": result.reason or None,
        }
        for result in results
    ]
    return "\n".join(table(rows, width=_width()))


def _age(seconds: float) -> str:
    """Write an age with its two largest units: `2d 3h`."""
    whole = int(seconds)
    days, hours = divmod(whole // 3600, 24)
    parts = [(days, "d"), (hours, "h"), (whole // 60 % 60, "m"), (whole % 60, "s")]
    first = next((i for i, (number, _) in enumerate(parts) if number), 3)
    return " ".join(f"{n}{unit}" for n, unit in parts[first : first + 2])


def _default(param: dict[str, Any]) -> str:
    return json.dumps(param.get("default"), ensure_ascii=False, default=str)


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]


def _width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else UNLIMITED
