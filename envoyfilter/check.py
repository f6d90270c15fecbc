"""Checks the manifests in this folder before an API server does.

    python3 check.py                      every manifest here
    python3 check.py --final FILE...      these, and refuse values that are still to be replaced

Istio's kinds are checked against Istio's published CRDs (istio_crds.py), the others against the
schemas of the PyPI package kubernetes-validate; unknown fields are refused in both. The CRDs leave
open what is inside an EnvoyFilter's patches and in pluginConfig, so rules of our own close that gap.
Not checked: the CRDs' CEL rules (x-kubernetes-validations), which only an API server evaluates, and
Envoy's own opinion of the patched configuration, which test_manifests.py asks for.

Exit code: 0 all good, 1 something is wrong, 2 could not check.
"""

import argparse
import json
import pathlib
import re
import sys
import tomllib

import jsonschema
import kubernetes_validate
import yaml

import istio_crds

HERE = pathlib.Path(__file__).resolve().parent
KUBERNETES = "1.36"
ISTIO_KINDS = (
    "AuthorizationPolicy",
    "EnvoyFilter",
    "PeerAuthentication",
    "TrafficExtension",
    "WasmPlugin",
)
WASM_TYPE = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"
RBAC_TYPE = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"
ROUTER = "envoy.filters.http.router"
CONTEXTS = ("GATEWAY", "SIDECAR_INBOUND", "SIDECAR_OUTBOUND")


class Problem(Exception):
    """A manifest is wrong; the message says where and why."""


# --- Schemas of our own, for what the CRDs leave open -----------------------------------------------


def _closed(required, **optional):
    properties = {**required, **optional}
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _int(minimum, maximum=2**31 - 1):
    return {"type": "integer", "minimum": minimum, "maximum": maximum}


_STRING = {"type": "string", "minLength": 1}
_TEXTS = {"type": "array", "items": _STRING, "maxItems": 32}
_SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}

PLUGIN_CONFIG = _closed(
    {"collector_cluster": {"type": "string", "pattern": r"^outbound\|[0-9]+\|[^|]*\|[^|]+$"}},
    collector_authority=_STRING,
    collector_path={"type": "string", "pattern": "^/"},
    payload={"enum": ["record", "digest"]},
    context={"enum": ["auto", "never"]},
    detail={"enum": ["full", "lean"]},
    path_privacy={"enum": ["strip-query", "keep", "hash", "drop"]},
    include_headers=_TEXTS,
    skip_paths=_TEXTS,
    tick_ms=_int(10, 60_000),
    batch_spans=_int(1, 10_000),
    queue_bytes=_int(64 << 10, 256 << 20),
    heartbeat_s=_int(1, 3600),
)

_WASM = _closed({
    "config": _closed({
        "name": _STRING,
        "root_id": _STRING,
        "failure_policy": {"const": "FAIL_OPEN"},
        "configuration": _closed({
            "@type": {"const": "type.googleapis.com/google.protobuf.StringValue"},
            "value": _STRING,
        }),
        "vm_config": _closed({
            "vm_id": _STRING,
            "runtime": {"const": "envoy.wasm.runtime.v8"},
            "code": _closed({
                "remote": _closed({
                    "http_uri": _closed({
                        "uri": {"type": "string", "pattern": "^(oci|https?)://"},
                        "timeout": {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?s$"},
                        "cluster": _STRING,
                    }),
                    "sha256": _SHA256,
                }),
            }),
        }),
    }),
})

EXTENSION = _closed({
    "name": _STRING,
    "typed_config": _closed({
        "@type": {"const": "type.googleapis.com/udpa.type.v1.TypedStruct"},
        "type_url": {"const": WASM_TYPE},
        "value": _WASM,
    }),
})

HTTP_FILTER = _closed({
    "name": _STRING,
    "config_discovery": _closed({
        "config_source": _closed({
            "ads": _closed({}),
            "resource_api_version": {"const": "V3"},
            "initial_fetch_timeout": {"const": "0s"},
        }),
        # Both: without the second the agent's stand-in is refused, and requests get 500.
        "type_urls": {
            "type": "array",
            "items": {"enum": [WASM_TYPE, RBAC_TYPE]},
            "minItems": 2,
            "uniqueItems": True,
        },
    }),
})

COLLECTOR_CONFIG = _closed(
    {"origin": {"type": "string", "pattern": r"^[^\s+/:]+(/[^\s+]+)?$"}, "data": _STRING, "listen": _STRING},
    key={"type": "string", "pattern": "^/"},
    retain_records={"type": "string", "pattern": r"^(\d+ ?[a-z]+ ?)+$"},
    ingest=_closed({}, principal_from_xfcc={"type": "boolean"}, trust_domain=_STRING, max_waiting_bytes=_int(16 << 20)),
    anchor={
        "type": "array",
        "items": _closed({
            "chain": _STRING,
            "rpc": {"type": "string", "pattern": "^https?://"},
            "chain_id": _int(1, 2**63 - 1),
            "contract": {"type": "string", "pattern": "^0x[0-9a-fA-F]{40}$"},
            "key_file": {"type": "string", "pattern": "^/"},
            "interval_s": _int(1),
            "finality": {"anyOf": [{"enum": ["finalized", "safe"]}, _int(1)]},
        }, max_fee_gwei=_int(1), daily_budget_eth={"anyOf": [{"type": "number"}, _STRING]}, poll_ms=_int(50),
            bump_after_s=_int(1)),
    },
)


# --- Reading ----------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Refuses a key given twice, which YAML libraries otherwise decide silently."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise Problem(f"line {node.start_mark.line + 1}: given twice: {', '.join(map(str, twice))}")
        return super().construct_mapping(node, deep)


def parse(text):
    """All non-empty documents of a manifest."""
    try:
        return [document for document in yaml.load_all(text, Loader=_Loader) if document is not None]
    except yaml.YAMLError as error:
        raise Problem(f"not YAML: {error}") from None


# --- Schema checks ----------------------------------------------------------------------------------


def against(schema, value, where):
    """Raises a Problem for the deepest violation of the schema."""
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(value))
    if error is not None:
        path = ".".join(str(part) for part in [where, *error.absolute_path])
        raise Problem(f"{path}: {error.message}")


