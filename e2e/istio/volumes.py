"""What a kubelet puts into a container besides its image: files of volumes, and environment variables."""

import base64
import json
import re
from typing import Any

from istio.kube import Kube
from lab.procs import Failed

FIELD = re.compile(r"([\w.]+)\['([^']+)'\]")  # metadata.annotations['name']
VARIABLE = re.compile(r"\$\((\w+)\)")
UNLIMITED = {"cpu": "2", "memory": str(4 << 30)}  # what the node has, for containers without limits
GIB = 1 << 30
MIB = 1 << 20


def environment(container: dict, pod: dict) -> dict[str, str]:
    """A container's variables; later ones may refer to earlier ones by $(NAME)."""
    found: dict[str, str] = {}
    for variable in container.get("env", []):
        source = variable.get("valueFrom", {})
        if "fieldRef" in source:
            value = field(pod, source["fieldRef"]["fieldPath"])
        elif "resourceFieldRef" in source:
            value = limit(container, source["resourceFieldRef"]["resource"])
        else:
            value = expand(variable.get("value", ""), found)
        found[variable["name"]] = value
    return found


def expand(text: str, variables: dict[str, str]) -> str:
    """Replaces each $(NAME) that is a variable."""
    return VARIABLE.sub(lambda match: variables.get(match[1], match[0]), text)


def field(pod: dict, path: str) -> str:
    """A field of a Pod by the downward API's path; labels and annotations as a whole become lines."""
    if match := FIELD.fullmatch(path):
        path, key = match.groups()
        return walk(pod, path).get(key, "")
    value = walk(pod, path)
    if isinstance(value, dict):
        return "".join(f"{key}={json.dumps(text)}\n" for key, text in sorted(value.items()))
    return str(value or "")


def walk(pod: dict, path: str) -> Any:
    value: Any = pod
    for step in path.split("."):
        value = (value or {}).get(step)
    return value or {}


def limit(container: dict, resource: str) -> str:
    """A container's limit: CPUs rounded up, memory in bytes."""
    kind = resource.removeprefix("limits.")
    quantity = str(container.get("resources", {}).get("limits", {}).get(kind, UNLIMITED[kind]))
    for suffix, factor in {"Gi": GIB, "Mi": MIB}.items():
        if quantity.endswith(suffix):
            return str(int(quantity.removesuffix(suffix)) * factor)
    if quantity.endswith("m"):
        return str(-(-int(quantity.removesuffix("m")) // 1000))
    return quantity


def files(volume: dict, pod: dict, kube: Kube) -> dict[str, bytes]:
    """What a volume of a Pod holds at the start, by path in it; nothing for an empty or a persistent one."""
    if "projected" in volume:
        parts = [source_files(source, pod, kube) for source in volume["projected"]["sources"]]
        return {path: data for part in parts for path, data in part.items()}
    return source_files(volume, pod, kube)


def source_files(source: dict, pod: dict, kube: Kube) -> dict[str, bytes]:
    """The same for one source of a volume."""
    kind = next(kind for kind in source if kind != "name")
    what = source[kind] or {}
    namespace, account = pod["metadata"]["namespace"], pod["spec"].get("serviceAccountName", "default")
    match kind:
        case "emptyDir" | "persistentVolumeClaim":
            return {}
        case "configMap":
            return stored(kube, kind, what["name"], namespace, what)
        case "secret":
            return stored(kube, kind, what.get("secretName") or what["name"], namespace, what)
        case "downwardAPI":
            return {item["path"]: field(pod, item["fieldRef"]["fieldPath"]).encode() for item in what["items"]}
        case "serviceAccountToken":
            token = kube.token(namespace, account, what.get("audience"), pod["metadata"]["name"])
            return {what["path"]: token.encode()}
    raise ValueError(f"volume source {kind} is not known here")


def stored(kube: Kube, kind: str, name: str, namespace: str, what: dict) -> dict[str, bytes]:
    """The entries of a ConfigMap or a Secret; none where it may be missing and is."""
    try:
        found = kube.get(kind, name, namespace)
    except Failed as error:
        if what.get("optional") and "NotFound" in str(error):
            return {}
        raise
    data = found.get("data", {})
    return {key: text.encode() if kind == "configMap" else base64.b64decode(text) for key, text in data.items()}
