"""Runs a part of a test in a process of its own, a copy of this one."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from typing import Any


def in_child(work: Callable[[], Any]) -> Any:
    """Return what `work` returned there (plain values); its error is ours."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            try:
                said = {"value": work()}
            except BaseException:
                said = {"error": traceback.format_exc()}
            os.write(writer, json.dumps(said).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        text = answer.read()
    _, status = os.waitpid(pid, 0)
    assert text, f"the child said nothing; status {status:#x}"
    said = json.loads(text)
    assert "error" not in said, said["error"]
    return said["value"]