def structural(crd):
    """A CRD's openAPIV3Schema as a JSON schema that refuses what the API server would prune."""
    schema = _close(crd)
    schema["properties"] |= {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": _closed(
            {"name": {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 253}},
            namespace={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63},
            labels={"type": "object", "additionalProperties": {"type": "string"}},
            annotations={"type": "object", "additionalProperties": {"type": "string"}},
        ),
    }
    schema["required"] = sorted({*schema.get("required", []), "metadata"})
    return schema


def _close(node):
    node = dict(node)
    if "properties" in node:
        node["properties"] = {name: _close(child) for name, child in node["properties"].items()}
        if not node.get("x-kubernetes-preserve-unknown-fields"):
            node.setdefault("additionalProperties", False)
    if "items" in node:
        node["items"] = _close(node["items"])
    if isinstance(node.get("additionalProperties"), dict):
        node["additionalProperties"] = _close(node["additionalProperties"])
    # oneOf, anyOf, allOf and not only restrict what stands in properties: they stay as they are.
    if node.get("nullable") and "type" in node:
        node["type"] = [node["type"], "null"]
        if "enum" in node:
            node["enum"] = [*node["enum"], None]
    if node.get("format") == "int32":
        node = {"minimum": -(2**31), "maximum": 2**31 - 1, **node}
    return node


class Schemas:
    """Checks any document against the schema of its kind. Fetches Istio's once."""

    def __init__(self):
        self.istio = {key: structural(crd) for key, crd in istio_crds.load(ISTIO_KINDS).items()}

    def check(self, document):
        if not isinstance(document, dict) or not {"apiVersion", "kind"} <= document.keys():
            raise Problem("no Kubernetes object: apiVersion or kind is missing")
        api_version, kind = document["apiVersion"], document["kind"]
        name = f"{kind}/{(document.get('metadata') or {}).get('name')}"
        if "istio.io" in api_version:
            if (api_version, kind) not in self.istio:
                raise Problem(f"{name}: Istio {istio_crds.VERSION} serves no {kind} in {api_version}")
            against(self.istio[api_version, kind], document, name)
            return
        try:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
        except kubernetes_validate.SchemaNotFoundError as error:
            raise Problem(f"{name}: {error.message}") from None
        except kubernetes_validate.ValidationError as error:
            path = ".".join(str(part) for part in [name, *error.path])
            raise Problem(f"{path}: {error.message}") from None


# --- The filter's three manifests -------------------------------------------------------------------


def require(condition, message):
    if not condition:
        raise Problem(message)


def plugin_config(document):
    """Checks one of the three ways to deliver the filter, and returns its pluginConfig."""
    read = {"WasmPlugin": _wasm_plugin, "TrafficExtension": _traffic_extension, "EnvoyFilter": _envoy_filter}
    config = read[document["kind"]](document["spec"])
    against(PLUGIN_CONFIG, config, f"{document['kind']}: plugin config")
    return config


