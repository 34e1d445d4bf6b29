"""The catalogue and the broker's report as text for people."""

from __future__ import annotations

import json
import shutil
import sys
from typing import Any

from falconas.cli.shapes import fields, shape
from falconas.cli.table import UNLIMITED, render, table
from falconas.logs import printable
from falconas.options import format_duration, format_size

_SAMPLES = {"integer": "=1", "number": "=1.5", "boolean": "=true"}
_SAMPLES |= {"array": ":=[]", "object": ":={}"}
_WORKER_COLUMNS = ("worker", "group", "node", "state", "script", "running")
_COUNT_COLUMNS = ("served", "errors", "pid")


def catalogue_text(scripts: dict[str, Any]) -> str:
    """List the scripts that are served, then those that do not load."""
    good = {n: entry for n, entry in scripts.items() if not entry.get("error")}
    lines = []
    if good:
        rows = [
            {
                "script": name,
                "access": entry.get("access", "?"),
                "parameters": signature(entry.get("params") or []),
                "description": _first_line(entry.get("description")),
            }
            for name, entry in sorted(good.items())
        ]
        lines += table(rows, width=_width())
    else:
        lines.append("no script is served")
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
    if entry.get("description"):
        lines += ["", render(entry["description"])]
    budget = entry.get("budget")
    facts = {
        "access": entry.get("access", "?"),
        "idempotent": "yes" if entry.get("idempotent") else "no",
        "budget": "the broker's" if budget is None else format_duration(budget),
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
    """Show the broker in a few lines and its workers as a table."""
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
    counters = {name: n for name, n in report["counters"].items() if n}
    if counters:
        lines += ["", render(counters)]
    return "\n".join(lines)


def _row(worker: dict[str, Any]) -> dict[str, Any]:
    running = worker["running_s"]
    row = {name: worker.get(name) for name in _WORKER_COLUMNS}
    row["running"] = None if running is None else f"{running:.1f} s"
    return row | {name: worker[name] for name in _COUNT_COLUMNS}


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
