"""`make test` runs files of tests side by side, as most tests wait. Two marks say what a file needs then (pytest.ini)."""

import fcntl

import pytest


def pytest_collection_modifyitems(items):
    """Long files begin first, and those that run alone come last: no other file waits for them."""
    def place(item):
        return bool(item.get_closest_marker("alone")), not item.get_closest_marker("long")
    items.sort(key=place)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """All tests share this checkout's lock; one that runs alone, its fixtures included, has it for itself."""
    with open(__file__) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        return (yield)
