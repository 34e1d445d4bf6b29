"""`python -m tests.guard [--update | --look NAME]`: what a request costs, counted.

Without a word it prints the counts beside those of the table; `--update` writes them
into it, with new ceilings; `--look direct.calls` says of which functions they are, and
`--look syscalls.broker` of which system calls.
"""

from __future__ import annotations

import sys
from collections import Counter

from falconas.cli.table import render
from tests.guard import counts, syscalls, table


def look(name: str) -> Counter[str]:
    """Return what is counted, for one request."""
    if name.startswith("syscalls."):
        found, each = syscalls.measure()[name], syscalls.REQUESTS
    else:
        scenario = counts.SCENARIOS[name.partition(".")[0]]
        found, each = counts.calls(counts.warm(scenario)), counts.STEPS
    return Counter({what: round(count / each, 2) for what, count in found.items()})


def main() -> None:
    if sys.argv[1:2] == ["--look"]:
        rows = [{"what": w, "count": n} for w, n in look(sys.argv[2]).most_common(40)]
        print(render(rows))
        return
    seen = counts.measured()
    if obstacle := syscalls.obstacle():
        print(f"system calls are not counted: {obstacle}", file=sys.stderr)
    else:
        seen |= syscalls.of_a_request()
    known = table.read()
    if sys.argv[1:] == ["--update"]:
        table.write(known | {name: table.row(name, now) for name, now in seen.items()})
    names = {name: known.get(name, {}) for name in seen}
    print(render([{"name": n, "now": seen[n], **old} for n, old in names.items()]))


if __name__ == "__main__":
    main()
