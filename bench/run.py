#!/usr/bin/env python
"""Measures MeshChain: `run.py [filter] [speed] [designs] [collector] [scale] [sessions] [profile] [rivals] [verify] [gas]`, all by default.

Builds what it needs, prints one table per measurement, and writes target/bench/NAME.json.
With --docs the tables of docs/performance.md are replaced.
"""

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))

import designs  # noqa: E402  (the lab must be on the path first)
import filter as envoy_filter  # noqa: E402
import native  # noqa: E402
import profile_collector  # noqa: E402
import rivals  # noqa: E402
import scale  # noqa: E402
import sessions  # noqa: E402
import speed  # noqa: E402
from lab.collector import BUILD, FILTER  # noqa: E402
from lab.tools import REPOSITORY  # noqa: E402
from report import machine_line, update_docs  # noqa: E402

BENCHES = ("filter", "speed", "designs", "collector", "scale", "sessions", "profile", "rivals", "verify", "gas")
# Those that need only the folder of the programs.
SIMPLE = {"designs": designs.run, "collector": native.collector, "profile": profile_collector.run, "rivals": rivals.run,
          "sessions": sessions.run, "verify": native.verify, "gas": native.gas}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bench", nargs="*", metavar="BENCH", help=f"any of {', '.join(BENCHES)}; default all")
    parser.add_argument("--docs", action="store_true", help="put the tables into docs/performance.md too")
    parser.add_argument("--full", action="store_true", help="scale goes on to 10^8 digests: minutes, and 10 GB")
    parser.add_argument("--programs", type=Path, metavar="DIR", help="measure the programs in DIR; build none")
    arguments = parser.parse_args()
    chosen = arguments.bench or list(BENCHES)
    if unknown := set(chosen) - set(BENCHES):
        parser.error(f"no such bench: {', '.join(sorted(unknown))}")
    binaries, module = (arguments.programs.resolve(), FILTER) if arguments.programs else build(chosen)
    print(machine_line(), flush=True)
    for name in chosen:
        if name == "filter":
            envoy_filter.run(binaries, module)
        elif name == "speed":
            speed.run(binaries, module)
        elif name == "scale":
            scale.run(binaries, arguments.full)
        else:
            SIMPLE[name](binaries)
    if arguments.docs:
        update_docs()


def build(chosen: list[str]) -> tuple[Path, Path]:
    """Builds what the chosen benches need; the folder of the programs, and the filter's module."""
    if set(chosen) != {"gas"}:
        # As `make build` does it, so that what is measured is what users get.
        cargo = ["cargo", "build", "--locked", "--quiet", "--release", "--workspace", "--bins"]
        subprocess.run(cargo, cwd=REPOSITORY, check=True)
    if {"filter", "speed"} & set(chosen):
        subprocess.run(["./wasm-build.sh"], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    return BUILD / "release", FILTER


if __name__ == "__main__":
    main()
