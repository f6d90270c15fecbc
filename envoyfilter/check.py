"""Checks the manifests in this folder before an API server does.

    python3 check.py                      every manifest here
    python3 check.py --final FILE...      these, and refuse values that are still to be replaced

Istio's kinds are checked against Istio's published CRDs (istio_crds.py), the others against the
schemas of the PyPI package kubernetes-validate; unknown fields are refused in both. The CRDs leave
open what is inside an EnvoyFilter's patches and in pluginConfig, and that two plugins belong together,
so rules of our own close that gap (filter_manifests.py, collector_manifest.py).
Not checked: the CRDs' CEL rules (x-kubernetes-validations), which only an API server evaluates, and
Envoy's own opinion of the patched configuration, which test_manifests.py asks for.

Exit code: 0 all good, 1 something is wrong, 2 could not check.
"""

import argparse
import pathlib
import re
import sys

import kubernetes_validate
import yaml

import collector_manifest
import filter_manifests
import istio_crds
from manifest_rules import Problem, against, closed, require

HERE = pathlib.Path(__file__).resolve().parent
KUBERNETES = "1.36"
ISTIO_KINDS = ("AuthorizationPolicy", "PeerAuthentication", *filter_manifests.KINDS)


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


def structural(crd):
    """A CRD's openAPIV3Schema as a JSON schema that refuses what the API server would prune."""
    schema = _close(crd)
    schema["properties"] |= {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": closed(
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
        if filters := [document for document in documents if document["kind"] in filter_manifests.KINDS]:
            filter_manifests.delivery(filters)
        if "StatefulSet" in kinds:
            collector_manifest.collector(documents)
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
    failed = unread = False
    for file in arguments.files or sorted(HERE.glob("*.yaml")):
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            unread = True
            print(f"could not check {file}: {error}", file=sys.stderr)
            continue
        try:
            check_text(text, schemas)
            lines = placeholders(text) if arguments.final else []
            require(not lines, f"still to be replaced: line {', '.join(map(str, lines))}")
            print(f"{file.name}: good")
        except Problem as error:
            failed = True
            print(f"{file.name}: {error}", file=sys.stderr)
    return 1 if failed else 2 if unread else 0


if __name__ == "__main__":
    sys.exit(main())
