"""The scene: a chain, two organisations' collectors, and Bookinfo across both, running."""

import json
from pathlib import Path

import lab.collector
from chain import CHAIN_ID, Chain
from lab.bookinfo import CLOUD, ENTERPRISE, INGRESS, bookinfo, collector_pod
from lab.client import Client
from lab.collector import FILTER
from lab.mesh import Mesh
from lab.procs import Processes, wait_until
from lab.topology import Pod, Service, WasmFilter

LABELS = {ENTERPRISE: "Enterprise", CLOUD: "Public cloud"}
FILTER_CONFIG = {"tick_ms": 200}
ANCHOR_INTERVAL_S = 3
OTHER_ACCOUNT = 3  # of the chain: 0 deploys, 1 and 2 are the organisations'


class Collector(lab.collector.Collector):
    """One organisation's collector, anchoring on the scene's chain."""

    @property
    def label(self) -> str:
        return LABELS[self.organisation]

    def final_anchors(self) -> list[dict]:
        return [line for line in self.audit("anchor") if line["step"] == "final"]

    def configure(self, chain: Chain | None, contract: str = "", account: int = 0) -> None:
        """Writes its configuration; without a chain it does not anchor."""
        anchor = []
        if chain:
            self.directory.mkdir(parents=True, exist_ok=True)
            key = chain.key_file(account, self.directory / "anchor.key")
            anchor = ["", "[[anchor]]", 'chain = "anvil"', f"rpc = {json.dumps(chain.url)}", f"chain_id = {CHAIN_ID}",
                      f"contract = {json.dumps(contract)}", f"key_file = {json.dumps(str(key))}",
                      f"interval_s = {ANCHOR_INTERVAL_S}", 'finality = "finalized"', "poll_ms = 250",
                      'daily_budget_eth = "100"']
        self.write_config(*anchor)


class Scene:
    """All of it; a context manager. Files and logs are under `directory`."""

    def __init__(self, directory: Path, say):
        self.directory = directory
        self.processes = Processes(directory / "logs")
        self._say = say
        self.policy = directory / "policy.json"
        self.collectors: dict[str, Collector] = {}
        self.chain: Chain
        self.mesh: Mesh
        self.contract = ""

    def __enter__(self) -> "Scene":
        try:
            self._start()
        except BaseException:
            self.processes.close()
            raise
        return self

    def __exit__(self, *_) -> None:
        self.processes.close()

    @property
    def gateway(self) -> Client:
        return self.mesh.client(INGRESS)

    def sender(self, organisation: str) -> str:
        return self.chain.accounts[self._account(organisation)]

    def pids(self) -> dict[str, int]:
        """Every process of the scene, by the name of its log."""
        pods = self.mesh.pods.values()
        apps = (pod.app for pod in pods if pod.app)
        return {p.name: p.pid for p in (self.chain.process, *apps, *(pod.sidecar.process for pod in pods))}

    def _account(self, organisation: str) -> int:
        return {ENTERPRISE: 1, CLOUD: 2}[organisation]

    def _start(self) -> None:
        self._say("starting the chain (anvil) and deploying the anchor contract")
        self.chain = Chain(self.processes, self.directory / "chain")
        self.contract = self.chain.deploy()
        self._say("starting two collectors and Bookinfo behind eleven Envoys, mTLS between all")
        pods, services = self._collector_pods()
        filters = {name: WasmFilter(FILTER, FILTER_CONFIG) for name in LABELS}
        topology = bookinfo(wasm=filters, more_pods=pods, more_services=services, gateways=True)
        self.mesh = Mesh(topology, self.directory / "mesh", self.processes)
        self.mesh.start()
        for name in LABELS:
            pod = self.mesh.pods[_pod_name(name)]
            self.collectors[name] = Collector(name, self._home(name), f"http://127.0.0.1:{pod.app_port}")
        self._wait_for_first_heartbeats()
        self.policy.write_text(json.dumps(self._policy(), indent=2) + "\n")

    def _collector_pods(self) -> tuple[tuple[Pod, ...], tuple[Service, ...]]:
        made = []
        for name in LABELS:
            self._home(name).mkdir()
            collector = Collector(name, self._home(name))
            collector.configure(self.chain, self.contract, self._account(name))
            made.append(collector_pod(name, command=collector.argv))
        return tuple(pod for pod, _ in made), tuple(service for _, service in made)

    def _home(self, organisation: str) -> Path:
        return self.directory / organisation

    def _wait_for_first_heartbeats(self) -> None:
        """Every sidecar has two VMs, the main thread's and its worker's, and each opens a session."""
        for name, collector in self.collectors.items():
            pods = sum(pod.organisation == name for pod in self.mesh.topology.pods)
            wait_until(lambda c=collector, n=pods: len(c.get("/v1/sessions")) >= 2 * n, 15.0,
                       f"every sidecar's filter has reached {collector.label}'s collector")

    def _policy(self) -> dict:
        """What each organisation has told the other, outside of all that is checked with it."""
        def log(collector: Collector) -> dict:
            anchor = {"type": "evm", "chain_id": CHAIN_ID, "contract": self.contract,
                      "sender": self.sender(collector.organisation), "finality": "finalized"}
            return {"origin": collector.origin, "vkey": collector.vkey, "anchors": [anchor]}
        return {"format": "meshchain/policy/v1", "logs": [log(c) for c in self.collectors.values()],
                "require_anchor": True}


def _pod_name(organisation: str) -> str:
    return f"meshchain-collector-{organisation}-0"
