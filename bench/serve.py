"""The processes of the peers: `python -m bench.serve PEER ARGUMENTS`."""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module


def main() -> None:
    name, *arguments = sys.argv[1:]
    with suppress(KeyboardInterrupt):
        import_module(f"bench.peers.{name}").main(*arguments)


if __name__ == "__main__":
    main()
