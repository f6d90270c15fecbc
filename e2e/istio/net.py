"""A node and its Pods as network and mount namespaces.

None of them has a name: each is held by one process, and the kernel takes it down with everything in
it (bridge, veth pairs, iptables rules, mounts, open ports) when the last process in it ends. The lab's
guard ends them all however the tests end, so nothing is left on the machine and nothing can collide.

    this machine  |  node 10.99.0.1, bridge  --+-- Pod 10.99.0.11
                  |  API server, istiod        +-- Pod 10.99.0.12
"""

import ctypes
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from lab.procs import GRACE_S, Failed, Process, Processes, wait_until

T = TypeVar("T")

BRIDGE = "pods"
NODE_IP = "10.99.0.1"
PREFIX_LENGTH = 24
STEP_S = 30.0  # one command inside a namespace
CLONE_NEWNET = 0x40000000  # linux/sched.h

_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A network namespace and a mount namespace, with loopback up."""

    def __init__(self, name: str, processes: Processes):
        self.name = name
        self._processes = processes
        self.holder = processes.start(f"{name}.holder", [
            "unshare", "--net", "--mount", "--propagation", "private", "sleep", "infinity"])
        command = Path(f"/proc/{self.holder.pid}/comm")  # unshare becomes sleep once the namespaces are there
        wait_until(lambda: command.read_text() == "sleep\n", STEP_S, f"namespaces of {name}", self.holder)
        self.run("ip", "link", "set", "lo", "up")

    def argv(self, *argv: str | Path, uid: int | None = None) -> list[str]:
        """The command line that runs `argv` inside, in /, as user and group `uid` (default: root)."""
        enter = ["nsenter", f"--target={self.holder.pid}", "--net", "--mount"]  # entering puts us in /
        drop = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid else []
        return [*enter, *drop, *map(str, argv)]

    def run(self, *argv: str | Path, input: bytes = b"") -> str:
        """Runs a command inside to its end; its stdout. Raises Failed with what it said."""
        done = subprocess.run(self.argv(*argv), input=input, capture_output=True, timeout=STEP_S)
        if done.returncode != 0:
            said = (done.stdout + done.stderr).decode(errors="replace")
            raise Failed(f"in {self.name}: {' '.join(map(str, argv))}: {done.returncode}\n{said}")
        return done.stdout.decode()

    def start(self, name: str, *argv: str | Path, uid: int | None = None) -> Process:
        """Starts a process inside; its log can be appended to by any user, as Envoy's access log does."""
        log = self._processes.log_directory / f"{name}.log"
        log.touch()
        log.chmod(0o666)
        return self._processes.start(name, self.argv(*argv, uid=uid))

    def stop(self, process: Process, grace_s: float = GRACE_S) -> int:
        """Ends a process, at once if `grace_s` is 0; its exit status."""
        return self._processes.stop(process, grace_s)

    def call(self, work: Callable[[], T]) -> T:
        """Runs a function of this process on a thread that is in the network namespace.

        The sockets that it opens stay in the namespace, whichever thread uses them later.
        """
        with ThreadPoolExecutor(max_workers=1, initializer=self._enter) as thread:
            return thread.submit(work).result()

    def _enter(self) -> None:
        with open(f"/proc/{self.holder.pid}/ns/net") as namespace:
            if _libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
                error = ctypes.get_errno()
                raise OSError(error, f"setns to {self.name}: {os.strerror(error)}")


class Node(Namespace):
    """The node: its namespace has the bridge that the Pods are plugged into."""

    def __init__(self, processes: Processes):
        super().__init__("node", processes)
        self.run("ip", "link", "add", BRIDGE, "type", "bridge")
        self.run("ip", "address", "add", f"{NODE_IP}/{PREFIX_LENGTH}", "dev", BRIDGE)
        self.run("ip", "link", "set", BRIDGE, "up")

    def plug(self, namespace: Namespace, ip: str) -> None:
        """Gives a Pod's namespace its interface, its address, and the node as its way out."""
        port = f"pod{ip.rpartition('.')[2]}"
        self.run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(namespace.holder.pid))
        self.run("ip", "link", "set", port, "master", BRIDGE, "up")
        namespace.run("ip", "address", "add", f"{ip}/{PREFIX_LENGTH}", "dev", "eth0")
        namespace.run("ip", "link", "set", "eth0", "up")
        namespace.run("ip", "route", "add", "default", "via", NODE_IP)
