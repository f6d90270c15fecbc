"""`make build` and the tests after it share one build of every dependency."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def resolved(edges: str) -> set[str]:
    """Each crate that is built, with its version and features; for a machine's tools and for its programs apart."""
    argv = ["cargo", "tree", "--locked", "--workspace", "--edges", edges, "--prefix", "none", "--format", "{p} {f}"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    return {line.removesuffix(" (*)") for line in done.stdout.splitlines()}


def test_dev_dependencies_ask_for_no_further_features_of_what_programs_are_made_of():
    built, tested = resolved("normal,build"), resolved("normal,build,dev")
    assert len(built) > 100
    assert built - tested == set(), "a dev-dependency adds features: make it a dependency"
