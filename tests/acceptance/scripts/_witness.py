"""What tells the truth when a worker is killed: a line written by one system call."""

import os
from pathlib import Path

from falconas import Context

_file = os.open(
    Path(os.environ["FALCONAS_WITNESS"]), os.O_WRONLY | os.O_APPEND | os.O_CREAT
)


def write(event: str, nonce: str, ctx: Context) -> None:
    line = f"{event} {nonce} {os.getpid()} {ctx.script}\n"
    os.write(_file, line.encode())
