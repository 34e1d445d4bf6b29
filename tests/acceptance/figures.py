"""What a campaign has measured, in one line."""

from __future__ import annotations

from collections.abc import Sequence


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of all is not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def show(what: str, **seconds: Sequence[float]) -> None:
    """Print what was done, and how long it took as p50, p99 and the most, in ms."""
    parts = [what]
    for name, values in seconds.items():
        if values:
            of = quantile(values, 0.5), quantile(values, 0.99), max(values)
            p50, p99, most = (f"{1000 * value:.0f}" for value in of)
            parts.append(f"{name} p50 {p50} p99 {p99} max {most} ms")
    print(f"\n{'; '.join(parts)}")
