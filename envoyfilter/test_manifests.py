"""The manifests are right, and the check can fail: each way to get one wrong is refused."""

import pytest

from checked import DELIVERIES, HERE, MANIFESTS, check, read

ZEROS = f'"{"0" * 64}"'


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
    "wasmplugin_with_unquoted_sha256": ("wasmplugin.yaml", ZEROS, "1" * 64, "sha256"),
    "wasmplugin_with_short_sha256": ("wasmplugin.yaml", '"0000', '"00', "sha256"),
    "wasmplugin_with_wrong_mode": ("wasmplugin.yaml", "mode: SERVER", "mode: BOTH", "mode"),
    "wasmplugin_with_priority_past_int32": ("wasmplugin.yaml", "2147483647", "2147483648", "priority"),
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
    "wasmplugin_from_a_file": ("wasmplugin.yaml", "oci://", "file:///", "oci, http or https"),
    "trafficextension_that_fails_closed": ("trafficextension.yaml", "FAIL_OPEN", "FAIL_CLOSE", "FAIL_OPEN"),
    "envoyfilter_that_fails_closed": ("envoyfilter.yaml", "policy: FAIL_OPEN", "policy: FAIL_CLOSED", "FAIL_OPEN"),
    "envoyfilter_with_both_failure_keys": (
        "envoyfilter.yaml", "root_id:", "fail_open: true\n              root_id:", "fail_open"),
    "envoyfilter_with_unknown_type": ("envoyfilter.yaml", "udpa.type.v1.TypedStruct", "udpa.type.v1.Struct", "@type"),
    "envoyfilter_with_misspelt_patch_field": ("envoyfilter.yaml", "vm_config:", "vmConfig:", "'vm_config' is a required"),
    "envoyfilter_without_the_rbac_type": (
        "envoyfilter.yaml", "          - type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC\n", "", "type_urls"),
    "envoyfilter_with_a_vm_of_its_own": (
        "envoyfilter.yaml", "runtime: envoy", "vm_id: mine\n                runtime: envoy", "'vm_id' was unexpected"),
    "envoyfilter_without_priority": ("envoyfilter.yaml", "  priority: 10\n", "", "IST0151"),
    "envoyfilter_with_config_that_is_no_json": ("envoyfilter.yaml", '"record",', '"record"', "not JSON"),
    "plugin_config_with_unknown_key": ("wasmplugin.yaml", "    payload:", "    payloads:", "payloads"),
    "plugin_config_with_wrong_value": ("wasmplugin.yaml", "strip-query\n", "strip_query\n", "path_privacy"),
    "plugin_config_without_cluster": ("wasmplugin.yaml", "    collector_cluster:", "    # cluster:", "collector_cluster"),
    "plugin_config_with_service_for_cluster": ("wasmplugin.yaml", "outbound|8080||", "", "collector_cluster"),
    "plugin_config_with_a_word_for_a_truth": (
        "wasmplugin.yaml", "principal_from_xfcc: true", 'principal_from_xfcc: "yes"', "principal_from_xfcc"),
    "plugin_config_with_batches_past_the_format": (
        "wasmplugin.yaml", "    payload:", "    batch_spans: 32769\n    payload:", "batch_spans"),
    # The two sides: where each stands
    "wasmplugin_with_one_plugin_for_both_sides": ("wasmplugin.yaml", "mode: SERVER", "mode: CLIENT_AND_SERVER", "mode SERVER"),
    "wasmplugin_with_modes_exchanged": ("wasmplugin.yaml", "mode: CLIENT", "mode: SERVER", "mode CLIENT"),
    "wasmplugin_whose_server_is_in_a_later_phase": ("wasmplugin.yaml", "phase: AUTHN", "phase: AUTHZ", "first phase"),
    "wasmplugin_whose_server_is_not_first": ("wasmplugin.yaml", "priority: 2147483647", "priority: 1000", "not first"),
    "wasmplugin_whose_server_has_no_priority": ("wasmplugin.yaml", "  priority: 2147483647", "  # none", "not first"),
    "wasmplugin_whose_client_is_in_an_earlier_phase": ("wasmplugin.yaml", "UNSPECIFIED_PHASE", "STATS", "last phase"),
    "wasmplugin_whose_client_is_not_last": ("wasmplugin.yaml", "priority: -2147483648", "priority: -1", "not last"),
    "trafficextension_whose_server_is_not_first": ("trafficextension.yaml", "priority: 2147483647", "priority: 0", "not first"),
    "trafficextension_whose_client_is_not_last": ("trafficextension.yaml", "phase: UNSPECIFIED", "phase: STATS", "last phase"),
    "trafficextension_with_modes_exchanged": ("trafficextension.yaml", "mode: SERVER", "mode: CLIENT", "mode SERVER"),
    "envoyfilter_whose_server_is_not_first": ("envoyfilter.yaml", "INSERT_FIRST\n", "INSERT_AFTER\n", "INSERT_FIRST"),
    "envoyfilter_whose_client_is_not_last": ("envoyfilter.yaml", "INSERT_BEFORE\n", "INSERT_FIRST\n", "INSERT_BEFORE"),
    "envoyfilter_after_the_router": ("envoyfilter.yaml", "INSERT_BEFORE\n", "INSERT_AFTER\n", "INSERT_BEFORE"),
    "envoyfilter_before_another_filter": ("envoyfilter.yaml", "http.router", "http.cors", "router"),
    "envoyfilter_for_gateways_twice": ("envoyfilter.yaml", "SIDECAR_OUTBOUND", "GATEWAY", "contexts"),
    "envoyfilter_with_contexts_exchanged": ("envoyfilter.yaml", "context: GATEWAY", "context: SIDECAR_INBOUND", "contexts"),
    "envoyfilter_with_the_clients_filter_inbound": (
        "envoyfilter.yaml", "        name: meshchain-server\n        config_discovery", "        name: meshchain-client\n        config_discovery",
        "SIDECAR_INBOUND: name"),
    "envoyfilter_with_the_servers_filter_outbound": (
        "envoyfilter.yaml", "        name: meshchain-client\n        config_discovery", "        name: meshchain-server\n        config_discovery",
        "SIDECAR_OUTBOUND: name"),
    # The two sides: that there are exactly two, and each says which it is
    "wasmplugin_under_another_name": ("wasmplugin.yaml", "  name: meshchain-client", "  name: meshchain", "meshchain-server and"),
    "trafficextension_under_another_name": ("trafficextension.yaml", "  name: meshchain-server", "  name: meshchain", "meshchain-server and"),
    "envoyfilter_with_one_extension_twice": (
        "envoyfilter.yaml", "        name: meshchain-client\n        typed_config", "        name: meshchain-server\n        typed_config",
        "meshchain-server and"),
    "envoyfilter_with_the_names_of_the_other": ("envoyfilter.yaml", "root_id: meshchain-server", "root_id: meshchain-client", "root_id"),
    "wasmplugin_whose_log_name_is_the_others": ("wasmplugin.yaml", "pluginName: meshchain-server", "pluginName: meshchain-client", "pluginName"),
    "wasmplugin_without_side": ("wasmplugin.yaml", "    side: server\n", "", "'side' is a required"),
    "wasmplugin_with_the_other_side": ("wasmplugin.yaml", "side: server", "side: client", "side is client"),
    "wasmplugin_for_the_middle": ("wasmplugin.yaml", "side: client", "side: gateway", "side is gateway"),
    "wasmplugin_with_a_side_that_is_none": ("wasmplugin.yaml", "side: client", "side: both", "both"),
    "trafficextension_without_side": ("trafficextension.yaml", "      side: client\n", "", "'side' is a required"),
    "trafficextension_with_the_other_side": ("trafficextension.yaml", "side: client", "side: server", "side is server"),
    "envoyfilter_without_side": ("envoyfilter.yaml", '"side": "client",', "", "'side' is a required"),
    "envoyfilter_with_the_other_side": ("envoyfilter.yaml", '"side": "server"', '"side": "client"', "side is client"),
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


