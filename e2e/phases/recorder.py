"""What the filters post, decoded, on its way to a real collector: it keeps what the collector took."""

import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from lab.client import Response, request
from lab.messages import decode_whole as decode
from lab.receipts import CLIENT, ENTRY, GATEWAY_IN, GATEWAY_OUT, SERVER, check
from phases.app import Server

SIDES = {CLIENT: "client", SERVER: "server", GATEWAY_OUT: "gateway_out", GATEWAY_IN: "gateway_in"}
# Envoy's CoreResponseFlag by its place, as access logs write it.
FLAGS = ("LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC", "URX", "SI",
         "IH", "DPE", "UMSDR", "RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DO", "DR")


@dataclass(frozen=True)
class Span:
    """One record: what a side reported of a call. Bytes as they stand in it; absent: 0 or empty."""

    pod: str
    session: bytes
    hop_digest: bytes
    hop: dict
    own: dict

    @property
    def side(self) -> str:
        return SIDES[self.own["side"]]

    @property
    def authority(self) -> str:
        """As the proxy saw it."""
        return (self.own["raw_authority"] or self.hop["authority"]).decode()

    @property
    def path(self) -> str:
        """As the proxy saw it."""
        return (self.own["raw_path"] or self.hop["path"]).decode()

    @property
    def status(self) -> int:
        return self.hop["status"]

    @property
    def flags(self) -> str:
        bits = self.own["response_flags"]
        return ",".join(name for place, name in enumerate(FLAGS) if bits >> place & 1)

    @property
    def details(self) -> str:
        return self.own["code_details"].decode()

    @property
    def grpc_status(self) -> int | None:
        return self.own["grpc_status_plus_one"] - 1 if self.own["grpc_status_plus_one"] else None


@dataclass
class Recorder:
    """Answers as the collector at `collector_url` answers. Running from its creation until `close`.

    While `may_answer` is clear, batches wait; `waiting` says from which pods.
    """

    collector_url: str
    batches: dict[tuple[bytes, int], list[Span]] = field(default_factory=dict)  # by session and seq
    headers: list[dict] = field(default_factory=list)  # of the batches, as they came
    refused: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    may_answer: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self):
        self.may_answer.set()
        handler = type("Handler", (_Handler,), {"recorder": self})
        self._server = Server(("127.0.0.1", 0), handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def spans(self, request_id: bytes | None = None) -> list[Span]:
        """All of them, or those of one request, in the order of arrival."""
        every = [span for batch in list(self.batches.values()) for span in batch]
        return [s for s in every if request_id in (None, s.hop["request_id"])]

    def sessions(self, pod: str) -> dict[bytes, dict]:
        """The last header of each session of a pod."""
        return {h["session"]: h for h in list(self.headers) if h["source"]["pod"] == pod}

    def hand_on(self, body: bytes, content_type: str) -> Response:
        if not self.may_answer.is_set():
            self.waiting.append(decode("BatchHeader", decode("Batch", body)["header"])["source"]["pod"])
            self.may_answer.wait()
        return request("POST", f"{self.collector_url}/v1/batches", {"content-type": content_type}, body)

    def keep(self, body: bytes) -> None:
        batch = decode("Batch", body)
        header = decode("BatchHeader", batch["header"])
        entries = [ENTRY.unpack_from(batch["entries"], at) for at in range(0, len(batch["entries"]), ENTRY.size)]
        self.headers.append(header)
        self.batches[header["session"], header["seq"]] = [
            span(header, entry, record) for entry, record in zip(entries, batch["records"], strict=True)]

    def close(self) -> None:
        self.may_answer.set()
        self._server.shutdown()
        self._server.server_close()


def span(header: dict, entry: tuple, record: bytes) -> Span:
    """Reads a record and checks that it is what its entry hashes."""
    parts = decode("SpanRecord", record)
    check(entry, parts)
    _, side, _, _, hop_digest, _ = entry
    hop, own = decode("HopPart", parts["hop"]), decode("OwnPart", parts["own"])
    assert own["side"] == side
    return Span(header["source"]["pod"], header["session"], hop_digest, hop, own)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    recorder: Recorder

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        answer = self.recorder.hand_on(body, self.headers["content-type"])
        self.send_response(answer.status)
        self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)
        if answer.status == 200:
            self.recorder.keep(body)
        elif answer.status != 503:  # then it comes again: the machine is busy
            self.recorder.refused.append(f"{answer.status} {answer.text}")

    def log_message(self, *_) -> None:
        pass
