"""The demo, run as `make demo`, `make demo KEEP=1` and `make demo-stop` run it."""

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

DEMO = Path(__file__).resolve().parent
ROOT = DEMO.parent
STATE = ROOT / ".demo"
DEADLINE_S = 120


def run(*arguments: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run(list(map(str, arguments)), cwd=ROOT, text=True, timeout=DEADLINE_S, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def demo(*arguments: str) -> subprocess.CompletedProcess:
    return run(sys.executable, DEMO / "run.py", *arguments)


def stop() -> subprocess.CompletedProcess:
    return run(sys.executable, DEMO / "stop.py")


def command_line(pid: int) -> str:
    """Empty where there is no such process, or only its exit status is left."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def left_running() -> list[str]:
    """Command lines that name the demo's folder or its program."""
    texts = [command_line(int(process.name)) for process in Path("/proc").glob("[0-9]*")]
    return [text for text in texts if f"{STATE}/" in text or f"{DEMO}/run.py" in text]


def shape(line: str) -> str:
    """A line without what differs from run to run: numbers, hashes, times, spaces, which span is first."""
    line = re.sub(r"\b(client|server) +", "SIDE ", line)
    line = re.sub(r"\b(ratings|reviews)\b", "SERVICE", line)
    line = re.sub(r"\b(0x)?[0-9a-f]{8,}\b| -$", "N", line)
    line = re.sub(r"\d[\d.,:TZ-]*", "N", line)
    return re.sub(r"\s+", " ", line).strip()


def test_the_scene_shows_agreement_and_refutes_every_lie_and_leaves_nothing_running():
    done = demo()
    assert done.returncode == 0, done.stdout
    for line in ("the two sides agree on", "gaps: none", "gas per span", "verified: ", "exit code 0"):
        assert line in done.stdout, done.stdout
    for lie in ("flipped byte", "removed entry", "rewritten call", "truncated log", "forged checkpoint", "another contract"):
        assert f"\n  {lie} " in done.stdout, done.stdout
    assert done.stdout.count("refuted by") == done.stdout.count("exit code 1") == 8
    assert "istio-egressgateway -> cloud-ingressgateway" in done.stdout
    assert "\x1b[" not in done.stdout
    shapes = {shape(line) for line in done.stdout.splitlines()}
    quoted = (ROOT / "README.md").read_text().split("$ make demo\n")[1].split("```")[0].splitlines()
    assert [line for line in quoted if shape(line) not in shapes | {"", "..."}] == [], "README shows another output"
    assert left_running() == []


@pytest.fixture
def kept():
    done = demo("--keep")
    yield done
    stop()


def test_a_kept_scene_answers_until_it_is_stopped(kept):
    assert kept.returncode == 0, kept.stdout
    scene = json.loads((STATE / "run.json").read_text())
    for collector in scene["collectors"]:
        log = json.load(urllib.request.urlopen(collector["url"] + "/v1/log", timeout=5))
        assert log["vkey"] == collector["vkey"]
        assert (Path(collector["data"]) / "audit.jsonl").exists()
        assert collector["url"] in kept.stdout
    program = Path(scene["verifier"])
    checked = run(program, "verify", scene["evidence"], "--policy", scene["policy"], "--rpc", scene["chain"]["rpc"])
    assert checked.returncode == 0, checked.stdout

    again = demo()
    assert again.returncode == 1
    assert "make demo-stop" in again.stdout

    ended = stop()
    assert ended.returncode == 0, ended.stdout
    assert left_running() == []
    assert [name for name, pid in scene["pids"].items() if command_line(pid)] == []
    assert "none is running" in stop().stdout
