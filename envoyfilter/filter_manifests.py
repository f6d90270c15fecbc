"""The three ways to deliver the filter, beyond what Istio's CRDs say of them.

Each brings it in two parts, one for either side of a call: that of servers stands first in the chain of calls
that come in, that of clients last in the chains of those that go out or pass a gateway. Both have one module and
one VM configuration, or Envoy would run two VMs, with two sessions.
"""

import json
import re
from dataclasses import dataclass

from manifest_rules import STRING, Problem, against, closed, integer, require

KINDS = ("EnvoyFilter", "TrafficExtension", "WasmPlugin")
NAMES = {"server": "meshchain-server", "client": "meshchain-client"}
WASM_TYPE = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"
RBAC_TYPE = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"
CONNECTION_MANAGER = "envoy.filters.network.http_connection_manager"
ROUTER = "envoy.filters.http.router"

FIRST, LAST = 2**31 - 1, -(2**31)  # priorities
MODES = {"server": "SERVER", "client": "CLIENT"}
PHASES = {
    "WasmPlugin": {"server": "AUTHN", "client": "UNSPECIFIED_PHASE"},
    "TrafficExtension": {"server": "AUTHN", "client": "UNSPECIFIED"},
}
# Of an EnvoyFilter: side, operation, and the HTTP filter that it is relative to, by context.
BEFORE_ROUTER = ("client", "INSERT_BEFORE", {"name": CONNECTION_MANAGER, "subFilter": {"name": ROUTER}})
PLACES = {
    "SIDECAR_INBOUND": ("server", "INSERT_FIRST", {"name": CONNECTION_MANAGER}),
    "SIDECAR_OUTBOUND": BEFORE_ROUTER,
    "GATEWAY": BEFORE_ROUTER,
}

_TEXTS = {"type": "array", "items": STRING, "maxItems": 32}
_BOOLEAN = {"type": "boolean"}

PLUGIN_CONFIG = closed(
    {
        "side": {"enum": ["server", "client", "gateway"]},
        "collector_cluster": {"type": "string", "pattern": r"^outbound\|[0-9]+\|[^|]*\|[^|]+$"},
    },
    collector_authority=STRING,
    collector_path={"type": "string", "pattern": "^/"},
    payload={"enum": ["record", "digest"]},
    context={"enum": ["auto", "never"]},
    session_header=_BOOLEAN,
    detail={"enum": ["full", "auto", "lean"]},
    slow_ms=integer(1, 3_600_000),
    full_one_in=integer(1, 1_000_000),
    principal_from_xfcc=_BOOLEAN,
    path_privacy={"enum": ["strip-query", "keep", "hash", "drop"]},
    include_headers=_TEXTS,
    include_secret_headers=_BOOLEAN,
    skip_paths=_TEXTS,
    tick_ms=integer(10, 60_000),
    batch_spans=integer(1, 32_768),
    queue_bytes=integer(64 << 10, 256 << 20),
    heartbeat_s=integer(1, 3600),
)
# Keys of the VM and its one session: whichever part was configured last would decide.
OF_THE_VM = (
    "collector_cluster", "collector_authority", "collector_path", "payload",
    "tick_ms", "batch_spans", "queue_bytes", "heartbeat_s",
)

