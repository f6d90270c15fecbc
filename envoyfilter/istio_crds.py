"""Istio's published CRD schemas, fetched by name and version, never copied into the repository.

The only registry that carries all three of WasmPlugin, EnvoyFilter and TrafficExtension is Go's: module
istio.io/api, file kubernetes/customresourcedefinitions.gen.yaml. (npm's @kubernetes-models/istio has no
TrafficExtension.) `go mod download` fetches and caches it; the h1 hash, the one that stands in a go.sum, is
checked on every use.
"""

import base64
import hashlib
import io
import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import zipfile

import yaml

MODULE = "istio.io/api"
VERSION = "v1.31.1"  # TrafficExtension came with v1.30.0
# To raise: `go mod download -json istio.io/api@VERSION` prints the new "Sum".
H1 = "h1:5Yb5ihcz4YQsCkciusK7DnFpBMwRB6EFWeUKH1Atuyk="
CRD_FILE = f"{MODULE}@{VERSION}/kubernetes/customresourcedefinitions.gen.yaml"

DOWNLOAD_S = 120


class FetchError(Exception):
    """The schemas could not be had: nothing was checked."""


class NoGo(FetchError):
    """Go is not installed, and only it reaches the registry that has the schemas."""


def load(kinds):
    """The CRDs of these kinds: {(apiVersion, kind): openAPIV3Schema}, for every served version."""
    with zipfile.ZipFile(io.BytesIO(_module_zip())) as archive:
        text = archive.read(CRD_FILE).decode()
    found = {}
    # Parsing one document costs 30 ms, all of them a second: only those asked for.
    for document in re.split(r"^---$", text, flags=re.MULTILINE):
        kind = re.search(r"^    kind: (\w+)$", document, flags=re.MULTILINE)
        if kind and kind[1] in kinds:
            spec = yaml.safe_load(document)["spec"]
            for version in spec["versions"]:
                if version["served"]:
                    key = (f"{spec['group']}/{version['name']}", kind[1])
                    found[key] = version["schema"]["openAPIV3Schema"]
    missing = set(kinds) - {kind for _, kind in found}
    if missing:
        raise FetchError(f"{CRD_FILE} lacks {', '.join(sorted(missing))}")
    return found


def _module_zip():
    go = shutil.which("go")
    if go is None:
        raise NoGo(f"Go is not installed: {MODULE}, which holds Istio's CRDs, is a Go module")
    with tempfile.TemporaryDirectory() as elsewhere:  # outside of any module of ours
        done = subprocess.run([go, "mod", "download", "-json", f"{MODULE}@{VERSION}"], cwd=elsewhere,
                              capture_output=True, text=True, timeout=DOWNLOAD_S)
    try:
        answer = json.loads(done.stdout)
        content = pathlib.Path(answer["Zip"]).read_bytes()
    except (ValueError, KeyError, OSError) as error:
        raise FetchError(f"go mod download {MODULE}@{VERSION}: {done.stderr or done.stdout}") from error
    got = _h1(content)
    if got != H1:
        raise FetchError(f"{MODULE}@{VERSION} has {got}, pinned is {H1}")
    return content


def _h1(content):
    """Go's dirhash: SHA-256 over the sorted list of the files' SHA-256, so zip details do not matter."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            lines = [
                f"{hashlib.sha256(archive.read(name)).hexdigest()}  {name}\n"
                for name in sorted(archive.namelist())
            ]
    except zipfile.BadZipFile:
        return "no zip"
    digest = hashlib.sha256("".join(lines).encode()).digest()
    return "h1:" + base64.b64encode(digest).decode()
