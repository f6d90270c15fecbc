"""A Pod of the API server's, running: what kubelet, CNI and the endpoint controller would do for it.

Its containers share one network and one mount namespace. Images are not pulled: programs come from
this machine and are mounted where images have them.
"""

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

from istio import volumes
from istio.kube import Kube
from istio.net import NODE_IP, Namespace, Node
from lab import client
from lab.procs import GRACE_S, Failed, Process, Processes, wait_until

PROBE_S = 60.0
OVERLAY = "/var/lib/overlay"
MOUNTS = (  # private and writable, below what this machine has there
    "mount -t tmpfs none /run", "mount -t tmpfs none /var/lib", "mount -t tmpfs none /usr/local/bin",
    f"mkdir -p {OVERLAY}/upper {OVERLAY}/work",
    f"mount -t overlay none -o lowerdir=/etc,upperdir={OVERLAY}/upper,workdir={OVERLAY}/work /etc")
RESOLV_CONF = b"nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"  # there is no DNS: fail at once


class Pod:
    """Start it with `start`; its processes end with those of the scene."""

    def __init__(self, kube: Kube, node: Node, processes: Processes, manifest: dict, ip: str,
                 image: dict[str, Path], hosts: dict[str, str]):
        """`image`: programs by the absolute path where they are to be. `hosts`: addresses by name."""
        self.name, self.namespace = manifest["metadata"]["name"], manifest["metadata"]["namespace"]
        self.ip = ip
        self._manifest, self._image, self._hosts = manifest, image, hosts
        self._kube, self._node, self._processes = kube, node, processes
        self._running: dict[str, Process] = {}

    def start(self) -> None:
        """Creates it at the API server, where the injector changes it, and runs what came of it."""
        self._create()
        self.net = Namespace(self.name, self._processes)
        self._node.plug(self.net, self.ip)
        self._patch_status(ready=False)
        self.object = self._kube.get("pod", self.name, self.namespace)
        self._mount()
        spec = self.object["spec"]
        for container in spec.get("initContainers", []):
            if container.get("restartPolicy") == "Always":
                self.start_container(container["name"])
                self._probe(container, "startupProbe")
            else:
                self._run_to_end(container)
        for container in spec["containers"]:
            self.start_container(container["name"])
        for container in self._lasting():
            self._probe(container, "startupProbe")
            self._probe(container, "readinessProbe")
        self._patch_status(ready=True)
        self.add_endpoints()

    def start_container(self, name: str) -> None:
        """Starts a container that does not run; what it prints goes to POD.CONTAINER.log."""
        container = self._container(name)
        argv, uid = self._argv(container), container.get("securityContext", {}).get("runAsUser")
        self._running[name] = self.net.start(f"{self.name}.{name}", *argv, uid=uid)

    def stop_container(self, name: str, grace_s: float = GRACE_S) -> int:
        """Ends a container as a kubelet does; its exit status."""
        return self.net.stop(self._running.pop(name), grace_s)

    def kill(self) -> None:
        """Ends its containers at once."""
        for name in list(self._running):
            self.stop_container(name, grace_s=0)

    def wait_ready(self, name: str) -> None:
        """Waits for a container's readiness probe, as the node asks it."""
        self._probe(self._container(name), "readinessProbe")

    def get(self, port: int, path: str) -> client.Response:
        """Asks something that listens in the Pod, as through a port-forward."""
        return self.send("GET", f"http://127.0.0.1:{port}{path}")

    def send(self, method: str, url: str, headers: dict[str, str] | None = None,
             body: bytes | None = None) -> client.Response:
        """A request as the Pod's application sends it: to another Pod it goes by way of the sidecar."""
        return self.net.call(lambda: client.request(method, url, headers, body))

    def add_endpoints(self) -> None:
        """Makes it an endpoint of each Service that selects it."""
        ports = {port["name"]: port["containerPort"] for container in self.object["spec"]["containers"]
                 for port in container.get("ports", []) if "name" in port}
        for service in self._kube.services_of(self.object):
            self._kube.add_endpoint(service, self.ip, ports, self.name)

    def remove_endpoints(self) -> None:
        for service in self._kube.services_of(self.object):
            self._kube.remove_endpoint(service, self.name)

    def _create(self) -> None:
        """The injector is asked through a webhook that may not answer yet; then there is no Pod."""
        def created() -> bool:
            try:
                self._kube.apply(self._manifest)
            except Failed as error:
                raise OSError(str(error)) from error
            return True
        wait_until(created, PROBE_S, f"Pod {self.name} is created")

    def _mount(self) -> None:
        """Lays out the file system: programs, name resolution, volumes."""
        self.net.run("sh", "-ec", "\n".join(MOUNTS))
        for target, program in self._image.items():
            self.net.run("sh", "-ec", 'mkdir -p "$(dirname "$1")"; touch "$1"; mount --bind "$0" "$1"', program, target)
        names = "".join(f"{ip} {name}\n" for name, ip in {"localhost": "127.0.0.1", **self._hosts}.items())
        tree: list[tuple[str, bytes | None, int]] = [
            ("/etc/hosts", names.encode(), 0), ("/etc/resolv.conf", RESOLV_CONF, 0)]
        by_name = {volume["name"]: volume for volume in self.object["spec"].get("volumes", [])}
        for container in self._lasting():
            uid = container.get("securityContext", {}).get("runAsUser", 0)
            for mount in container.get("volumeMounts", []):
                tree.append((mount["mountPath"], None, uid))
                held = volumes.files(by_name[mount["name"]], self.object, self._kube)
                tree += [(f"{mount['mountPath']}/{path}", data, uid) for path, data in held.items()]
        self._unpack(tree)

    def _unpack(self, tree: list[tuple[str, bytes | None, int]]) -> None:
        """Writes files, and directories where there are no bytes, with their owners."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for path, data, uid in tree:
                entry = tarfile.TarInfo(path.strip("/"))
                entry.uid = entry.gid = uid
                entry.type, entry.mode = (tarfile.DIRTYPE, 0o755) if data is None else (tarfile.REGTYPE, 0o644)
                entry.size = len(data or b"")
                tar.addfile(entry, io.BytesIO(data or b""))
        self.net.run("tar", "--extract", "--file=-", "--directory=/", "--numeric-owner", "--same-owner",
                     input=archive.getvalue())

    def _run_to_end(self, container: dict) -> None:
        log = Path(self._processes.log_directory, f"{self.name}.{container['name']}.log")
        log.write_text(self.net.run(*self._argv(container)))

    def _argv(self, container: dict) -> list[str]:
        """Its command line with its environment, and nothing of ours in it but the path to programs."""
        variables = volumes.environment(container, self.object)
        words = container.get("command") or [self.entry_point(container)]
        words = [volumes.expand(word, variables) for word in [*words, *container.get("args", [])]]
        base = {"PATH": f"/usr/local/bin:{os.environ['PATH']}", "HOME": "/"}
        return ["env", "-i", *(f"{name}={value}" for name, value in {**base, **variables}.items()), *words]

    @staticmethod
    def entry_point(container: dict) -> str:
        """What the image of a container without a command starts: Istio's own images, by name."""
        return "pilot-discovery" if container["name"] == "discovery" else "pilot-agent"

    def _lasting(self) -> list[dict]:
        """The containers that go on running: sidecars and applications."""
        spec = self.object["spec"]
        return [c for c in spec.get("initContainers", []) if c.get("restartPolicy") == "Always"] + spec["containers"]

    def _container(self, name: str) -> dict:
        return next(container for container in self._lasting() if container["name"] == name)

    def _probe(self, container: dict, kind: str) -> None:
        """Waits until a probe passes; a container without it passes."""
        if not (probe := container.get(kind, {}).get("httpGet")):
            return
        ports = {port.get("name"): port["containerPort"] for port in container.get("ports", [])}
        url = f"http://{self.ip}:{ports.get(probe['port'], probe['port'])}{probe['path']}"
        passed: Callable[[], bool] = lambda: self._node.call(lambda: client.request("GET", url)).status == 200
        name = container["name"]
        wait_until(passed, PROBE_S, f"{kind} of {self.name}, {name}: {url}", *self._running.values())

    def _patch_status(self, ready: bool) -> None:
        status = {"phase": "Running", "podIP": self.ip, "podIPs": [{"ip": self.ip}], "hostIP": NODE_IP,
                  "hostIPs": [{"ip": NODE_IP}], "conditions": [{"type": "Ready", "status": str(ready)}]}
        self._kube.run("patch", "pod", self.name, f"--namespace={self.namespace}", "--subresource=status",
                       "--type=merge", "--patch", json.dumps({"status": status}))
