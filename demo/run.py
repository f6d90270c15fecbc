"""The MeshChain scene, from start to drill. What it shows is explained in docs/demo.md.

    run.py           the whole scene; nothing is left running
    run.py --keep    the same, but it stays up until `stop.py`
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "e2e"))

import receipts
import show
import state
import traffic
from chain import CHAIN_ID
from drill import Drill, OtherContract
from lab.bookinfo import CLOUD, ENTERPRISE
from lab.collector import VERIFIER, check_built, meshchain
from lab.procs import Failed, wait_until
from lab.tools import ToolMissing
from scene import LABELS, Collector, Scene

DELIVERY_S = 20.0
ANCHOR_S = 45.0
QUIET_S = 1.0  # several ticks of the filter: a span too many would have come by then
KEPT = b"kept"


def main() -> int:
    parser = argparse.ArgumentParser(description="the MeshChain demo")
    parser.add_argument("--keep", action="store_true", help="leave the scene running until demo/stop.py")
    parser.add_argument("--hold", action="store_true", help=argparse.SUPPRESS)  # the process that --keep starts
    arguments = parser.parse_args()
    if arguments.keep:
        return keep()
    signal.signal(signal.SIGTERM, _interrupt)
    if arguments.hold:
        threading.Thread(target=_follow_parent, daemon=True).start()
    try:
        check_built()
        state.take()
    except (ToolMissing, state.Occupied) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    if arguments.hold:
        to_log(sys.stderr)  # what outlives our parent must not keep its pipe open
    try:
        demo(hold=arguments.hold)
        return 0
    except KeyboardInterrupt:
        print("\ndemo: stopped", flush=True)
        return 130
    except Exception as error:
        (state.LOGS / "demo.log").open("a").write(traceback.format_exc())
        print(f"\n{show.red('demo failed:')} {error}\n(logs: {state.LOGS})", flush=True)
        return 1


def demo(hold: bool) -> None:
    say = show.Progress()
    with Scene(state.STATE, say) as scene:
        asked = run_traffic(scene, say)
        sides = await_spans(scene, asked, say)
        await_anchors(scene, say)
        say("building the liar's collector for the drill: same log and key, another contract")
        other = OtherContract(scene)
        say("fetching evidence")
        trace_id = traffic.failing_trace(asked)
        hashes = final_hashes(scene)
        theirs = show_trace(scene, trace_id, hashes)
        show.totals(asked, sides, scene)
        show.sources(scene)
        show.anchors(scene)
        verify_offline(scene, theirs)
        show_drill(Drill(scene, json.loads(theirs.read_text()), hashes, other))
        say("all shown" if hold else "all shown; stopping")
        if hold:
            stay(scene, trace_id, theirs)
    if not hold:
        say("done, nothing is left running")


def run_traffic(scene: Scene, say) -> list[traffic.Asked]:
    asks = traffic.plan()
    say(f"sending {len(asks)} requests to Bookinfo: some fail, some are slow, one user hangs up")
    asked = traffic.send(scene.gateway, asks, say)
    if wrong := traffic.unexpected(asked):
        raise Failed(f"{len(wrong)} requests got another status than they asked for, such as {wrong[0]}")
    return asked


def await_spans(scene: Scene, asked: list[traffic.Asked], say) -> receipts.Sides:
    """Every call between proxies must have left one span at each of them, in the log of its organisation."""
    expected = traffic.expected_spans(asked)
    say(f"waiting for the {expected.total():,} spans that these requests must leave")

    def entries() -> dict[str, int]:
        return {name: c.get("/v1/log")["entries"] for name, c in scene.collectors.items()}
    try:
        wait_until(lambda: all(count >= expected[name] for name, count in entries().items()), DELIVERY_S,
                   "all spans are logged")
    except Failed as error:
        raise Failed(f"expected {dict(expected)}, found {entries()}: {error}") from error
    time.sleep(QUIET_S)
    sides = receipts.compare_sides(scene.collectors)
    if sides.spans != dict(expected):
        raise Failed(f"expected {dict(expected)} spans, the logs hold {sides.spans}")
    if sides.edge != len(asked) or sides.agree * 2 + sides.edge != expected.total():
        raise Failed(f"the two sides differ: {sides}")
    for name, collector in scene.collectors.items():
        for session in collector.get("/v1/sessions"):
            if session["missing_batches"] or session["dropped"]:
                raise Failed(f"{collector.label} has a gap: {session}")
            if not session["principal"].startswith(f"spiffe://{name}.example/"):
                raise Failed(f"{collector.label} has a session of a stranger: {session}")
    return sides


def await_anchors(scene: Scene, say) -> None:
    """Until all that is logged now is under a final anchor."""
    say("waiting until both logs are anchored and the anchors' blocks are final")
    for collector in scene.collectors.values():
        size = collector.get("/v1/log")["size"]

        def covered(collector: Collector = collector, size: int = size) -> bool:
            (chain,) = collector.get("/v1/anchors")
            anchor = chain["status"]
            if anchor["stopped"]:
                raise Failed(f"{collector.label}'s anchor: {anchor['alert']}")
            if anchor["alert"]:
                raise OSError(anchor["alert"])  # may pass; told if it does not
            return (anchor["last_final_size"] or 0) >= size
        wait_until(covered, ANCHOR_S, f"{collector.label}'s {size} leaves are anchored")


def final_hashes(scene: Scene) -> list[str]:
    """Hashes of the anchors' blocks, as the chain tells them."""
    blocks = {line["block"] for c in scene.collectors.values() for line in c.final_anchors()}
    return [f"{CHAIN_ID}:{scene.chain.final_hash(block)}" for block in sorted(blocks)]


