"""The collector's manifest: whether its parts fit together, and its collector.toml."""

import tomllib

from manifest_rules import STRING, Problem, against, closed, integer, require

COLLECTOR_CONFIG = closed(
    {"origin": {"type": "string", "pattern": r"^[^\s+/:]+(/[^\s+]+)?$"}, "data": STRING, "listen": STRING},
    key={"type": "string", "pattern": "^/"},
    retain_records={"type": "string", "pattern": r"^(\d+ ?[a-z]+ ?)+$"},
    warn_free_bytes=integer(0),
    ingest=closed({}, principal_from_xfcc={"type": "boolean"}, trust_domain=STRING, max_waiting_bytes=integer(32 << 20)),
    limits=closed({}, batches_per_second=integer(1, 2**32 - 1), bytes_per_day=integer(1, 2**63 - 1),
                  sessions_per_day=integer(1, 2**32 - 1)),
    anchor={
        "type": "array",
        "items": closed({
            "chain": STRING,
            "rpc": {"type": "string", "pattern": "^https?://"},
            "chain_id": integer(1, 2**63 - 1),
            "contract": {"type": "string", "pattern": "^0x[0-9a-fA-F]{40}$"},
            "key_file": {"type": "string", "pattern": "^/"},
            "interval_s": integer(1),
            "finality": {"anyOf": [{"enum": ["finalized", "safe"]}, integer(1)]},
        }, max_fee_gwei=integer(1), daily_budget_eth={"anyOf": [{"type": "number"}, STRING]}, poll_ms=integer(50),
            bump_after_s=integer(1), required_at_start={"type": "boolean"},
            disowned={"type": "array", "items": {"type": "string", "pattern": "^0x[0-9a-fA-F]{40}$"}}),
    },
)


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
