"""A Kubernetes API server over etcd, and kubectl. No scheduler, no controllers, no kubelet.

What those would do for the scene is done here (EndpointSlices) and in pod.py (Pods).
"""

import json
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from istio.net import NODE_IP, Node
from istio.programs import API_SERVER, ETCD, KUBECTL
from lab.procs import Failed, wait_until

SERVER = f"https://{NODE_IP}:6443"
ISSUER = "https://kubernetes.default.svc"
ADMIN_TOKEN = "admin-of-the-scene"  # of a server that only the node's namespace can reach
SERVICE_RANGE = "10.96.0.0/16"
START_S = 120.0


class Kube:
    """A running API server, and kubectl as its administrator."""

    def __init__(self, node: Node, directory: Path):
        self._node = node
        self._directory = directory
        directory.mkdir(parents=True)
        self._start_etcd()
        self._start_api_server()
        self.kubeconfig = self.write_kubeconfig("admin", ADMIN_TOKEN)
        wait_until(self._is_ready, START_S, "the API server is ready", self._server)

    def _start_etcd(self) -> None:
        self._etcd = self._node.start("etcd", ETCD.path, "--data-dir", self._directory / "etcd",
                                      "--unsafe-no-fsync", "--log-level", "warn")

    def _start_api_server(self) -> None:
        """Certificates of the server's own making; Istio's webhooks are reached by EndpointSlice."""
        tokens = self._directory / "tokens.csv"
        tokens.write_text(f"{ADMIN_TOKEN},admin,1,system:masters\n")
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        signing_key = self._directory / "service-accounts.key"
        signing_key.write_bytes(key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        flags = {
            "etcd-servers": "http://127.0.0.1:2379", "cert-dir": self._directory / "certificates",
            "bind-address": NODE_IP, "advertise-address": NODE_IP, "secure-port": 6443,
            "token-auth-file": tokens, "authorization-mode": "RBAC",
            "service-account-issuer": ISSUER, "service-account-key-file": signing_key,
            "service-account-signing-key-file": signing_key, "api-audiences": ISSUER,
            "service-cluster-ip-range": SERVICE_RANGE, "endpoint-reconciler-type": "none",
            "enable-aggregator-routing": "true",
            # It would wait for controllers to make each namespace's default ServiceAccount.
            "disable-admission-plugins": "ServiceAccount"}
        self._server = self._node.start("kube-apiserver", API_SERVER.path, *(f"--{k}={v}" for k, v in flags.items()))

    def kill(self) -> None:
        """Ends it at once: there is nothing to finish, and it would wait for its watchers."""
        for process in (self._server, self._etcd):
            self._node.stop(process, grace_s=0)

    def _is_ready(self) -> bool:
        try:
            return self.run("get", "--raw", "/readyz") == "ok"
        except Failed as error:
            raise OSError(str(error)) from error

    def write_kubeconfig(self, name: str, token: str) -> Path:
        """A kubeconfig for whoever has `token`."""
        path = self._directory / f"{name}.kubeconfig"
        cluster = {"server": SERVER, "certificate-authority": str(self._directory / "certificates" / "apiserver.crt")}
        path.write_text(yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "scene",
            "clusters": [{"name": "scene", "cluster": cluster}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": "scene", "context": {"cluster": "scene", "user": name}}]}))
        return path

    def run(self, *arguments: str | Path, input: bytes = b"") -> str:
        """What kubectl prints. Raises Failed with what it complains of."""
        return self._node.run(KUBECTL.path, f"--kubeconfig={self._directory / 'admin.kubeconfig'}",
                              f"--cache-dir={self._directory / 'cache'}", *arguments, input=input)

    def apply(self, *documents: dict) -> str:
        """Server-side, as Istio's CRDs are too long for the annotation that it takes otherwise."""
        listed = {"apiVersion": "v1", "kind": "List", "items": documents}
        return self.run("apply", "--server-side", "--filename=-", input=json.dumps(listed).encode())

    def get(self, kind: str, name: str | None = None, namespace: str | None = None) -> Any:
        """One object, or, without a name, the list of all in a namespace, or in all of them."""
        where = [f"--namespace={namespace}"] if namespace else [] if name else ["--all-namespaces"]
        answer = json.loads(self.run("get", kind, *([name] if name else []), *where, "--output=json"))
        return answer if name else answer["items"]

    def token(self, namespace: str, account: str, audience: str | None = None, pod: str | None = None) -> str:
        """A token of a ServiceAccount, bound to a Pod if it is one's."""
        bound = ["--bound-object-kind=Pod", f"--bound-object-name={pod}"] if pod else []
        audiences = [f"--audience={audience}"] if audience else []
        return self.run("create", "token", account, f"--namespace={namespace}", "--duration=6h",
                        *audiences, *bound).strip()

    def add_endpoint(self, service: dict, ip: str, target_ports: dict[str, int], pod: str | None = None) -> None:
        """Says that `ip` serves a Service; `target_ports` are the Pod's named ports."""
        meta = service["metadata"]
        endpoint: dict[str, Any] = {"addresses": [ip], "conditions": {"ready": True}}
        if pod:
            endpoint["targetRef"] = {"kind": "Pod", "name": pod, "namespace": meta["namespace"]}
        ports = []
        for port in service["spec"]["ports"]:
            target = port.get("targetPort", port["port"])
            ports.append({"name": port.get("name", ""), "port": target_ports.get(target, target), "protocol": "TCP"})
        self.apply({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": slice_name(service, pod), "namespace": meta["namespace"],
                         "labels": {"kubernetes.io/service-name": meta["name"]}},
            "endpoints": [endpoint], "ports": ports})

    def remove_endpoint(self, service: dict, pod: str | None = None) -> None:
        self.run("delete", "endpointslice", slice_name(service, pod), f"--namespace={service['metadata']['namespace']}")

    def services_of(self, pod: dict) -> list[dict]:
        """The Services that select a Pod."""
        labels = pod["metadata"].get("labels", {})
        return [service for service in self.get("services", namespace=pod["metadata"]["namespace"])
                if (selector := service["spec"].get("selector")) and selector.items() <= labels.items()]


def slice_name(service: dict, pod: str | None) -> str:
    return f"{service['metadata']['name']}-{pod or 'node'}"
