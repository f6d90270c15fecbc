"""What the documents name is there: files, make targets, and links."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = {"target", "node_modules", ".tools", ".demo", ".git"}
DOCUMENTS = [path for path in sorted(ROOT.rglob("*.md")) if not SKIPPED & set(path.relative_to(ROOT).parts)]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
TOP = {path.name for path in ROOT.iterdir() if path.is_dir()} - SKIPPED


@pytest.fixture(params=DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def document(request):
    return request.param


def test_named_files_exist(document):
    named = re.findall(r"`([\w./-]+)`", document.read_text())
    missing = [name for name in named if name.split("/")[0] in TOP and "/" in name and not (ROOT / name).exists()]
    assert not missing


def test_links_lead_somewhere(document):
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", document.read_text())
    assert not [link for link in links if not (document.parent / link).exists()]


def test_named_make_targets_exist(document):
    assert set(re.findall(r"\bmake ([a-z][a-z-]*)`", document.read_text())) <= TARGETS


def test_functions_named_beside_a_file_are_in_it():
    text = (ROOT / "docs" / "architecture.md").read_text().replace("\n", " ")
    pairs = re.findall(r"`(?:\w+::)?(\w+)` in +`([\w./-]+\.rs)`", text)
    assert len(pairs) > 8
    assert not [(name, file) for name, file in pairs if not re.search(rf"\b{name}\b", (ROOT / file).read_text())]