EXTENSION = closed({
    "name": STRING,
    "typed_config": closed({
        "@type": {"const": "type.googleapis.com/udpa.type.v1.TypedStruct"},
        "type_url": {"const": WASM_TYPE},
        "value": closed({
            "config": closed({
                "name": STRING,
                "root_id": STRING,
                "failure_policy": {"const": "FAIL_OPEN"},
                "configuration": closed({
                    "@type": {"const": "type.googleapis.com/google.protobuf.StringValue"},
                    "value": STRING,
                }),
                "vm_config": closed({
                    "runtime": {"const": "envoy.wasm.runtime.v8"},
                    "code": closed({
                        "remote": closed({
                            "http_uri": closed({
                                "uri": {"type": "string", "pattern": "^(oci|https?)://"},
                                "timeout": {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?s$"},
                                "cluster": STRING,
                            }),
                            "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
                        }),
                    }),
                }),
            }),
        }),
    }),
})

HTTP_FILTER = closed({
    "name": STRING,
    "config_discovery": closed({
        "config_source": closed({
            "ads": closed({}),
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


@dataclass(frozen=True)
class Part:
    """The filter for one side."""

    config: dict  # the filter's own
    module: tuple  # URL and sha256
    rest: dict  # whatever else must be the same in both, by field


def delivery(documents):
    """Checks the objects by which one manifest delivers the filter. Returns each side's Part."""
    kinds = {document["kind"] for document in documents}
    require(len(kinds) == 1, f"the filter is delivered by {' and '.join(sorted(kinds))}: apply one of them")
    [kind] = kinds
    parts = _envoy_filter(documents) if kind == "EnvoyFilter" else _plugins(kind, documents)
    server, client = parts["server"], parts["client"]
    for side, part in parts.items():
        against(PLUGIN_CONFIG, part.config, f"{kind}: {NAMES[side]}: plugin config")
        require(part.config["side"] == side, f"{kind}: {NAMES[side]}: side is {part.config['side']}")
    require(server.module == client.module, f"{kind}: the two have different modules: two VMs, and two sessions")
    for field in sorted({*server.rest, *client.rest}):
        require(server.rest.get(field) == client.rest.get(field), f"{kind}: {field} differs between the two")
    for key in OF_THE_VM:
        same = server.config.get(key) == client.config.get(key)
        require(same, f"{kind}: plugin config: {key} differs between the two, which share a VM")
    return parts


def _by_name(kind, named):
    """The two parts by side, out of pairs of name and object."""
    names = sorted(name for name, _ in named)
    require(names == sorted(NAMES.values()), f"{kind}: there must be {' and '.join(NAMES.values())}, not {names}")
    found = dict(named)
    return {side: found[name] for side, name in NAMES.items()}


def _plugins(kind, documents):
    found = _by_name(kind, [(document["metadata"]["name"], document) for document in documents])
    namespaces = {document["metadata"].get("namespace") for document in documents}
    require(len(namespaces) == 1, f"{kind}: the two are in different namespaces")
    return {side: _plugin(kind, side, document["spec"]) for side, document in found.items()}


def _plugin(kind, side, spec):
    where, wasm = f"{kind}: {NAMES[side]}", spec
    if kind == "TrafficExtension":
        require("wasm" in spec, f"{where}: no wasm")
        wasm = spec["wasm"]
    place = {"server": "first", "client": "last"}[side]
    require(spec.get("phase") == PHASES[kind][side], f"{where}: not in the {place} phase")
    priority = {"server": FIRST, "client": LAST}[side]
    require(spec.get("priority") == priority, f"{where}: not {place} in its phase: priority is not {priority}")
    require(spec.get("match") == [{"mode": MODES[side]}], f"{where}: does not match the mode {MODES[side]}")
    require("selector" not in spec and "targetRefs" not in spec, f"{where}: not mesh-wide")
    # These may be left out in the CRD, with defaults that would deny all traffic or check nothing.
    require(wasm.get("failStrategy") == "FAIL_OPEN", f"{where}: failStrategy is not FAIL_OPEN")
    require(wasm.get("sha256"), f"{where}: sha256 is missing")
    require(re.match("(oci|https?)://", wasm["url"]), f"{where}: url is not oci, http or https")
    require(wasm.get("pluginName") == NAMES[side], f"{where}: pluginName is not its name: logs would not tell them apart")
    own = {"url", "sha256", "pluginName", "pluginConfig", "match", "phase", "priority"}
    rest = {field: value for field, value in wasm.items() if field not in own}
    return Part(wasm.get("pluginConfig"), (wasm["url"], wasm["sha256"]), rest)


def _envoy_filter(documents):
    require(len(documents) == 1, "EnvoyFilter: not exactly one")
    spec = documents[0]["spec"]
    require("priority" in spec, "EnvoyFilter: no priority (IST0151)")
    require("workloadSelector" not in spec and "targetRefs" not in spec, "EnvoyFilter: not mesh-wide")
    patches = spec.get("configPatches", [])
    extensions = [patch for patch in patches if patch.get("applyTo") == "EXTENSION_CONFIG"]
    filters = [patch for patch in patches if patch.get("applyTo") == "HTTP_FILTER"]
    require(len(extensions) + len(filters) == len(patches), "EnvoyFilter: patches something else")
    contexts = sorted(patch.get("match", {}).get("context", "none") for patch in filters)
    require(contexts == sorted(PLACES), f"EnvoyFilter: contexts are {contexts}")
    for patch in filters:
        _http_filter(patch)
    for patch in extensions:
        require(patch["patch"].get("operation") == "ADD", "EnvoyFilter: EXTENSION_CONFIG is not an ADD")
        against(EXTENSION, patch["patch"].get("value"), "EnvoyFilter: EXTENSION_CONFIG")
    values = [patch["patch"]["value"] for patch in extensions]
    found = _by_name("EnvoyFilter", [(value["name"], value) for value in values])
    return {side: _extension(side, value["typed_config"]["value"]["config"]) for side, value in found.items()}


def _http_filter(patch):
    match = patch["match"]
    side, operation, relative_to = PLACES[match["context"]]
    where = f"EnvoyFilter: HTTP_FILTER {match['context']}"
    found = match.get("listener", {}).get("filterChain", {}).get("filter", {})
    beside = "the router" if "subFilter" in relative_to else "the connection manager alone"
    require(found == relative_to, f"{where}: does not match {beside}")
    require(patch["patch"].get("operation") == operation, f"{where}: is not {operation}")
    against(HTTP_FILTER, patch["patch"].get("value"), where)
    require(patch["patch"]["value"]["name"] == NAMES[side], f"{where}: name is not {NAMES[side]}")


def _extension(side, config):
    names = {config["name"], config["root_id"]}
    require(names == {NAMES[side]}, f"EnvoyFilter: {NAMES[side]}: name and root_id are {sorted(names)}")
    try:
        plugin_config = json.loads(config["configuration"]["value"])
    except ValueError as error:
        raise Problem(f"EnvoyFilter: {NAMES[side]}: configuration is not JSON: {error}") from None
    remote = config["vm_config"]["code"]["remote"]
    return Part(plugin_config, (remote["http_uri"]["uri"], remote["sha256"]), {"vm_config": config["vm_config"]})
