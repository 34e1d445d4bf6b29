"""How often the broker and a worker enter the kernel for a request."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import zmq

from bench.stack import falconas
from falconas.codec import encode_params
from falconas.protocol import Request, encode

OUTSTANDING = 64
REQUESTS = 320
# share, seconds, microseconds a call, calls, name; errors stand before the name
ROW = re.compile(r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+) (?:.* )?(\w+)$", re.MULTILINE)


def obstacle() -> str:
    """Say why they cannot be counted here; empty: they can."""
    strace = shutil.which("strace")
    if strace is None:
        return "strace is not installed"
    with subprocess.Popen(["sleep", "60"]) as target:
        try:
            with _strace(target.pid, Path("/dev/null")) as tracer:
                attached = _is_attached(tracer)
                tracer.send_signal(signal.SIGINT)
        finally:
            target.kill()
    return "" if attached else "strace must not look at processes here"


def measure() -> dict[str, Counter[str]]:
    """Count the system calls by name, in the broker and in the only worker."""
    with tempfile.TemporaryDirectory(prefix="falconas-") as name:
        folder = Path(name)
        with (
            falconas(folder, 1) as stack,
            zmq.Context() as context,
            context.socket(zmq.DEALER) as dealer,
        ):
            dealer.linger = 0
            dealer.connect(stack.endpoints["frontend"])
            load(dealer)
            (worker,) = stack.ready()
            pids = {"broker": stack.broker, "worker": worker}
            return {
                f"syscalls.{role}": _count(pid, dealer, folder / role)
                for role, pid in pids.items()
            }


def of_a_request() -> dict[str, float]:
    """Return how many each makes for one request."""
    return {
        name: round(found.total() / REQUESTS, 2) for name, found in measure().items()
    }


def load(dealer: zmq.Socket[bytes]) -> None:
    """Send requests, so many outstanding, and take all answers."""
    body = encode_params({"value": "x" * 86})
    for number in range(REQUESTS + OUTSTANDING):
        if number >= OUTSTANDING:
            dealer.recv_multipart()
        if number < REQUESTS:
            request = Request(number.to_bytes(16, "big"), "echo", 30.0, {})
            dealer.send_multipart([encode(request), body])


def _count(pid: int, dealer: zmq.Socket[bytes], path: Path) -> Counter[str]:
    with _strace(pid, path) as tracer:
        assert _is_attached(tracer)
        load(dealer)
        tracer.send_signal(signal.SIGINT)
    found = Counter({name: int(calls) for calls, name in ROW.findall(path.read_text())})
    assert found.pop("total") == found.total()
    return found


def _strace(pid: int, path: Path) -> subprocess.Popen[str]:
    command = ["strace", "-c", "-f", "-o", str(path), "-p", str(pid)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def _is_attached(tracer: subprocess.Popen[str]) -> bool:
    assert tracer.stderr is not None
    return "attached" in tracer.stderr.readline()
