"""Evidence files: what a collector gives of a trace, read with docs/format.md, and judged by the verifier."""

import json
from pathlib import Path

from lab.client import request
from lab.collector import Collector, meshchain
from lab.messages import decode
from lab.receipts import ENTRY, Receipt, receipt


def fetch(trace_id: str, collectors: list[Collector], file: Path) -> list[Receipt]:
    """Writes what these logs hold of a trace into one file; the receipts in it, none where no log has any."""
    merged: dict = {}
    for collector in collectors:
        answer = request("GET", f"{collector.url}/v1/evidence/{trace_id}")
        if answer.status == 404:
            continue
        assert answer.status == 200, answer
        found = answer.json()
        merged = found | {name: merged.get(name, []) + found[name] for name in ("spans", "anchors")}
    file.write_text(json.dumps(merged))
    return [_receipt(span) for span in merged.get("spans", [])]


def _receipt(span: dict) -> Receipt:
    header = decode("BatchHeader", decode("BatchLeaf", bytes.fromhex(span["leaf"]))["header"])
    record = {part: bytes.fromhex(data) for part, data in span["record"].items() if isinstance(data, str)}
    return receipt(header, ENTRY.unpack(bytes.fromhex(span["entry"])), record)


def verify(file: Path, collectors: list[Collector]) -> dict:
    """The verifier's report on a file, by a policy that trusts these logs and asks for no anchor."""
    policy = file.with_suffix(".policy")
    logs = [{"origin": collector.origin, "vkey": collector.vkey, "anchors": []} for collector in collectors]
    policy.write_text(json.dumps({"format": "meshchain/policy/v1", "require_anchor": False, "logs": logs}))
    return meshchain("verify", file, "--policy", policy, "--json").json()
