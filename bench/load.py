"""The clients: `python -m bench.load PEER ENDPOINT WORK OUTSTANDING WARM SECONDS`.

So many requests are always on their way: each client sends its next request when it
has the answer to the last and has checked it. Says `begin` and `end` on stdout, then
its figures as JSON. A wrong answer or an error ends it; the message
is the figure `error`.
"""

from __future__ import annotations

import json
import sys

from bench.job import Job
from bench.peers import PEERS
from falconas.heap import keep_freed


def main() -> None:
    key, endpoint, work, *numbers = sys.argv[1:]
    outstanding, warm, seconds = numbers
    keep_freed()  # else it is the load that takes longest with large bodies
    job = Job(endpoint, work, int(outstanding), float(warm), float(seconds))
    try:
        found = PEERS[key].load(job)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        while isinstance(error, ExceptionGroup):  # of the tasks, the first
            error = error.exceptions[0]
        found = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
