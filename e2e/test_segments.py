"""What a collector sealed: read with DuckDB, found by trace id, verified with records and, once retention
has deleted them, without.

The tail is sealed when it is a tenth of `--retain-records` old: here after two seconds.
"""

import json
import re
import struct

import duckdb
import pytest

from lab.client import request
from lab.collector import COLLECTOR, check_built, meshchain
from lab.procs import Processes, free_port, wait_http, wait_until
from lab.tools import REPOSITORY
from test_conformance import ENTRY, encode, hexed, sha256

ORIGIN = "segments.example/meshchain"
SERVICES = ("cart", "payments", "reviews")
STATUSES = (200, 200, 200, 503)
START_NS = 1_795_000_000_000_000_000
SECOND = 1_000_000_000
BATCHES, CALLS = 6, 40  # of each service
KEEP_S = 20
DEADLINE_S = 40.0


def call(service: str, number: int) -> tuple[bytes, bytes, str]:
    """Entry, record and trace id of a call of `service`."""
    trace_id = sha256(service.encode(), struct.pack(">I", number // 2))[:16]
    hop = encode("HopPart", {
        "trace_id": hexed(trace_id), "span_id": hexed(struct.pack(">Q", number + 1)), "request_id": f"id-{number}",
        "method": "GET", "authority": service, "path": f"/items/{number}", "status": STATUSES[number % 4]})
    own = encode("OwnPart", {
        "side": 2, "start_ns": START_NS + number * SECOND, "duration_ns": 1000 + number,
        "salt": hexed(sha256(b"salt", hop)[:16]), "headers": []})
    hop_digest = sha256(b"meshchain/hop/v1\0", hop)
    span_digest = sha256(b"meshchain/span/v1\0", hop_digest, own)
    entry = ENTRY.pack(1, 2, trace_id, struct.pack(">Q", number + 1), hop_digest, span_digest)
    return entry, encode("SpanRecord", {"hop": hexed(hop), "own": hexed(own)}), trace_id.hex()


class Proxy:
    """A session of one service."""

    def __init__(self, service: str):
        self.service, self.seq, self.prev = service, 0, bytes(32)
        self.id = sha256(b"session", service.encode())[:16]

    def batch(self) -> bytes:
        """The next batch; of each third only the digests, no records."""
        first = self.seq * CALLS
        calls = [call(self.service, number) for number in range(first, first + CALLS)]
        header = encode("BatchHeader", {
            "version": 1, "kind": 1, "session": hexed(self.id), "seq": self.seq, "count": CALLS, "dropped": [],
            "source": {"cluster": "c1", "namespace": "shop", "workload": self.service, "pod": f"{self.service}-0"},
            "first_ns": START_NS + first * SECOND, "last_ns": START_NS + (first + CALLS - 1) * SECOND, "notices": []})
        entries = b"".join(entry for entry, _, _ in calls)
        chain = sha256(b"meshchain/chain/v1\0", self.prev, struct.pack(">I", len(header)), header, entries)
        records = [hexed(record) for _, record, _ in calls] if self.seq % 3 else []
        parts = {"header": header, "prev": self.prev, "chain": chain, "entries": entries}
        self.seq, self.prev = self.seq + 1, chain
        return encode("Batch", {**{name: hexed(part) for name, part in parts.items()}, "records": records})


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    """A collector whose batches are all sealed: its URL, its data directory, its process."""
    check_built()
    directory = tmp_path_factory.mktemp("segments")
    with Processes(directory) as processes:
        url = f"http://127.0.0.1:{(port := free_port())}"
        argv = [COLLECTOR, "--data", directory / "data", "--origin", ORIGIN, "--listen", f"127.0.0.1:{port}",
                "--retain-records", f"{KEEP_S}s"]
        process = processes.start("collector", argv)
        wait_http(f"{url}/healthz", DEADLINE_S, process)
        proxies = [Proxy(service) for service in SERVICES]
        for _ in range(BATCHES):
            for proxy in proxies:
                assert request("POST", f"{url}/v1/batches", body=proxy.batch()).status == 200
        wait_until(lambda: leaves_sealed(process) == BATCHES * len(SERVICES), DEADLINE_S, "all is sealed", process)
        yield url, directory / "data", process


def events(process, event: str) -> list[dict]:
    lines = (line for line in process.log_text().splitlines() if f'"event":"{event}"' in line)
    return [json.loads(line) for line in lines]


def leaves_sealed(process) -> int:
    return sum(line["leaves"] for line in events(process, "sealed"))


def evidence(url: str, trace_id: str, directory) -> tuple[dict, str]:
    """The evidence of a trace, and what the verifier says of it."""
    answer = request("GET", f"{url}/v1/evidence/{trace_id}")
    assert answer.status == 200, answer
    file, policy = directory / "evidence.json", directory / "policy.json"
    file.write_bytes(answer.body)
    vkey = json.loads(request("GET", f"{url}/v1/log").body)["vkey"]
    logs = [{"origin": ORIGIN, "vkey": vkey, "anchors": []}]
    policy.write_text(json.dumps({"format": "meshchain/policy/v1", "require_anchor": False, "logs": logs}))
    return json.loads(answer.body), meshchain("verify", file, "--policy", policy).text


def test_duckdb_answers_by_service_time_and_status(sealed):
    _, data, _ = sealed
    entries, records = (f"read_parquet('{data}/segment/*.{part}.parquet')" for part in ("entries", "records"))
    query = lambda sql: duckdb.sql(sql).fetchall()  # noqa: E731
    total = BATCHES * CALLS
    by_service = query(f"select namespace, workload, count(*) from {entries} group by all order by all")
    assert by_service == [("shop", service, total) for service in SERVICES]
    kept = [n for n in range(total) if n // CALLS % 3]
    failed = sum(STATUSES[n % 4] == 503 for n in kept)
    assert query(f"select workload, count(*) from {records} where status = 503 group by all order by all") == [
        (service, failed) for service in SERVICES]
    since = (START_NS + 100 * SECOND) // 1000
    late = sum(n >= 100 for n in kept)
    assert query(f"select count(*) from {records} where authority = 'cart' and epoch_us(start) >= {since}") == [(late,)]
    # The digests are the log's: those of one call, recomputed from the record that lies beside it.
    hop, own, record = query(f"""
        select e.hop_digest, e.span_digest, r.record from {entries} e join {records} r using (leaf, "index")
        where r.path = '/items/41' and r.workload = 'cart'""")[0]
    entry, expected, _ = call("cart", 41)
    assert (bytes(hop), bytes(own), bytes(record)) == (entry[26:58], entry[58:90], expected)


def test_the_queries_of_the_documentation_run(sealed):
    _, data, _ = sealed
    shown = re.search(r"```sql\n(.*?)```", (REPOSITORY / "docs" / "storage.md").read_text("utf-8"), re.DOTALL)[1]
    statements = [statement for statement in shown.replace("DATA/", f"{data}/").split(";") if statement.strip()]
    # The calls are not of the last hour.
    assert [len(duckdb.sql(statement).fetchall()) for statement in statements] == [0, BATCHES * CALLS]


def test_rows_are_in_log_order_and_row_groups_tell_their_least_and_most(sealed):
    _, data, _ = sealed
    for part, columns in (("entries", ("leaf", "first", "last", "workload")),
                          ("records", ("start", "status", "workload"))):
        for file in sorted((data / "segment").glob(f"*.{part}.parquet")):
            rows = duckdb.sql(f"""select leaf, "index" from '{file}'""").fetchall()
            assert rows == sorted(rows) and len(set(rows)) == len(rows)
            told = duckdb.sql(f"""select path_in_schema from parquet_metadata('{file}')
                where stats_min_value is not null and stats_max_value is not null""").fetchall()
            assert {(column,) for column in columns} <= set(told)


def test_a_sealed_call_is_found_and_verified_before_and_after_its_record_was_deleted(sealed, tmp_path):
    url, data, process = sealed
    with_record, without = call("payments", 41)[2], call("payments", 1)[2]
    found, verdict = evidence(url, with_record, tmp_path)
    assert [span["record"].get("own") is not None for span in found["spans"]] == [True, True]
    assert "record      ok" in verdict and "log         ok" in verdict, verdict
    found, verdict = evidence(url, without, tmp_path)
    assert len(found["spans"]) == 2 and "log         ok" in verdict, verdict
    unknown = request("GET", f"{url}/v1/evidence/{'ab' * 16}")
    assert unknown.status == 404, unknown

    wait_until(lambda: not list((data / "segment").glob("*.records.parquet")), DEADLINE_S, "records are deleted", process)
    deleted = sum(line["records"] for line in events(process, "records_deleted"))
    assert deleted == len(SERVICES) * CALLS * sum(seq % 3 > 0 for seq in range(BATCHES))
    found, verdict = evidence(url, with_record, tmp_path)
    assert not any("record" in span for span in found["spans"])
    assert "log         ok" in verdict and "NO" not in verdict, verdict
    run = meshchain("fsck", data, "--vkey", json.loads(request("GET", f"{url}/v1/log").body)["vkey"])
    assert run.code == 0 and "deleted" in run.text, run.text