def show_trace(scene: Scene, trace_id: str, hashes: list[str]) -> Path:
    """Shows the trace from both organisations' evidence; the file of Public cloud's."""
    folder = scene.directory / "evidence"
    ours, theirs = (receipts.fetch(trace_id, scene.collectors[name], folder / f"{name}.json")
                    for name in (ENTERPRISE, CLOUD))
    both = receipts.write(folder / "both.json", receipts.merge(ours, theirs))
    known = [argument for h in hashes for argument in ("--header-hash", h)]
    run = meshchain("verify", both, "--policy", scene.policy, *known, "--json")
    if run.code:
        raise Failed(f"the evidence of trace {trace_id} is not verified: {run.text}")
    report = run.json()
    if any(hop["agreement"] != "agree" and "edge" not in hop["why"] for hop in report["hops"]):
        raise Failed(f"a hop of trace {trace_id} is not agreed upon: {report['hops']}")
    show.trace_tree(report)
    return folder / f"{CLOUD}.json"


def verify_offline(scene: Scene, evidence: Path) -> None:
    """Enterprise checks what Public cloud's log says, with nothing but files and a block hash."""
    report = meshchain("verify", evidence, "--policy", scene.policy, "--json").json()
    block = report["anchors"][0]["block_number"]
    block_hash = f"{CHAIN_ID}:{scene.chain.final_hash(block)}"
    show.head(f"Verified offline: {LABELS[ENTERPRISE]} checks {LABELS[CLOUD]}'s part of the trace, without collector "
              "or chain")
    print(f"  (the hash of block {block} was looked up on the chain before; it is all that is taken from there)")
    file, policy = (path.relative_to(scene.directory) for path in (evidence, scene.policy))
    arguments = ("verify", file, "--policy", policy, "--header-hash", block_hash)
    print("  $ meshchain " + " ".join(map(str, arguments)))
    run = meshchain(*arguments, cwd=scene.directory)
    print("".join(f"  {line}\n" for line in run.text.splitlines()) + f"  exit code {run.code}", flush=True)
    if run.code:
        raise Failed("the evidence is not verified")


def show_drill(drill: Drill) -> None:
    show.head("Drill: each of these must be refuted")
    for lie in drill.run():
        show.refuted(lie)


def stay(scene: Scene, trace_id: str, evidence: Path) -> None:
    """Leaves the scene up: says where it is, lets the parent go, waits to be told to end."""
    run = {
        "format": "meshchain/demo/v1",
        "collectors": [{"name": name, "organisation": c.label, "origin": c.origin, "url": c.url, "vkey": c.vkey,
                        "data": str(c.data), "sender": scene.sender(name)} for name, c in scene.collectors.items()],
        "chain": {"rpc": scene.chain.url, "chain_id": CHAIN_ID, "contract": scene.contract},
        "gateway": scene.gateway.base_url,
        "trace_id": trace_id,
        "evidence": str(evidence),
        "policy": str(scene.policy),
        "verifier": str(VERIFIER),
        "pids": {"demo": os.getpid(), **scene.pids()},
    }
    show.urls(run)
    to_log(sys.stdout)
    fresh = state.RUN_JSON.with_suffix(".new")
    fresh.write_text(json.dumps(run, indent=2) + "\n")
    fresh.rename(state.RUN_JSON)
    try:
        while True:
            signal.pause()
    except KeyboardInterrupt:
        state.RUN_JSON.unlink(missing_ok=True)


def keep() -> int:
    """Runs the scene in a process of its own, which outlives this one once all is shown."""
    child = subprocess.Popen([sys.executable, __file__, "--hold"], stdin=subprocess.PIPE, start_new_session=True)
    try:
        while child.poll() is None:
            if state.kept_by() == child.pid:
                child.stdin.write(KEPT)
                child.stdin.flush()
                return 0
            time.sleep(0.1)
    except KeyboardInterrupt:
        child.terminate()
        child.wait()
    return child.returncode


def to_log(stream) -> None:
    """From now on the stream goes to the demo's own log."""
    stream.flush()
    with (state.LOGS / "demo.log").open("a") as log:
        os.dup2(log.fileno(), stream.fileno())


def _follow_parent() -> None:
    """Ends the demo if whoever started it ends before all is shown."""
    if os.read(0, len(KEPT)) != KEPT:  # not sys.stdin: its lock would stand in the way of an exit
        os.kill(os.getpid(), signal.SIGTERM)


def _interrupt(*_) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