def _wasm_plugin(spec):
    require(spec.get("phase") == "UNSPECIFIED_PHASE", "WasmPlugin: not in the last phase")
    return _istio_plugin(spec, spec, "WasmPlugin")


def _traffic_extension(spec):
    require("wasm" in spec, "TrafficExtension: no wasm")
    require(spec.get("phase") == "UNSPECIFIED", "TrafficExtension: not in the last phase")
    return _istio_plugin(spec, spec["wasm"], "TrafficExtension")


def _istio_plugin(spec, wasm, kind):
    # Both may be left out in the CRD, with defaults that would deny all traffic or check nothing.
    require(wasm.get("failStrategy") == "FAIL_OPEN", f"{kind}: failStrategy is not FAIL_OPEN")
    require(wasm.get("sha256"), f"{kind}: sha256 is missing")
    require(re.match("(oci|https?)://", wasm["url"]), f"{kind}: url is not oci, http or https")
    require(spec.get("match") == [{"mode": "CLIENT_AND_SERVER"}], f"{kind}: does not match both sides")
    require("selector" not in spec and "targetRefs" not in spec, f"{kind}: not mesh-wide")
    return wasm.get("pluginConfig")


def _envoy_filter(spec):
    require("priority" in spec, "EnvoyFilter: no priority (IST0151)")
    require("workloadSelector" not in spec, "EnvoyFilter: not mesh-wide")
    patches = spec.get("configPatches", [])
    extensions = [patch for patch in patches if patch.get("applyTo") == "EXTENSION_CONFIG"]
    filters = [patch for patch in patches if patch.get("applyTo") == "HTTP_FILTER"]
    require(len(extensions) == 1, "EnvoyFilter: not exactly one EXTENSION_CONFIG")
    require(len(extensions) + len(filters) == len(patches), "EnvoyFilter: patches something else")

    extension = extensions[0]["patch"]
    require(extension.get("operation") == "ADD", "EnvoyFilter: EXTENSION_CONFIG is not an ADD")
    against(EXTENSION, extension.get("value"), "EnvoyFilter: EXTENSION_CONFIG")
    for patch in filters:
        _http_filter(patch, extension["value"]["name"])
    contexts = sorted(patch["match"]["context"] for patch in filters)
    require(contexts == sorted(CONTEXTS), f"EnvoyFilter: contexts are {contexts}")

    text = extension["value"]["typed_config"]["value"]["config"]["configuration"]["value"]
    try:
        return json.loads(text)
    except ValueError as error:
        raise Problem(f"EnvoyFilter: configuration is not JSON: {error}") from None


def _http_filter(patch, name):
    match, where = patch.get("match", {}), f"EnvoyFilter: HTTP_FILTER {patch.get('match', {}).get('context')}"
    require(match.get("context") in CONTEXTS, f"{where}: unknown context")
    connection_manager = match.get("listener", {}).get("filterChain", {}).get("filter", {})
    require(
        connection_manager
        == {"name": "envoy.filters.network.http_connection_manager", "subFilter": {"name": ROUTER}},
        f"{where}: does not match the router",
    )
    require(patch["patch"].get("operation") == "INSERT_BEFORE", f"{where}: is not INSERT_BEFORE")
    against(HTTP_FILTER, patch["patch"].get("value"), where)
    require(patch["patch"]["value"]["name"] == name, f"{where}: name is not that of the extension, {name}")


# --- The collector's manifest -----------------------------------------------------------------------


def collector(documents):
    """Checks that the parts fit together. Returns the cluster names at which filters reach it."""

    def of_kind(kind):
        return [document for document in documents if document["kind"] == kind]

    namespace = of_kind("Namespace")[0]["metadata"]["name"]
    for document in documents:
        inside = document["kind"] == "Namespace" or document["metadata"].get("namespace") == namespace
        require(inside, f"{document['kind']}/{document['metadata']['name']}: not in namespace {namespace}")
    workload = of_kind("StatefulSet")[0]["spec"]
    _pod(workload, of_kind("ConfigMap")[0], of_kind("ServiceAccount")[0])

    labels = workload["template"]["metadata"]["labels"]
    services = {service["metadata"]["name"]: service["spec"] for service in of_kind("Service")}
    require(workload["serviceName"] in services, f"no Service {workload['serviceName']}")
    require(services[workload["serviceName"]].get("clusterIP") == "None", "the StatefulSet's Service is not headless")
    for name, service in services.items():
        _selects(service["selector"], labels, f"Service/{name}")
        for port in service["ports"]:
            require(port["name"] == "http", f"Service/{name}: port {port['port']} is not named http")
            require(port["targetPort"] == "http", f"Service/{name}: targetPort is no port of the Pod")
    for policy in of_kind("AuthorizationPolicy"):
        _selects(policy["spec"]["selector"]["matchLabels"], labels, policy["metadata"]["name"])
    modes = [policy["spec"].get("mtls", {}).get("mode") for policy in of_kind("PeerAuthentication")]
    require(modes == ["STRICT"], "not one PeerAuthentication with STRICT")
    return {
        f"outbound|{port['port']}||{name}.{namespace}.svc.cluster.local"
        for name, service in services.items()
        for port in service["ports"]
        if service.get("clusterIP") != "None"
    }


