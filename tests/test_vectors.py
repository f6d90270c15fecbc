"""pytest over check_vectors.py: one test per vector file."""

from pathlib import Path

import check_vectors
import pytest

VECTORS = list(check_vectors.load())


@pytest.mark.parametrize("vector", [v for _, v in VECTORS], ids=[n for n, _ in VECTORS])
def test_vector(vector):
    check_vectors.check(vector)


def test_every_format_is_recomputed():
    recomputed = {v["format"] for _, v in VECTORS if check_vectors.check(v)}
    assert recomputed == set(check_vectors.CHECKS)


def test_a_difference_is_noticed():
    for _, vector in VECTORS:
        if vector["valid"] and vector.get("encoded"):
            altered = dict(vector, encoded=vector["encoded"][:-1] + "x")
            with pytest.raises(AssertionError):
                check_vectors.check(altered)


@pytest.mark.parametrize("kind", ["path", "authority", "session", "session-header", "context", "evidence"])
def test_another_verdict_or_value_is_noticed(kind):
    for _, vector in VECTORS:
        if vector["format"] != kind:
            continue
        changes = [{key: ["?"]} for key in {"canonical", "header", "context"} & set(vector)]
        if kind in check_vectors.VERDICTS:
            changes.append({"valid": not vector["valid"]})
        for change in changes:
            with pytest.raises(AssertionError):
                check_vectors.check(dict(vector, **change))


def test_both_sides_of_a_call_have_one_digest():
    same = {v["digests"]["hop"] for n, v in VECTORS if n.startswith("hop-same-")}
    assert len(same) == 1


def test_contributing_tells_how_many_there_are():
    text = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text("utf-8")
    recomputed = sum(check_vectors.check(vector) for _, vector in VECTORS)
    assert f"\n{len(VECTORS)} vectors, 0 changed, 0 removed\n" in text
    assert f"\n{recomputed} vectors recomputed, 0 differ\n" in text
