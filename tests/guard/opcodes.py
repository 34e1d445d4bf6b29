"""How many bytecode instructions are run between two moments."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any


class Opcodes:
    """Counts them, in functions that are called meanwhile."""

    def __init__(self) -> None:
        self.count = 0

    def begin(self) -> None:
        sys.settrace(self._trace)

    def end(self) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "call":
            frame.f_trace_lines, frame.f_trace_opcodes = False, True
        elif event == "opcode":
            self.count += 1
        return self._trace