def _selects(selector, labels, where):
    require(selector.items() <= labels.items(), f"{where}: selects nothing here: {selector}")


def _pod(workload, config_map, service_account):
    labels, pod = workload["template"]["metadata"]["labels"], workload["template"]["spec"]
    _selects(workload["selector"]["matchLabels"], labels, "StatefulSet")
    require(workload["replicas"] == 1, "StatefulSet: a log has one writer")
    require(pod["serviceAccountName"] == service_account["metadata"]["name"], "StatefulSet: ServiceAccount differs")
    container = pod["containers"][0]
    security = container["securityContext"]
    require(security["runAsNonRoot"] and security["runAsUser"] not in (0, 1337), "StatefulSet: root, or the sidecar's user")
    require(security["readOnlyRootFilesystem"], "StatefulSet: the root file system is writable")

    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    declared = {volume["name"] for volume in pod["volumes"]}
    declared |= {claim["metadata"]["name"] for claim in workload["volumeClaimTemplates"]}
    require(mounts.keys() == declared, f"StatefulSet: mounts {sorted(mounts)}, declares {sorted(declared)}")
    sources = pod["volumes"][0]["projected"]["sources"]
    require(sources[0]["configMap"]["name"] == config_map["metadata"]["name"], "StatefulSet: ConfigMap differs")
    file = container["command"][-1]
    require(
        file.startswith(mounts["config"] + "/") and file.rpartition("/")[2] in config_map["data"],
        f"StatefulSet: {file} is not in the ConfigMap",
    )
    config = collector_config(config_map["data"][file.rpartition("/")[2]])
    require(config["data"] == mounts["data"], "collector.toml: data is not where the volume is mounted")
    require(
        config["listen"] == f"0.0.0.0:{container['ports'][0]['containerPort']}",
        "collector.toml: listen is not the container's port",
    )


def collector_config(text):
    """Parses and checks collector.toml."""
    try:
        config = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Problem(f"collector.toml: {error}") from None
    against(COLLECTOR_CONFIG, config, "collector.toml")
    return config


# --- Command line -----------------------------------------------------------------------------------


def placeholders(text):
    """Lines (from 1) which an admin must still change."""
    pattern = re.compile(r"registry\.example\.com|collector\.example\.org|\"0{64}\"")
    return [
        number
        for number, line in enumerate(text.splitlines(), 1)
        if not line.lstrip().startswith("#") and pattern.search(line)
    ]


def check_text(text, schemas):
    documents = parse(text)
    require(documents, "no document")
    for document in documents:
        schemas.check(document)
    kinds = {document["kind"] for document in documents}
    try:
        for document in documents:
            if document["kind"] in ("WasmPlugin", "TrafficExtension", "EnvoyFilter"):
                plugin_config(document)
        if "StatefulSet" in kinds:
            collector(documents)
    except (KeyError, IndexError) as error:
        # The schemas allow it to be absent, the parts that must fit together do not.
        raise Problem(f"something is missing: {error}") from None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--final", action="store_true", help="refuse values that are still to be replaced")
    parser.add_argument("files", nargs="*", type=pathlib.Path)
    arguments = parser.parse_args()
    try:
        schemas = Schemas()
    except istio_crds.FetchError as error:
        print(f"could not check: {error}", file=sys.stderr)
        return 2
    failed = False
    for file in arguments.files or sorted(HERE.glob("*.yaml")):
        try:
            text = file.read_text()
            check_text(text, schemas)
            lines = placeholders(text) if arguments.final else []
            require(not lines, f"still to be replaced: line {', '.join(map(str, lines))}")
            print(f"{file.name}: good")
        except (Problem, OSError) as error:
            failed = True
            print(f"{file.name}: {error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
