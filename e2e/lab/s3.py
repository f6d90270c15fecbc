"""An S3 server of the lab, versitygw over a directory; requests signed for it; collectors on its buckets.

A bucket is a directory below the server's and an object is a file in it, so that scenarios look at
objects, and take them away, behind the server's back. ETags are in the files' extended attributes.
"""

import base64
import hashlib
import hmac
import itertools
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import tempfile
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import quote

from lab.client import Response, request
from lab.collector import COLLECTOR
from lab.procs import Process, Processes, free_port, wait_http, wait_until
from lab.tools import REPOSITORY, ToolMissing

MODULE = REPOSITORY / "e2e" / "s3"
PACKAGE = "github.com/versity/versitygw/cmd/versitygw"
ACCESS_KEY, SECRET_KEY, REGION = "lab", "lab-secret", "us-east-1"
GO_S = 600.0  # an empty module cache, a slow proxy, and 80 s of compiling on two cores
START_S = 10.0
ORIGIN = "bucket.example/meshchain"
PREFIX = "org/log"  # of a log in its bucket
BUNDLE = 256  # entries
DEADLINE_S = 30.0  # of anything that a collector is waited for


def versitygw_binary() -> Path:
    """versitygw in `.tools/bin`, built unless it is there as `go.mod` and `go.sum` pin it."""
    go = shutil.which("go")
    if go is None:
        raise ToolMissing("Go is not installed: versitygw, the S3 server, is a Go program")
    binary = REPOSITORY / ".tools" / "bin" / "versitygw"
    stamp = binary.with_name("versitygw.sum")
    pinned = hashlib.sha256((MODULE / "go.mod").read_bytes() + (MODULE / "go.sum").read_bytes()).hexdigest()
    if binary.exists() and stamp.exists() and stamp.read_text() == pinned:
        return binary
    binary.parent.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    for command in (["build", "-mod=readonly", "-buildvcs=false", "-o", str(binary), PACKAGE], ["mod", "verify"]):
        done = subprocess.run([go, *command], cwd=MODULE, capture_output=True, text=True, timeout=GO_S)
        if "requires go >= " in done.stderr:
            raise ToolMissing(f"Go is too old for versitygw, the S3 server: {done.stderr.strip()}")
        assert done.returncode == 0, f"go {' '.join(command)}\n{done.stdout}{done.stderr}"
    stamp.write_text(pinned)
    return binary


@dataclass(frozen=True)
class Bucket:
    """A bucket, by its files and by signed requests."""

    name: str
    directory: Path
    port: int  # of the server

    def keys(self, prefix: str = "") -> list[str]:
        """Keys of all objects that begin with `prefix`, ascending."""
        files = (path for path in self.directory.rglob("*") if path.is_file())
        keys = (path.relative_to(self.directory).as_posix() for path in files)
        return sorted(key for key in keys if key.startswith(prefix) and not key.startswith(".sgwtmp"))

    def read(self, key: str) -> bytes:
        return (self.directory / key).read_bytes()

    def delete(self, key: str) -> None:
        (self.directory / key).unlink()

    def request(self, method: str, key: str, headers: dict[str, str] | None = None, body: bytes = b"",
                query: dict[str, str] | None = None, port: int | None = None) -> Response:
        """One signed request, to the server or to a proxy's `port`."""
        host = f"127.0.0.1:{port or self.port}"
        pairs = sorted((quote(name, safe=""), quote(value, safe="")) for name, value in (query or {}).items())
        target = "&".join(f"{name}={value}" for name, value in pairs)
        path = f"/{self.name}" + (f"/{quote(key)}" if key else "")
        signed = signature(method, host, path, target, body)
        url = f"http://{host}{path}" + (f"?{target}" if target else "")
        return request(method, url, {**(headers or {}), **signed}, body)


def signature(method: str, host: str, path: str, query: str, body: bytes) -> dict[str, str]:
    """The headers of AWS Signature Version 4, over host, date and body; `path`, `query` in canonical form."""
    now = datetime.now(timezone.utc)
    time, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    headers = {"host": host, "x-amz-content-sha256": hashlib.sha256(body).hexdigest(), "x-amz-date": time}
    names = ";".join(headers)
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    canonical = "\n".join([method, path, query, lines, names, headers["x-amz-content-sha256"]])
    scope = f"{day}/{REGION}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", time, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{SECRET_KEY}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signed = hmac.digest(key, text.encode(), "sha256").hex()
    credential = f"Credential={ACCESS_KEY}/{scope}, SignedHeaders={names}, Signature={signed}"
    return {**headers, "authorization": f"AWS4-HMAC-SHA256 {credential}"}


def environment(port: int) -> dict[str, str]:
    """What a client of the server, or of a proxy in front of it, has in its environment."""
    return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ALLOW_HTTP": "true", "NO_PROXY": "127.0.0.1"}


