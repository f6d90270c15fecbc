"""The process that ends all others when the lab itself is killed.

Reads lines from stdin: `+PGID` a process group was started, `-PGID` it has ended. At end of
input, which the kernel delivers however the lab died, it kills every group that is left.
"""

import os
import signal
import sys


def main() -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        change, pgid = line[0], int(line[1:])
        if change == "+":
            groups.add(pgid)
        else:
            groups.discard(pgid)
    for pgid in groups:
        try:
            os.killpg(pgid, signal.SIGKILL)
        except ProcessLookupError:
            pass


if __name__ == "__main__":
    main()
