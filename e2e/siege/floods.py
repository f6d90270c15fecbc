"""Requests without end, on kept connections: each waits for its answer, and is read whole."""

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    body: bytes | None = None


@dataclass(frozen=True)
class Flood:
    """`clients`, each with the requests of its own number, at most `per_s` of them."""

    clients: int
    per_s: float
    headers: dict[str, str]
    requests: Callable[[int], Iterator[Request]]

    def run(self, port: int, stop) -> Counter:
        """Floods until `stop` is set or there are no more requests; how many were answered with what."""
        seen = [Counter() for _ in range(self.clients)]
        threads = [threading.Thread(target=self._client, args=(number, port, stop, seen[number]))
                   for number in range(self.clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(seen, Counter())

    def _client(self, number: int, port: int, stop, seen: Counter) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        begun_s = time.monotonic()
        for made, request in enumerate(self.requests(number)):
            if stop.wait(max(0.0, begun_s + made / self.per_s - time.monotonic())):
                break
            try:
                connection.request(request.method, request.path, request.body, self.headers)
                answer = connection.getresponse()
                while answer.read(1 << 20) and not stop.is_set():
                    pass
                seen[str(answer.status)] += 1
                if stop.is_set():
                    break
            except (OSError, http.client.HTTPException) as error:
                seen[type(error).__name__] += 1
                connection.close()
        connection.close()
