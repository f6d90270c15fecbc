"""The collector's manifest and the filter's fit together, and its commented parts are valid."""

import re

import pytest
import yaml

from checked import DELIVERIES, check, documents
from collector_manifest import collector, collector_config
from filter_manifests import delivery


def of_kind(kind):
    return [document for document in documents("collector.yaml") if document["kind"] == kind]


def test_the_filter_reaches_the_service_of_the_collector():
    configs = [part.config for name in DELIVERIES for part in delivery(documents(name)).values()]
    assert {config["collector_cluster"] for config in configs} == collector(documents("collector.yaml"))


def test_batches_are_let_in_where_the_filter_posts_them():
    ingest = next(policy for policy in of_kind("AuthorizationPolicy") if policy["metadata"]["name"] == "meshchain-ingest")
    operation = ingest["spec"]["rules"][0]["to"][0]["operation"]
    path = delivery(documents("wasmplugin.yaml"))["client"].config.get("collector_path", "/v1/batches")
    assert operation == {"methods": ["POST"], "paths": [path]}


def test_the_sidecar_replaces_the_client_certificate_header():
    template = of_kind("StatefulSet")[0]["spec"]["template"]["metadata"]
    proxy = yaml.safe_load(template["annotations"]["proxy.istio.io/config"])
    assert proxy["proxyHeaders"] == {"forwardedClientCert": "SANITIZE_SET"}
    assert template["labels"]["sidecar.istio.io/inject"] == "true"


def uncommented():
    """collector.toml with its examples: prose has a space after the "#", an example has none."""
    text = of_kind("ConfigMap")[0]["data"]["collector.toml"]
    return re.sub(r"^#(?=\S)", "", text, flags=re.MULTILINE)


def test_the_commented_anchor_is_valid_once_uncommented():
    assert [anchor["chain"] for anchor in collector_config(uncommented())["anchor"]] == ["consortium"]


@pytest.mark.parametrize("finality", ['"finalized"', '"safe"', "12"])
def test_finality_is_a_tag_or_a_depth(finality):
    collector_config(uncommented().replace('finality = "finalized"', f"finality = {finality}"))


def test_an_anchor_without_contract_is_refused():
    with pytest.raises(check.Problem, match="'contract' is a required"):
        collector_config(re.sub("^contract.*$", "", uncommented(), flags=re.MULTILINE))
