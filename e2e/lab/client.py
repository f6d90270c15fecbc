"""HTTP/1.1 requests whose answers show status, headers and body as received; no status is an error."""

import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict[str, str]  # lower-case names; the last of duplicates
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


class NoAnswer(OSError):
    """The connection ended before a complete response came."""


def request(method: str, url: str, headers: dict[str, str] | None = None, body: bytes | None = None,
            timeout_s: float = 10.0) -> Response:
    """One request on a connection of its own; redirects are not followed. Raises OSError only."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    try:
        connection.request(method, target, body=body, headers=headers or {})
        answer = connection.getresponse()
        return Response(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    except http.client.HTTPException as error:
        raise NoAnswer(f"{method} {url}: {error!r}") from error
    finally:
        connection.close()


@dataclass(frozen=True)
class Client:
    """Requests to one listener, in the name of one host."""

    base_url: str
    host: str

    def request(self, method: str, path: str, headers: dict[str, str] | None = None,
                body: bytes | None = None, timeout_s: float = 10.0) -> Response:
        return request(method, self.base_url + path, {"host": self.host, **(headers or {})}, body, timeout_s)

    def get(self, path: str, headers: dict[str, str] | None = None, timeout_s: float = 10.0) -> Response:
        return self.request("GET", path, headers, timeout_s=timeout_s)
