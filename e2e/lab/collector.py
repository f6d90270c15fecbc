"""What this repository builds, and a collector as a scenario runs it: files, command line, answers."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lab.client import request
from lab.procs import Process, Processes, free_port, wait_http
from lab.tools import REPOSITORY, ToolMissing

BUILD = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
COLLECTOR = BUILD / "release" / "meshchain-collector"
VERIFIER = BUILD / "release" / "meshchain"
FILTER = BUILD / "wasm32-wasip1" / "release-wasm" / "meshchain_filter.wasm"
COLLECTOR_CLUSTER = "outbound|8080||meshchain-collector.meshchain.svc.cluster.local"  # the filter's default
TOOL_S = 30.0
START_S = 30.0


def check_built() -> None:
    """Raises ToolMissing where something is not built."""
    for part in (COLLECTOR, VERIFIER, FILTER):
        if not part.exists():
            raise ToolMissing(f"{part} is not built: `make build` builds it")


@dataclass(frozen=True)
class Run:
    """What a program printed, and its exit code."""

    code: int
    text: str

    def json(self) -> dict:
        return json.loads(self.text)


def meshchain(*arguments: str | Path, cwd: Path | None = None) -> Run:
    """Runs the verifier."""
    done = subprocess.run([VERIFIER, *map(str, arguments)], capture_output=True, text=True, encoding="utf-8", timeout=TOOL_S, cwd=cwd)
    return Run(done.returncode, done.stdout + done.stderr)


@dataclass(frozen=True)
class Collector:
    """One organisation's collector: its files, and how to ask it."""

    organisation: str
    directory: Path  # configuration, keys, data
    url: str = ""

    @property
    def origin(self) -> str:
        return f"{self.organisation}.example/meshchain"

    @property
    def port(self) -> int:
        return urlsplit(self.url).port

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def config(self) -> Path:
        return self.directory / "collector.toml"

    @property
    def vkey(self) -> str:
        """The log's verification key, as the collector announced it at its start."""
        return next(line["vkey"] for line in self.audit("key") if line["key"] == "log")

    def write_config(self, *more: str) -> None:
        """Writes its configuration, and what lines the caller adds."""
        self.directory.mkdir(parents=True, exist_ok=True)
        lines = [f"origin = {json.dumps(self.origin)}", f"data = {json.dumps(str(self.data))}", "", "[ingest]",
                 "principal_from_xfcc = true", f'trust_domain = "{self.organisation}.example"', *more]
        self.config.write_text("\n".join(lines) + "\n")

    def argv(self, port: int) -> list[str]:
        return [str(COLLECTOR), "--config", str(self.config), "--listen", f"127.0.0.1:{port}"]

    def get(self, path: str) -> Any:
        answer = request("GET", self.url + path)
        if answer.status != 200:
            raise OSError(f"{self.url}{path}: {answer.status} {answer.text.strip()}")
        return answer.json()

    def audit(self, event: str) -> list[dict]:
        """Lines of one kind in its audit log."""
        lines = map(json.loads, (self.data / "audit.jsonl").read_text().splitlines())
        return [line for line in lines if line["event"] == event]


def behind_sidecar(organisation: str, directory: Path, processes: Processes, open_files: int | None = None
                   ) -> tuple[Collector, Process]:
    """Starts a collector that is told by XFCC who sends, with at most `open_files` unless it asks for more; it is ready."""
    port = free_port()
    collector = Collector(organisation, directory / f"{organisation}-collector", f"http://127.0.0.1:{port}")
    collector.write_config()
    limited = ["sh", "-c", f'ulimit -Sn {open_files}; exec "$@"', "sh"] if open_files else []
    process = processes.start(f"{organisation}-collector", [*limited, *collector.argv(port)])
    wait_http(f"{collector.url}/healthz", START_S, process)
    return collector, process
