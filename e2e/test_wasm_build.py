"""The filter's module is the same wherever it is built, so that its sha256 says what is in it."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lab.collector import BUILD, FILTER, check_built
from lab.tools import REPOSITORY

pytestmark = pytest.mark.long

BUILD_S = 900.0
CARGO_HOME = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
NO_SOURCES = shutil.ignore_patterns("target", ".tools", ".demo", ".git", "node_modules", "__pycache__")
VARIABLES = ("RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS")
# What an admin may have set for other builds.
CARGO_CONFIG = """
[build]
target-dir = "/nowhere"
rustflags = ["-Copt-level=0"]
[profile.release-wasm]
opt-level = 1
debug-assertions = true
lto = "off"
codegen-units = 16
strip = "none"
"""


def toolchain() -> Path:
    """The folder of the pinned toolchain, which rustup finds from the true home only."""
    done = subprocess.run(["rustc", "--print", "sysroot"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return Path(done.stdout.strip())


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> Path:
    """Another machine: sources, home, cargo's home and target folder are others, and environment and cargo's configuration have flags."""
    place = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(REPOSITORY, place / "sources", ignore=NO_SOURCES)
    (place / "cargo").mkdir()
    (place / "cargo" / "registry").symlink_to(CARGO_HOME / "registry")
    (place / "cargo" / "config.toml").write_text(CARGO_CONFIG)
    changed = {"HOME": place, "CARGO_HOME": place / "cargo", "CARGO_TARGET_DIR": place / "built",
               "CARGO_NET_OFFLINE": "true", "CARGO_INCREMENTAL": "1", "CARGO_BUILD_TARGET_DIR": place / "nowhere", "CARGO_PROFILE_RELEASE_WASM_OPT_LEVEL": "1",
               "PATH": f"{toolchain() / 'bin'}:{os.environ['PATH']}", **dict.fromkeys(VARIABLES, "-Copt-level=0")}
    # Nice, for the tests beside it measure times.
    done = subprocess.run(["nice", "-n", "19", place / "sources" / "wasm-build.sh"], capture_output=True, text=True,
                          timeout=BUILD_S, env=os.environ | {name: str(value) for name, value in changed.items()})
    assert done.returncode == 0, done.stderr
    return place


def test_the_module_is_the_same_wherever_it_is_built(elsewhere):
    check_built()
    there = elsewhere / "built" / FILTER.relative_to(BUILD)
    here, there = (hashlib.sha256(module.read_bytes()).hexdigest() for module in (FILTER, there))
    assert here == there, "or the module here is older than its sources: `make wasm` builds it"


def test_no_folder_of_the_machine_is_named_in_the_module(elsewhere):
    there = (elsewhere / "built" / FILTER.relative_to(BUILD)).read_bytes()
    folders = (elsewhere, REPOSITORY, BUILD, CARGO_HOME, Path.home(), toolchain())
    assert [str(folder) for folder in folders if f"{folder}/".encode() in there] == []
    assert b"/crates/serde_json-" in there, "it names sources, by the names that wasm-build.sh gives them"
