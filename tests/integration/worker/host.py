"""A supervisor in a process of its own, for it reaps whoever ends."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from falconas.protocol import Ready

PATIENCE = 20.0
MAIN = """
import sys, msgspec
from falconas import logs
from falconas.config import Settings
from falconas.worker.supervisor import main
logs.setup("info", "json")
sys.exit(main(msgspec.json.decode(sys.stdin.buffer.read(), type=Settings)))
"""
SCRIPTS = {
    "echo": "def run(ctx, value: str):\n    return value\n",
    # Says that it runs, and then waits for the test to say something.
    "wait": (
        "import socket\n"
        "def run(ctx, path: str):\n"
        "    with socket.socket(socket.AF_UNIX) as test:\n"
        "        test.connect(path)\n"
        "        test.recv(1)\n"
    ),
    "leave": "import os\ndef run(ctx):\n    os._exit(0)\n",
    "crash": "import ctypes\ndef run(ctx):\n    ctypes.string_at(0)\n",
    # Says that it runs, and does not care for signals or time.
    "stubborn": (
        "import signal, socket\n"
        "def run(ctx, path: str):\n"
        "    signal.signal(signal.SIGALRM, signal.SIG_IGN)\n"
        "    with socket.socket(socket.AF_UNIX) as test:\n"
        "        test.connect(path)\n"
        "        while True:\n"
        "            pass\n"
    ),
    "child": (
        "import subprocess, sys\n"
        "def run(ctx):\n"
        "    sleep = 'import time; time.sleep(60)'\n"
        "    return subprocess.Popen([sys.executable, '-c', sleep]).pid\n"
    ),
}


class Host:
    """A supervisor in a process of its own.

    Args:
        folder: Has the scripts.
        broker: Whom it is to find.
        dsn: Of its only node, if it has no others.
        count: How many workers.
        nodes: DSNs by name.
        groups: Settings by name.
        before: Code to run in its process first.
        worker: Other settings.
    """

    def __init__(
        self,
        folder: Path,
        broker: Any,
        dsn: str = "",
        count: int = 2,
        *,
        nodes: dict[str, str] | None = None,
        groups: dict[str, Any] | None = None,
        before: str = "",
        **worker: Any,
    ) -> None:
        self.folder = folder
        scripts = folder / "scripts"
        if not scripts.exists():
            scripts.mkdir()
            for name, text in SCRIPTS.items():
                self.write(name, text)
        settings = {
            "worker": {
                "backend": broker.backend_endpoint,
                "control": broker.control_endpoint,
                "count": count,
                "scripts": str(scripts),
                **worker,
            },
            "database": {"dsn": dsn},
            "nodes": {name: {"dsn": text} for name, text in (nodes or {}).items()},
            "groups": groups or {},
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"{before}\n{MAIN}"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdin is not None
        with self.process.stdin as stdin:
            stdin.write(msgspec.json.encode(settings))
        self.errors = b""

    def signal(self, signum: int) -> None:
        self.process.send_signal(signum)

    def wait(self) -> int:
        assert self.process.stderr is not None
        self.process.wait(PATIENCE)
        self.errors = self.process.stderr.read()
        return self.process.returncode

    def zygote(self) -> int:
        return self.child("falconas.worker.zygote")

    def child(self, module: str) -> int:
        """Return the supervisor's child that runs a module; workers are no zygotes."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        found = [
            int(child)
            for child in children
            if module in Path(f"/proc/{child}/cmdline").read_text().split("\0")
        ]
        return min(found)

    def write(self, script: str, text: str) -> None:
        (self.folder / "scripts" / f"{script}.py").write_text(text)

    def close(self) -> None:
        self.process.kill()  # nobody survives that
        self.process.wait()
        assert self.process.stderr is not None
        if not self.errors:  # shown if the test fails
            sys.stdout.write(self.process.stderr.read().decode())
        self.process.stderr.close()


class Running:
    """A request whose script runs until `finish`."""

    def __init__(
        self, broker: Any, peer: bytes, script: str = "wait", left: float = 20.0
    ) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            path = Path(broker.backend_endpoint.removeprefix("ipc://")).parent / "wait"
            path.unlink(missing_ok=True)
            listener.bind(str(path))
            listener.listen()
            listener.settimeout(PATIENCE)
            self.id = broker.request(peer, script, left, path=str(path))
            self.script, _ = listener.accept()

    def finish(self) -> None:
        self.script.close()


def workers(broker: Any, count: int = 2) -> list[tuple[bytes, Ready]]:
    found = []
    for _ in range(count):
        peer, message, _ = broker.take(Ready)
        assert message.extras["ready"] is True
        found.append((peer, message))
    return sorted(found, key=lambda pair: pair[1].extras["index"])
