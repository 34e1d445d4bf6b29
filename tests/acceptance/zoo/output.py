"""Scripts that print more than a pipe holds."""

import os
import subprocess
import sys

from _zoo.trace import leave

from falconas import Context

PLENTY = 300_000


def print_to_stdout(ctx: Context) -> str:
    leave(ctx)
    print("printed by", ctx.script)
    print("x" * PLENTY)
    return "done"


def print_to_stderr(ctx: Context) -> str:
    leave(ctx)
    print("printed by", ctx.script, file=sys.stderr)
    print("x" * PLENTY, file=sys.stderr)
    return "done"


def write_to_descriptor(ctx: Context) -> str:
    leave(ctx)
    text = f"printed by {ctx.script}\n".encode() + b"x" * PLENTY
    assert os.write(1, text) == len(text)
    return "done"


def program_prints(ctx: Context) -> str:
    leave(ctx)
    text = f"echo printed by {ctx.script}; head -c {PLENTY} /dev/zero"
    subprocess.run(["sh", "-c", text], check=True)
    return "done"


def close_stdout(ctx: Context) -> str:
    leave(ctx)
    sys.stdout.close()
    os.close(1)
    return "done"


def replace_stdout(ctx: Context) -> str:
    leave(ctx)
    sys.stdout = None
    return "done"
