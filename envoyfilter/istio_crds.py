"""Istio's published CRD schemas, fetched by name and version, never copied into the repository.

The only registry that carries all three of WasmPlugin, EnvoyFilter and TrafficExtension is the Go
module proxy: module istio.io/api, file kubernetes/customresourcedefinitions.gen.yaml. (npm's
@kubernetes-models/istio has no TrafficExtension.) A module is a zip behind plain HTTPS, so Go itself
is not needed. Its h1 hash, the one that stands in a go.sum, is checked on every use, cached or not.
"""

import base64
import hashlib
import io
import os
import pathlib
import re
import urllib.error
import urllib.request
import zipfile

import yaml

MODULE = "istio.io/api"  # no upper-case letters, so its path in the proxy needs no escaping
VERSION = "v1.31.1"  # TrafficExtension came with v1.30.0
# To raise: `go mod download -json istio.io/api@VERSION` prints the new "Sum".
H1 = "h1:5Yb5ihcz4YQsCkciusK7DnFpBMwRB6EFWeUKH1Atuyk="
CRD_FILE = f"{MODULE}@{VERSION}/kubernetes/customresourcedefinitions.gen.yaml"

MAX_ZIP_BYTES = 16 << 20  # 1.4 MB today


class FetchError(Exception):
    """The schemas could not be had: nothing was checked."""


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
    cached = _cache_dir() / f"istio-api-{VERSION}.zip"
    if cached.is_file():
        content = cached.read_bytes()
        if _h1(content) == H1:
            return content
    content = _download()
    got = _h1(content)
    if got != H1:
        raise FetchError(f"{MODULE}@{VERSION} has {got}, pinned is {H1}")
    cached.parent.mkdir(parents=True, exist_ok=True)
    partial = cached.with_suffix(f".{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(cached)
    return content


def _cache_dir():
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "meshchain"


def _download():
    errors = []
    for proxy in _proxies():
        url = f"{proxy}/{MODULE}/@v/{VERSION}.zip"
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                content = response.read(MAX_ZIP_BYTES + 1)
        except (urllib.error.URLError, OSError) as error:
            errors.append(f"{url}: {error}")
            continue
        if len(content) <= MAX_ZIP_BYTES:
            return content
        errors.append(f"{url}: larger than {MAX_ZIP_BYTES} bytes")
    raise FetchError("; ".join(errors) or "GOPROXY names no proxy")


def _proxies():
    """The URLs in GOPROXY; "direct" (a git clone) is left out, "off" ends the list as it does in Go."""
    for entry in re.split(r"[,|]", os.environ.get("GOPROXY") or "off"):
        entry = entry.strip()
        if entry == "off":
            return
        if entry and entry != "direct":
            yield entry.rstrip("/")


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