PLUGINS = ("wasmplugin.yaml", "trafficextension.yaml")
# What one of the two plugins has instead, so that it no longer fits the other: (there, instead, complaint).
UNEQUAL = {
    "another_sha256": (ZEROS, f'"{"1" * 64}"', "different modules"),
    "another_url": ("filter:0.1.0", "filter:0.2.0", "different modules"),
    "another_pull_policy": ("imagePullPolicy: IfNotPresent", "imagePullPolicy: Always", "imagePullPolicy differs"),
    "another_namespace": ("  namespace: istio-system", "  namespace: shop", "different namespaces"),
    "another_collector": ("meshchain-collector.meshchain", "meshchain-collector.other", "collector_cluster differs"),
    "another_payload": ("payload: record", "payload: digest", "payload differs"),
    "another_tick": ("payload: record", "payload: record\n{indent}tick_ms: 500", "tick_ms differs"),
    "another_queue": ("payload: record", "payload: record\n{indent}queue_bytes: 65536", "queue_bytes differs"),
}


def in_one(name, side, before, after):
    """A manifest of two plugins, changed in one of them."""
    parts = read(name).split("\n---\n")
    at = ("server", "client").index(side)
    assert before in parts[at], "the case does not fit the manifest any more"
    after = after.replace("{indent}", "    " if name == "wasmplugin.yaml" else "      ")
    parts[at] = parts[at].replace(before, after)
    return "\n---\n".join(parts)


