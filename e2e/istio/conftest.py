"""The one scene of this folder's tests; on failure, where the logs of its processes are."""

import pytest

from istio import programs
from istio.scene import Scene


@pytest.fixture(scope="package")
def scene(tmp_path_factory):
    if why := programs.missing():
        pytest.skip(why)
    with Scene(tmp_path_factory.mktemp("istio")) as running:
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed and "scene" in getattr(item, "funcargs", {}):
        report.sections.append(("scene", f"logs of all processes: {item.funcargs['scene'].directory}"))
    return report
