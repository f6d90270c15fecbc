"""One Envoy that is all clients and all servers: a listener for each setting of either, and every client's reaches
every server's.

    test -> client's listener (outbound) -> server's listener (inbound), which answers 200

The header `x-to` names the server. All listeners have the filter, of one VM, so that one session has both sides of
each call.
"""

import json
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path

from lab.collector import COLLECTOR_CLUSTER, FILTER
from lab.envoy import HCM, _address, _cluster, _typed
from lab.plain import ROUTER
from lab.procs import Processes, free_port
from lab.sidecar import Envoy

TIMEOUT_S = 20.0
AT_ONCE = 50  # requests that are sent before the first answer is read
ANSWER = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r]*\r\n(?:(?!\r\n)[^\r]*\r\n)*?\r\n")


@dataclass(frozen=True)
class End:
    """A client or a server: `manager` are settings of its HTTP connection manager, `route` of a client's route."""

    name: str
    manager: dict = field(default_factory=dict)
    route: dict = field(default_factory=dict)
    routes: tuple = ()  # of a server, before the one that answers 200


class Pairs(Envoy):
    """Starts at once; `wait_ready` before using it. `ports`: of the clients, by name."""

    def __init__(self, clients: list[End], servers: list[End], collector_port: int, processes: Processes,
                 directory: Path, config: dict):
        self.ports = {client.name: free_port() for client in clients}
        ports = {server.name: free_port() for server in servers}
        admin_port = free_port()
        clusters = [_cluster(COLLECTOR_CLUSTER, [("127.0.0.1", collector_port)]),
                    *(_cluster(name, [("127.0.0.1", port)]) for name, port in ports.items())]
        listeners = [*(_listener(client, self.ports[client.name], "OUTBOUND", [_sent_on(client)], config)
                       for client in clients),
                     *(_listener(server, ports[server.name], "INBOUND", [*server.routes, _ANSWERED], config)
                       for server in servers)]
        bootstrap = {
            "node": {"id": "sidecar~127.0.0.1~pairs.plain~plain.svc.cluster.local", "cluster": "pairs.plain",
                     "metadata": {"NAME": "pairs", "NAMESPACE": "plain", "WORKLOAD_NAME": "pairs"}},
            "admin": {"address": _address("127.0.0.1", admin_port)},
            "static_resources": {"listeners": listeners, "clusters": clusters},
        }
        super().__init__("pairs", bootstrap, admin_port, processes, directory)


_ANSWERED = {"match": {"prefix": ""}, "direct_response": {"status": 200}}


def _sent_on(client: End) -> dict:
    return {"match": {"prefix": ""}, "route": {"cluster_header": "x-to"}, **client.route}


def _listener(end: End, port: int, direction: str, routes: list[dict], config: dict) -> dict:
    plugin = {"name": "meshchain", "root_id": "meshchain", "failure_policy": "FAIL_OPEN",
              "vm_config": {"vm_id": "pairs", "runtime": "envoy.wasm.runtime.v8", "code":
                            {"local": {"filename": str(FILTER)}}},
              "configuration": _typed("google.protobuf.StringValue", value=json.dumps(config))}
    ours = {"name": "meshchain", "typed_config": _typed("envoy.extensions.filters.http.wasm.v3.Wasm", config=plugin)}
    hosts = [{"name": "all", "domains": ["*"], "routes": routes}]
    manager = _typed(HCM, **{"stat_prefix": end.name, "route_config": {"virtual_hosts": hosts},
                             "http_filters": [ours, ROUTER], "stream_idle_timeout": "0s", **end.manager})
    return {"name": f"{direction}-{end.name}", "traffic_direction": direction, "address": _address("127.0.0.1", port),
            "enable_reuse_port": False, "filter_chains": [{"filters": [
                {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}]}


def ask(port: int, requests: list[bytes]) -> list[int]:
    """The statuses of requests that are sent one behind the other; a connection that Envoy ends is opened again."""
    statuses: list[int] = []
    while len(statuses) < len(requests):
        before = len(statuses)
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
            while batch := requests[len(statuses):len(statuses) + AT_ONCE]:
                connection.sendall(b"".join(batch))
                came = _answers(connection, len(batch))
                statuses += came
                if len(came) < len(batch):
                    break
        assert len(statuses) > before, f"no answer to {requests[before]!r}"
    return statuses


def _answers(connection: socket.socket, count: int) -> list[int]:
    """Statuses of the next answers, fewer where the connection ends before. They have no bodies."""
    got, statuses = b"", []
    while len(statuses) < count:
        try:
            piece = connection.recv(1 << 16)
        except ConnectionResetError:
            piece = b""
        got += piece
        end = 0
        for match in ANSWER.finditer(got):
            statuses.append(int(match[1]))
            end = match.end()
        got = got[end:]
        if not piece:
            break
    return statuses
