"""The manifests as text and parsed, for the tests of this folder."""

import importlib.util
import pathlib

HERE = pathlib.Path(__file__).resolve().parent

# By path: other folders may have a check.py too, and one pytest run holds one module of a name.
_spec = importlib.util.spec_from_file_location("envoyfilter_check", HERE / "check.py")
check = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(check)

DELIVERIES = ("wasmplugin.yaml", "trafficextension.yaml", "envoyfilter.yaml")
MANIFESTS = (*DELIVERIES, "collector.yaml")


def read(name):
    """The text of a file in this folder."""
    return (HERE / name).read_text()


def documents(name):
    """The objects of a manifest."""
    return check.parse(read(name))
