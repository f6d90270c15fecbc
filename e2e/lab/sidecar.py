"""One running Envoy and its admin interface; a sidecar or a gateway of a mesh is one."""

import json
import os
import re
from pathlib import Path
from urllib.parse import quote

from lab import client, envoy
from lab.procs import Process, Processes, wait_http, wait_until
from lab.tools import envoy_binary
from lab.topology import WasmFilter

FLUSH_MS = 100  # how soon the access log reaches the log file; Envoy's default is 10 s
DRAIN_S = 1


class Envoy:
    """An Envoy of a given bootstrap, with `workers` threads, of another `binary` than the newest. Starts at once; `wait_ready` before using it."""

    def __init__(self, name: str, bootstrap: dict, admin_port: int, processes: Processes, directory: Path,
                 workers: int = 1, binary: Path | None = None):
        self.name = name
        self._workers = workers
        self._binary = binary or envoy_binary()
        self._processes = processes
        self._admin = f"http://127.0.0.1:{admin_port}"
        self._config = directory / "bootstrap.json"
        self._config.write_text(json.dumps(bootstrap, indent=1))
        self.process = self._start()

    def wait_ready(self, deadline_s: float) -> None:
        wait_http(f"{self._admin}/ready", deadline_s, self.process)

    def ready(self) -> bool:
        """Whether it is LIVE, as Istio's agent asks before the pod gets traffic."""
        try:
            return client.request("GET", f"{self._admin}/ready").status == 200
        except OSError:
            return False

    def stats(self, prefix: str = "") -> dict[str, int]:
        """Counters and gauges whose names begin with `prefix`."""
        answer = self._get(f"/stats?filter={quote('^' + re.escape(prefix))}")
        pairs = (line.rsplit(": ", 1) for line in answer.text.splitlines())
        return {name: int(value) for name, value in pairs if value.isdigit()}

    def prometheus(self) -> str:
        """All metrics as Prometheus scrapes them."""
        return self._get("/stats/prometheus").text

    def config_dump(self) -> dict:
        return self._get("/config_dump").json()

    def drain(self) -> None:
        """Stops accepting and lets connections end, as Istio's agent does first when a pod ends."""
        self._post("/drain_listeners?graceful")

    def quit(self, grace_s: float = 5.0) -> int:
        """Ends it as a pod ends: stop accepting, drain, exit; killed after `grace_s`. Returns the exit status."""
        self.drain()
        self._post("/quitquitquit")
        try:
            wait_until(lambda: not self.process.alive(), grace_s, f"{self.name} quits")
        finally:
            status = self._processes.stop(self.process, grace_s=0)
        return status

    def kill(self) -> None:
        """Ends it at once, as Istio's agent does after the drain."""
        self._processes.stop(self.process, grace_s=0)

    def restart(self, deadline_s: float = 20.0) -> None:
        """Starts it again, ended or not, on the same ports; returns when it is ready."""
        if self.process.alive():
            self.kill()
        self.process = self._start()
        self.wait_ready(deadline_s)

    def _start(self) -> Process:
        return self._processes.start(self.name, [
            self._binary, "-c", self._config, "--concurrency", str(self._workers), "--disable-hot-restart",
            "--log-level", "warning", "--component-log-level", "wasm:info",
            "--drain-time-s", str(DRAIN_S), "--file-flush-interval-msec", str(FLUSH_MS)])

    def _get(self, path: str) -> client.Response:
        return client.request("GET", self._admin + path)

    def _post(self, path: str) -> client.Response:
        return client.request("POST", self._admin + path)


class Sidecar(Envoy):
    """A sidecar or a gateway."""

    def __init__(self, proxy: envoy.Proxy, processes: Processes, directory: Path):
        self.proxy = proxy
        if proxy.organisation.wasm:
            self.deliver_filter(proxy.organisation.wasm)
        bootstrap = envoy.bootstrap(proxy)
        if proxy.pod.patch:
            proxy.pod.patch(bootstrap)
        super().__init__(f"{proxy.pod.name}.envoy", bootstrap, proxy.admin_port, processes, directory,
                         proxy.pod.workers, proxy.pod.envoy)

    def deliver_filter(self, wasm: WasmFilter) -> None:
        """Writes the filter's discovery response; a running Envoy takes it over, keeping connections.

        Possible only where the organisation has a filter from the start, and under the same name.
        """
        target = self.proxy.filter_file
        fresh = target.with_suffix(".new")
        fresh.write_text(json.dumps(envoy.filter_discovery(wasm), indent=1))
        os.replace(fresh, target)  # Envoy watches for the move