class S3Server:
    """versitygw, running until its `processes` end it."""

    def __init__(self, processes: Processes, directory: Path):
        """Starts it over `directory`. Raises ToolMissing where it cannot be built or cannot store ETags."""
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        check_attributes(directory)
        self.port = free_port()
        argv = [versitygw_binary(), "--port", f"127.0.0.1:{self.port}", "--health", "/health", "--keep-alive",
                "--quiet", "posix", directory]
        keys = {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
        self.process: Process = processes.start("versitygw", argv, env=keys)
        wait_http(f"http://127.0.0.1:{self.port}/health", START_S, self.process)

    def bucket(self, name: str) -> Bucket:
        """A new bucket; names have 3 to 63 lower-case letters, digits and hyphens."""
        (self.directory / name).mkdir()
        return Bucket(name, self.directory / name, self.port)


def check_attributes(directory: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        try:
            os.setxattr(file.name, "user.meshchain", b"")
        except OSError as error:
            raise ToolMissing(f"{directory} keeps no extended attributes, which versitygw needs: {error}") from error


# --- collectors

@dataclass(frozen=True)
class Place:
    """Where a log is, as a collector is told."""

    data: str
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    def behind(self, port: int) -> "Place":
        """The same, by way of a proxy."""
        return replace(self, environment=environment(port))

    def sealing(self) -> "Place":
        """The same, where the log's tail is sealed at a tenth of the retention: after a second."""
        return replace(self, options=(*self.options, "--retain-records", "10s"))


class Life:
    """One run of a collector."""

    def __init__(self, processes: Processes, name: str, place: Place):
        self.processes = processes
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        argv = [COLLECTOR, "--data", place.data, *place.options, "--origin", ORIGIN, "--listen", f"127.0.0.1:{port}"]
        self.process = processes.start(name, argv, env=place.environment)

    @property
    def ended(self) -> bool:
        return not self.process.alive()

    @property
    def log(self) -> str:
        return self.process.log_text()

    @property
    def sealed(self) -> bool:
        """Whether it wrote a segment."""
        return '"event":"sealed"' in self.log

    def up(self) -> bool:
        """Waits until it serves, or has ended; whether it serves."""
        def serves() -> bool:
            return self.ended or request("GET", f"{self.url}/healthz").status == 200
        wait_until(serves, DEADLINE_S, "the collector serves or ends")
        return not self.ended

    def stop(self, how: signal.Signals = signal.SIGKILL) -> int:
        return self.processes.stop(self.process, grace_s=0 if how == signal.SIGKILL else DEADLINE_S)

    def get(self, path: str) -> bytes:
        answer = request("GET", f"{self.url}/{path}")
        assert answer.status == 200, (path, answer)
        return answer.body

    def head(self) -> tuple[int, str]:
        """Size and root, in hex, of the checkpoint that it publishes."""
        _, size, root = self.get("checkpoint").decode().splitlines()[:3]
        return int(size), base64.b64decode(root).hex()

    def published(self) -> set[tuple[int, str]]:
        """Size and root of each checkpoint that it says, in its audit log, that it published."""
        lines = (json.loads(line)["log"] for line in self.log.splitlines()
                 if re.fullmatch(r'\{.*"event":"checkpoint".*\}', line))
        return {(line["size"], line["root"]) for line in lines}

    def leaves(self, size: int) -> list[bytes]:
        """The log's entries, out of its entry bundles."""
        leaves = []
        for index in range(-(-size // BUNDLE)):
            width = min(BUNDLE, size - index * BUNDLE)
            bundle = self.get(f"tile/entries/{index:03}" + (f".p/{width}" if width < BUNDLE else ""))
            at = 0
            while at < len(bundle):
                (length,) = struct.unpack_from(">H", bundle, at)
                leaves.append(bundle[at + 2:at + 2 + length])
                at += 2 + length
        return leaves


@dataclass
class Lab:
    """A server, new buckets and logs on it, and what runs over them."""

    processes: Processes
    server: S3Server
    directory: Path
    numbers: itertools.count = field(default_factory=itertools.count)

    def bucket(self) -> Bucket:
        return self.server.bucket(f"bucket-{next(self.numbers)}")

    def place(self, kind: str = "bucket") -> Place:
        """The place of a new log, whose key is made."""
        if kind == "directory":
            place = Place(str(self.directory / f"directory-{next(self.numbers)}"))
        else:
            name = self.bucket().name
            key = self.directory / f"{name}.key"
            place = Place(f"s3://{name}/{PREFIX}", ("--key", str(key)), environment(self.server.port))
        argv = [COLLECTOR, "init", "--data", place.data, *place.options, "--origin", ORIGIN]
        variables = os.environ | place.environment
        done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, env=variables)
        assert done.returncode == 0, done.stderr
        return place

    def life(self, place: Place) -> Life:
        return Life(self.processes, f"collector-{next(self.numbers)}", place)
