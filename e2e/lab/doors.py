"""An Envoy in front of a collector, with a listener for each way to tell it who calls; and a client of its own certificate."""

import http.client
import json
import socket
import ssl
from pathlib import Path

from lab.certs import WorkloadCertificate
from lab.client import Response
from lab.envoy import HCM, _address, _cluster, _typed
from lab.plain import ROUTER
from lab.procs import Processes, free_port
from lab.sidecar import Envoy

KINDS = ("APPEND_FORWARD", "SANITIZE_SET")
TIMEOUT_S = 10.0


class Doors(Envoy):
    """Starts at once; `wait_ready` before using it. `ports`: by kind. It takes any client that a root of `roots` vouches for."""

    def __init__(self, collector_port: int, own: WorkloadCertificate, roots: Path, processes: Processes, directory: Path,
                 binary: Path):
        directory.mkdir(parents=True, exist_ok=True)
        self.ports = {kind: free_port() for kind in KINDS}
        self._own, self._roots = own, roots
        admin_port = free_port()
        bootstrap = {
            "admin": {"address": _address("127.0.0.1", admin_port)},
            "static_resources": {"listeners": [self._listener(kind) for kind in KINDS],
                                 "clusters": [_cluster("collector", [("127.0.0.1", collector_port)])]},
        }
        super().__init__("doors", bootstrap, admin_port, processes, directory, binary=binary)

    def _listener(self, kind: str) -> dict:
        route = {"match": {"prefix": "/"}, "route": {"cluster": "collector"}}
        manager = _typed(
            HCM, stat_prefix=kind, http_filters=[ROUTER], forward_client_cert_details=kind,
            set_current_client_cert_details={"subject": True, "cert": True, "chain": True, "dns": True, "uri": True},
            route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]})
        certificate = {"certificate_chain": {"filename": str(self._own.chain)}, "private_key": {"filename": str(self._own.key)}}
        tls = _typed("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext", require_client_certificate=True,
                     common_tls_context={"tls_certificates": [certificate],
                                         "validation_context": {"trusted_ca": {"filename": str(self._roots)}}})
        return {"name": kind, "address": _address("127.0.0.1", self.ports[kind]), "filter_chains": [{
            "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
            "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}]}

    def post(self, kind: str, caller: WorkloadCertificate, body: bytes, forged: list[bytes]) -> Response:
        """Posts a batch as `caller` on a connection of its own, with those lines of x-forwarded-client-cert."""
        context = ssl.create_default_context(cafile=str(self._roots))
        context.check_hostname = False
        context.load_cert_chain(caller.chain, caller.key)
        with socket.create_connection(("127.0.0.1", self.ports[kind]), timeout=TIMEOUT_S) as plain:
            connection = http.client.HTTPConnection("collector")
            connection.sock = context.wrap_socket(plain)
            connection.putrequest("POST", "/v1/batches")
            for line in forged:
                connection.putheader("x-forwarded-client-cert", line)
            connection.putheader("content-length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return Response(answer.status, dict(answer.getheaders()), answer.read())


def reason(answer: Response) -> str:
    """Why a batch was refused; empty where it was taken."""
    return json.loads(answer.body).get("reason", "")
