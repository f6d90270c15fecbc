"""What a user of the mesh has in it: a client, a server, mTLS, and tracing or none."""

import sys
from pathlib import Path

from istio.istiod import ROOT_NAMESPACE, ZIPKIN, ZIPKIN_PORT

NAMESPACE = "shop"
PORT = 8080
ECHO = Path(__file__).with_name("echo.py")
COMMANDS = {"server": [sys.executable, str(ECHO), str(PORT)],
            "client": ["sleep", "infinity"]}  # the tests send in its place


def objects() -> list[dict]:
    """Everything but the Pods and the endpoints."""
    namespace = {"apiVersion": "v1", "kind": "Namespace",
                 "metadata": {"name": NAMESPACE, "labels": {"istio-injection": "enabled"}}}
    strict = {"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": named("default"),
              "spec": {"mtls": {"mode": "STRICT"}}}
    accounts = [{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named(app)} for app in COMMANDS]
    server = {"apiVersion": "v1", "kind": "Service", "metadata": named("server"),
              "spec": {"selector": {"app": "server"}, "ports": [{"name": "http", "port": PORT}]}}
    return [namespace, strict, *accounts, server, zipkin()]


def zipkin() -> dict:
    """The Service of the tracing provider; what serves it is on the node."""
    return {"apiVersion": "v1", "kind": "Service", "metadata": named(ZIPKIN, ROOT_NAMESPACE),
            "spec": {"ports": [{"name": "http", "port": ZIPKIN_PORT}]}}


def pods() -> list[dict]:
    """client-0 and server-0, for the injector to change."""
    return [{
        "apiVersion": "v1", "kind": "Pod", "metadata": {**named(f"{app}-0"), "labels": {"app": app}},
        "spec": {"serviceAccountName": app, "nodeName": "node", "containers": [
            {"name": "app", "image": "none", "command": command, "ports": [{"containerPort": PORT}]}]},
    } for app, command in COMMANDS.items()]


def telemetry(sampling_percent: float) -> dict:
    """Tracing for the whole mesh; without this object nothing is traced."""
    tracing = [{"providers": [{"name": ZIPKIN}], "randomSamplingPercentage": sampling_percent}]
    return {"apiVersion": "telemetry.istio.io/v1", "kind": "Telemetry", "metadata": named("tracing", ROOT_NAMESPACE),
            "spec": {"tracing": tracing}}


def named(name: str, namespace: str = NAMESPACE) -> dict:
    return {"name": name, "namespace": namespace}
