"""The manifests of envoyfilter/, filled in as its README tells a user to, and nothing else changed."""

from lab.tools import REPOSITORY

FOLDER = REPOSITORY / "envoyfilter"
DELIVERIES = ("wasmplugin", "trafficextension", "envoyfilter")
PARTS = ("meshchain-server", "meshchain-client")  # in the names of HTTP filters and of discovered resources
URL = "oci://registry.example.com/meshchain/filter:0.1.0"
SHA256 = "0" * 64
ORIGIN = "collector.example.org/meshchain"


def delivery(name: str, url: str, sha256: str) -> str:
    """A manifest that delivers the filter, as YAML."""
    return fill((FOLDER / f"{name}.yaml").read_text(), {URL: url, SHA256: sha256})


def collector(origin: str) -> str:
    """The collector's manifest, as YAML. Its image stays: Pods here mount the program instead."""
    return fill((FOLDER / "collector.yaml").read_text(), {ORIGIN: origin})


def fill(text: str, values: dict[str, str]) -> str:
    """Puts in values for those marked REPLACE, in each part of the manifest alike."""
    for placeholder, value in values.items():
        assert placeholder in text, f"{placeholder} does not stand in the manifest"
        text = text.replace(placeholder, value)
    return text
