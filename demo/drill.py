"""The drill: a liar changes what was logged, in real files, and each change has to be refuted."""

import base64
import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import forge
from chain import CHAIN_ID
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from lab.bookinfo import CLOUD
from lab.collector import meshchain
from lab.procs import Failed, free_port, wait_until
from receipts import fetch, write
from scene import OTHER_ACCOUNT, Collector, Scene

REFUSAL_S = 15.0
ANCHOR_S = 30.0


@dataclass(frozen=True)
class Refuted:
    """One lie, and what refuted it."""

    lie: str
    done: str
    by: str
    code: int
    reason: str


class OtherContract:
    """The liar's collector: a copy of log and key that anchors elsewhere, from another account."""

    def __init__(self, scene: Scene):
        self._scene = scene
        self.contract = scene.chain.deploy()
        home = scene.directory / "drill" / "other-contract"
        port = free_port()
        self.collector = Collector(CLOUD, home, f"http://127.0.0.1:{port}")
        forge.copy_data(scene.collectors[CLOUD].data, self.collector.data)
        self.collector.configure(scene.chain, self.contract, OTHER_ACCOUNT)
        self._process = scene.processes.start("drill-other-contract", self.collector.argv(port))

    def evidence(self, trace_id: str) -> tuple[dict, list[str]]:
        """Evidence of a trace with a receipt of the other contract, and the hashes of its blocks."""
        wait_until(self.collector.final_anchors, ANCHOR_S, "the anchor on the other contract is final", self._process)
        evidence = fetch(trace_id, self.collector, self.collector.directory / "evidence.json")
        hashes = [f"{CHAIN_ID}:{self._scene.chain.final_hash(line['block'])}"
                  for line in self.collector.final_anchors()]
        self._scene.processes.stop(self._process)
        return evidence, hashes


