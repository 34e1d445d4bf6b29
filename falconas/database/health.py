"""Whether a node can be used, from what was seen of it: pure, `now` comes in.

A node is up while its last probe succeeded. One that is down is probed at intervals
that double, each node by itself. When it returns it is on probation: it gets a tenth of
its share at first and all of it at the end. A node that keeps failing is on probation
for longer each time, so that work is not moved to and fro.

A node is suspect when something failed on it that a probe has not explained yet. So is
one that answers, but takes no new connection: those who are connected can work on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

FIRST_DELAY = 0.1
LONGEST_DELAY = 5.0
PROBATION = 5.0
LONGEST_PROBATION = 60.0
LEAST_SHARE = 0.1
STEADY = 60.0  # whoever stays up for so long has a clean record


@dataclass(slots=True)
class Health:
    """One node's health.

    Attributes:
        interval: Seconds between the probes of a node that is up.
        up: The last probe succeeded.
        why: What was wrong last.
        since: When it came up, or went down.
        probe_at: When it is to be probed; infinite while a probe is under way.
        failures: Probes that failed in a row.
        suspect: Something failed that no probe has explained yet.
        silent: It is down, and did not even refuse.
        closed: It takes no new connection, or at least none of the probe's.
    """

    interval: float
    random: Callable[[], float]
    up: bool = False
    why: str = "not probed yet"
    since: float = -inf
    probe_at: float = -inf
    failures: int = 0
    suspect: bool = False
    silent: bool = False
    closed: bool = False
    returns: int = 0  # of late, each of which makes the probation longer
    probation_ends: float = -inf
    asked_at: float | None = None
    suspected_at: float = -inf

    def asked(self, now: float) -> None:
        """Note that a probe is on its way."""
        self.asked_at, self.probe_at = now, inf

    def succeeded(self, now: float) -> None:
        """Note that a probe was answered."""
        self.failures, self.silent, self.closed = 0, False, False
        self._rise(now)
        asked_at = now if self.asked_at is None else self.asked_at
        if self.suspected_at <= asked_at:
            self.suspect, self.why = False, ""
        self.asked_at = None
        self.probe_at = now if self.suspect else now + self.interval

    def refused(self, why: str, now: float, *, known: bool) -> None:
        """Note that the node answers, but gave the probe no connection.

        It is up for what is `known` of it. Of another nothing is known still.
        """
        self.failures, self.silent, self.closed = 0, False, True
        if known:
            self._rise(now)
        self.why, self.suspect = f"takes no new connections: {why}", self.up
        self.asked_at, self.probe_at = None, now + self.interval

    def failed(self, why: str, now: float, *, silent: bool = False) -> None:
        """Note that a probe failed: the node is down."""
        self.why, self.silent = why, silent
        self.suspect = self.closed = False
        if self.up or self.failures == 0:
            self.returns = self.returns + 1 if self._is_fickle(now) else 0
            self.up, self.since = False, now
            self.probation_ends = now
        self.failures += 1
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(self.failures - 1, 16))
        self.probe_at = now + delay * (0.5 + self.random() / 2)
        self.asked_at = None

    def suspected(self, why: str, now: float) -> bool:
        """Note a failure elsewhere; True if it is news. It is probed at once."""
        if not self.up:
            return False
        news, self.suspect = not self.suspect, True
        self.why, self.suspected_at = why, now
        if self.asked_at is None:
            self.probe_at = min(self.probe_at, now)
        return news

    def hurry(self, at: float) -> None:
        """Have it probed then, if it is not to be before."""
        if self.asked_at is None:
            self.probe_at = min(self.probe_at, at)

    def share(self, now: float) -> float:
        """Return which part of its share it may have: 0 if down, 1 if all is well."""
        if not self.up:
            return 0.0
        left = self.probation_ends - now
        if left <= 0:
            return 1.0
        return max(LEAST_SHARE, 1 - left / self._probation())

    @property
    def known(self) -> bool:
        """Whether it has been probed."""
        return self.up or self.failures > 0

    def settled(self, now: float) -> bool:
        """Tell whether it is up and on probation no more."""
        return self.up and now >= self.probation_ends

    def _rise(self, now: float) -> None:
        if not self.up:
            self.up, self.since = True, now
            if self.probation_ends > -inf:  # it had failed before
                self.probation_ends = now + self._probation()
        elif now - self.since > STEADY:
            self.returns = 0

    def _probation(self) -> float:
        return min(LONGEST_PROBATION, PROBATION * 2.0 ** min(self.returns, 8))

    def _is_fickle(self, now: float) -> bool:
        return self.probation_ends > -inf and now - self.probation_ends < STEADY
