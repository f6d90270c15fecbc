"""Tables on the terminal, JSON under target/bench, and what machine the numbers are from."""

import json
import os
import platform
import re
import subprocess
from pathlib import Path

from lab.tools import REPOSITORY, envoy_binary

OUTPUT = REPOSITORY / "target" / "bench"
DOCUMENT = REPOSITORY / "docs" / "performance.md"

_shown: dict[str, str] = {}


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, aligned for the terminal: the first column to the left, numbers to the right."""
    widths = [max(len(line[at]) for line in [head, *rows]) for at in range(len(head))]

    def line(cells: list[str]) -> str:
        first, *rest = [cell.ljust(w) if at == 0 else cell.rjust(w) for at, (cell, w) in enumerate(zip(cells, widths))]
        return "| " + " | ".join([first, *rest]) + " |"
    rule = "|" + "|".join([":" + "-" * (widths[0] + 1), *("-" * (w + 1) + ":" for w in widths[1:])]) + "|"
    return "\n".join([line(head), rule, *map(line, rows)])


def number(value: float, digits: int = 0) -> str:
    return f"{value:,.{digits}f}"


def show(name: str, title: str, body: str, note: str = "") -> None:
    """Prints one table under its heading; `name` is that of the bench."""
    _shown[name] = f"{body}\n" + (f"\n{note}\n" if note else "")
    print(f"\n{title}\n\n{_shown[name]}", flush=True)


def update_docs() -> None:
    """Puts what was shown into docs/performance.md, between the comments that name it."""
    text = DOCUMENT.read_text()
    for name, shown in {"machine": machine_line() + "\n", **_shown}.items():
        pattern = rf"(<!-- bench:{name} -->\n).*?(<!-- bench:end -->)"
        text, found = re.subn(pattern, lambda m: f"{m[1]}\n{shown}\n{m[2]}", text, flags=re.DOTALL)
        if not found:
            raise SystemExit(f"{DOCUMENT} has no place for the table of {name}")
    DOCUMENT.write_text(text)


def write_json(name: str, measured: dict) -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine(), **measured}
    (OUTPUT / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def machine() -> dict:
    """What a reader of the numbers has to know about where they come from."""
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    return {
        "cores": os.cpu_count(),
        "cpu": cpu.group(1) if cpu else platform.processor(),
        "memory_gb": round(int(memory.group(1)) / 1e6) if memory else None,
        "kernel": platform.release(),
        "envoy": _first_line([str(envoy_binary()), "--version"]).rpartition("version: ")[2],
        "rustc": _first_line(["rustc", "--version"]),
        "commit": _first_line(["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"]),
        "load_average": os.getloadavg()[0],
    }


def machine_line() -> str:
    m = machine()
    envoy = re.search(r"/(\d+\.\d+\.\d+)/", m["envoy"])
    return (f"{m['cores']} cores of {m['cpu']}, {m['memory_gb']} GB, Linux {m['kernel']}, "
            f"Envoy {envoy.group(1) if envoy else 'unknown'}, {m['rustc'].split(' (')[0]}, commit {m['commit']}")


def _first_line(argv: list[str]) -> str:
    run = subprocess.run(argv, capture_output=True, text=True)
    lines = [line for line in run.stdout.splitlines() if line.strip()]
    return lines[0].strip() if lines else "unknown"