class Drill:
    """Lies about one trace that Public cloud's log holds.

    `evidence` is the true evidence; `hashes` are those of all true anchors' blocks, so that a lie
    is refuted by what it changes and not for want of a block.
    """

    def __init__(self, scene: Scene, evidence: dict, hashes: list[str], other: OtherContract):
        self._scene = scene
        self._evidence = evidence
        self._hashes = hashes
        self._other = other
        self._log = scene.collectors[CLOUD]
        self._directory = scene.directory / "drill"
        self._batches = [b for pool in forge.pools(self._log.data) for b in forge.read_pool(pool)]

    def run(self) -> Iterator[Refuted]:
        """Yields one Refuted after the other; raises Failed where a lie was believed."""
        yield self.flipped_byte()
        yield self.removed_entry()
        yield self.removed_entry_from_disk()
        yield self.rewritten_call()
        yield self.truncated_log()
        yield self.forged_signature()
        yield self.forged_root()
        yield self.other_contract()

    def flipped_byte(self) -> Refuted:
        lie = copy.deepcopy(self._evidence)
        record = lie["spans"][0]["record"]
        data = bytearray.fromhex(record["hop"])
        at = len(data) // 2
        data[at] ^= 1
        record["hop"] = data.hex()
        return self._verify("flipped byte", f"one bit in a disclosed record", lie, "record")

    def removed_entry(self) -> Refuted:
        span = copy.deepcopy(max(self._evidence["spans"], key=lambda s: len(self._batch_of(s).entries)))
        batch = self._batch_of(span)
        if len(batch.entries) < 2:
            raise Failed("every batch of the trace has one entry only")
        mine = span["batch"]["index"]
        gone = mine - 1 if mine else 1
        left = batch.without(gone).entries
        index = mine - (gone < mine)
        path = forge.inclusion_path([forge.leaf_hash(entry) for entry in left], index)
        span["batch"] = {"index": index, "path": [h.hex() for h in path]}
        done = f"entry {gone} of a batch of {len(batch.entries)}; another entry's path computed without it"
        return self._verify("removed entry", done, {**self._evidence, "spans": [span]}, "batch")

    def removed_entry_from_disk(self) -> Refuted:
        lie = Collector(CLOUD, self._directory / "removed-entry")
        forge.copy_data(self._log.data, lie.data)
        lie.configure(chain=None)
        entry = bytes.fromhex(self._evidence["spans"][0]["entry"])
        self._remove(entry, forge.pools(lie.data))
        process = self._scene.processes.start("drill-removed-entry", lie.argv(free_port()))
        wait_until(lambda: not process.alive(), REFUSAL_S, "the collector refuses to start")
        code = self._scene.processes.stop(process)
        reason = process.log_text().strip().splitlines()[-1].removeprefix("meshchain-collector: ")
        if code != 1 or "does not hold its entries" not in reason:
            raise Failed(f"removed entry: the collector ended with {code}: {reason}")
        return Refuted("removed entry", "from a copy of the data directory, lengths and check sum corrected",
                       "the collector, which does not start", code, reason)

    def rewritten_call(self) -> Refuted:
        """The collector's owner rewrites a call and all that is computed from it; the proxy's key he does not have."""
        span = copy.deepcopy(self._evidence["spans"][0])
        place, at = forge.proof_index(span["tlog_proof"]), span["batch"]["index"]
        written = forge.rewrite(self._batch_of(span), at, span["record"], status=204)
        hashes = [forge.leaf_hash(batch.leaf) for batch in self._batches]
        hashes[place] = forge.leaf_hash(written.leaf)
        signer = forge.Signer.of_log(self._log.origin, self._log.data)
        note = signer.checkpoint(len(hashes), forge.root(hashes))
        path = forge.inclusion_path([forge.leaf_hash(entry) for entry in written.entries], at)
        span |= {"leaf": written.leaf.hex(), "entry": written.entries[at].hex(),
                 "batch": {"index": at, "path": [h.hex() for h in path]},
                 "tlog_proof": forge.tlog_proof(place, forge.inclusion_path(hashes, place), note)}
        done = "another status in record, entry, batch and chain; the new tree signed with the log's own key"
        return self._verify("rewritten call", done, {**self._evidence, "spans": [span], "anchors": []}, "signature")

    def truncated_log(self) -> Refuted:
        anchor = json.loads(max((self._log.data / "anchor" / "anvil" / "receipts").iterdir()).read_text())["evidence"]
        full = anchor["size"]
        cut = 1 + max(forge.proof_index(span["tlog_proof"]) for span in self._evidence["spans"])
        if cut >= full:
            raise Failed(f"the trace stands in the last leaf of {full}: nothing to cut off")
        leaves = [forge.leaf_hash(batch.leaf) for batch in self._batches[:cut]]
        filler = [forge.leaf_hash(self._batches[0].leaf)] * (full - cut)
        signer = forge.Signer.of_log(self._log.origin, self._log.data)
        lie = self._with_checkpoint(signer.checkpoint(cut, forge.root(leaves)), leaves)
        path = forge.consistency_path(leaves + filler, cut)
        lie["anchors"] = [{**anchor, "consistency": [h.hex() for h in path]}]
        done = (f"cut off after leaf {cut - 1}, signed with the log's own key, refilled to the {full} leaves that are "
                "anchored")
        return self._verify("truncated log", done, lie, "anchor")

    def forged_signature(self) -> Refuted:
        size, root = self._head()
        signer = forge.Signer(self._log.origin, Ed25519PrivateKey.generate())
        lie = self._with_checkpoint(signer.checkpoint(size, root))
        return self._verify("forged checkpoint", "the same tree head, signed with another key", lie, "checkpoint")

    def forged_root(self) -> Refuted:
        note = forge.proof_checkpoint(self._evidence["spans"][0]["tlog_proof"])
        origin, _, rest = note.split("\n", 2)
        size, _ = self._head()
        lie = self._with_checkpoint(f"{origin}\n{size + 1}\n{rest}")
        return self._verify("forged checkpoint", f"size {size} made {size + 1}, true signature kept", lie, "checkpoint")

    def other_contract(self) -> Refuted:
        lie, hashes = self._other.evidence(self._evidence["trace_id"])
        done = f"the same contract deployed again at {self._other.contract}, and the tree head anchored there"
        return self._verify("another contract", done, lie, "anchor", hashes)

    def _verify(self, lie: str, done: str, evidence: dict, step: str,
                more_hashes: Sequence[str] = ()) -> Refuted:
        """Has the verifier judge; it must refute, and at the step that was tampered with."""
        number = len(list(self._directory.glob("*.json"))) + 1
        file = write(self._directory / f"{number}-{lie.replace(' ', '-')}.json", evidence)
        hashes = [a for h in [*self._hashes, *more_hashes] for a in ("--header-hash", h)]
        run = meshchain("verify", file, "--policy", self._scene.policy, *hashes, "--json")
        reasons = run.json()["reasons"] if run.code in (0, 1, 2) else [run.text]
        reason = next((r for r in reasons if f", {step}: " in r), None)
        if run.code != 1 or reason is None:
            raise Failed(f"drill {lie!r} ({done}): exit code {run.code}, not refuted at step {step}: {reasons}")
        return Refuted(lie, done, f"step {step}", run.code, reason.split(": ", 1)[1])

    def _batch_of(self, span: dict) -> forge.Batch:
        return self._batches[forge.proof_index(span["tlog_proof"])]

    def _head(self) -> tuple[int, bytes]:
        lines = forge.proof_checkpoint(self._evidence["spans"][0]["tlog_proof"]).split("\n")
        return int(lines[1]), base64.b64decode(lines[2])

    def _with_checkpoint(self, note: str, leaves: list[bytes] | None = None) -> dict:
        """The evidence under another checkpoint; with `leaves`, proofs in their tree."""
        lie = copy.deepcopy(self._evidence)
        for span in lie["spans"]:
            index = forge.proof_index(span["tlog_proof"])
            if leaves:
                span["tlog_proof"] = forge.tlog_proof(index, forge.inclusion_path(leaves, index), note)
            else:
                span["tlog_proof"] = span["tlog_proof"].split("\n\n", 1)[0] + "\n\n" + note
        return lie

    @staticmethod
    def _remove(entry: bytes, pools: list[Path]) -> None:
        for pool in pools:
            batches = forge.read_pool(pool)
            for n, batch in enumerate(batches):
                if entry in batch.entries:
                    batches[n] = batch.without(batch.entries.index(entry))
                    forge.write_pool(pool, batches)
                    return
        raise Failed("the entry to remove is not in the log")