@pytest.mark.parametrize("case", UNEQUAL)
@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.parametrize("name", PLUGINS)
def test_what_the_two_must_share_is_refused_where_it_differs(name, side, case, schemas):
    before, after, complaint = UNEQUAL[case]
    with pytest.raises(check.Problem, match=complaint):
        check.check_text(in_one(name, side, before, after), schemas)


@pytest.mark.parametrize("side", ["server", "client"])
def test_a_vm_of_its_own_for_one_is_refused(side, schemas):
    own = "failStrategy: FAIL_OPEN\n  vmConfig: {env: [{name: A, value: b}]}"
    with pytest.raises(check.Problem, match="vmConfig differs"):
        check.check_text(in_one("wasmplugin.yaml", side, "failStrategy: FAIL_OPEN", own), schemas)


def test_an_envoyfilter_whose_extensions_have_different_vms_is_refused(schemas):
    other = read("envoyfilter.yaml").split("vm_config: &vm", 1)[1].split("  - applyTo", 1)[0]
    for before, after, complaint in [("timeout: 30s", "timeout: 20s", "vm_config differs"),
                                     ("0" * 64, "1" * 64, "different modules")]:
        text = read("envoyfilter.yaml").replace("vm_config: *vm\n", f"vm_config:{other.replace(before, after)}")
        with pytest.raises(check.Problem, match=complaint):
            check.check_text(text, schemas)


@pytest.mark.parametrize("name", PLUGINS)
def test_one_plugin_alone_is_refused_and_so_is_a_third(name, schemas):
    server, client = read(name).split("\n---\n")
    third = client.replace("name: meshchain-client", "name: meshchain")
    for parts in ([server], [client], [server, client, third], [server, server]):
        with pytest.raises(check.Problem, match="meshchain-server and meshchain-client"):
            check.check_text("\n---\n".join(parts), schemas)


def test_two_ways_at_once_are_refused(schemas):
    with pytest.raises(check.Problem, match="apply one of them"):
        check.check_text("\n---\n".join(map(read, PLUGINS)), schemas)


@pytest.mark.parametrize("name", MANIFESTS)
def test_values_to_replace_are_found_and_marked(name):
    text = read(name)
    lines = text.splitlines()
    found = check.placeholders(text)
    assert len(found) == (4 if name in PLUGINS else 2)
    for number in found:
        comment = "\n".join(lines[max(0, number - 7) : number])
        assert "REPLACE" in comment, f"{name}:{number}"


@pytest.mark.parametrize("name", DELIVERIES)
def test_the_warning_against_two_at_once_is_in_each(name):
    assert "Apply ONE of" in read(name)
