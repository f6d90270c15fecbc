"""What a collector sealed: read with DuckDB, found by trace id, verified with records and, once retention
has deleted them, without.

The tail is sealed when it is a tenth of `--retain-records` old: here after two seconds.
"""

import json
import re
import struct

import duckdb
import pytest

from lab import batches
from lab.batches import SECOND_NS, START_NS, Call, Session, sha256
from lab.client import request
from lab.collector import COLLECTOR, check_built, meshchain
from lab.procs import Processes, free_port, wait_http, wait_until
from lab.tools import REPOSITORY

ORIGIN = "segments.example/meshchain"
SERVICES = ("cart", "payments", "reviews")
STATUSES = (200, 200, 200, 503)
BATCHES, CALLS = 6, 40  # of each service
KEEP_S = 20
DEADLINE_S = 40.0


def call(service: str, number: int) -> Call:
    """A call of `service`; two have one trace."""
    trace_id = sha256(service.encode(), struct.pack(">I", number // 2))[:16]
    return batches.call(
        f"{service} {number}".encode(), trace_id, START_NS + number * SECOND_NS, authority=service,
        path=f"/items/{number}", status=STATUSES[number % 4], request_id=f"id-{number}")


class Proxy:
    """A session of one service."""

    def __init__(self, service: str):
        self.service = service
        self.session = Session(service.encode(), cluster="c1", namespace="shop", workload=service, pod=f"{service}-0")

    def batch(self) -> bytes:
        """The next batch; of each third only the digests, no records."""
        first = self.session.seq * CALLS
        calls = [call(self.service, number) for number in range(first, first + CALLS)]
        return self.session.batch(
            [call.entry for call in calls], [call.record for call in calls] if self.session.seq % 3 else [],
            START_NS + first * SECOND_NS, START_NS + (first + CALLS - 1) * SECOND_NS)


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
    since = (START_NS + 100 * SECOND_NS) // 1000
    late = sum(n >= 100 for n in kept)
    assert query(f"select count(*) from {records} where authority = 'cart' and epoch_us(start) >= {since}") == [(late,)]
    # The digests are the log's: those of one call, recomputed from the record that lies beside it.
    hop, own, record = query(f"""
        select e.hop_digest, e.span_digest, r.record from {entries} e join {records} r using (leaf, "index")
        where r.path = '/items/41' and r.workload = 'cart'""")[0]
    expected = call("cart", 41)
    assert (bytes(hop), bytes(own), bytes(record)) == (expected.entry[26:58], expected.entry[58:90], expected.record)


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
    with_record, without = call("payments", 41).trace_id.hex(), call("payments", 1).trace_id.hex()
    found, verdict = evidence(url, with_record, tmp_path)
    assert [span["record"].get("own") is not None for span in found["spans"]] == [True, True]
    assert "record      ok" in verdict and "log         ok" in verdict, verdict
    found, verdict = evidence(url, without, tmp_path)
    assert len(found["spans"]) == 2 and "log         ok" in verdict, verdict
    unknown = request("GET", f"{url}/v1/evidence/{'ab' * 16}")
    assert unknown.status == 404, unknown

    kept = len(SERVICES) * CALLS * sum(seq % 3 > 0 for seq in range(BATCHES))
    deleted = lambda: sum(line["records"] for line in events(process, "records_deleted"))  # noqa: E731
    wait_until(lambda: deleted() == kept, DEADLINE_S, "the audit log tells of the deletion of each record", process)
    assert not list((data / "segment").glob("*.records.parquet"))
    found, verdict = evidence(url, with_record, tmp_path)
    assert not any("record" in span for span in found["spans"])
    assert "log         ok" in verdict and "NO" not in verdict, verdict
    run = meshchain("fsck", data, "--vkey", json.loads(request("GET", f"{url}/v1/log").body)["vkey"])
    assert run.code == 0 and "deleted" in run.text, run.text


def test_a_mirror_grows_with_the_log_and_fsck_checks_its_entries(sealed, tmp_path):
    url, _, _ = sealed
    vkey = json.loads(request("GET", f"{url}/v1/log").body)["vkey"]
    copy, before = tmp_path / "copy", BATCHES * len(SERVICES)
    first = meshchain("mirror", url, copy, "--vkey", vkey)
    assert first.code == 0 and f"0 leaves before, {before} now" in first.text, first.text
    assert request("POST", f"{url}/v1/batches", body=Proxy("late").batch()).status == 200
    wait_until(lambda: json.loads(request("GET", f"{url}/v1/log").body)["size"] == before + 1, DEADLINE_S, "it is published")
    second = meshchain("mirror", url, copy, "--vkey", vkey)
    assert second.code == 0 and f"{before} leaves before, {before + 1} now" in second.text, second.text
    for place in (copy, url):
        run = meshchain("fsck", place, "--vkey", vkey)
        assert run.code == 0 and f"{CALLS * (before + 1)} checked, as they are served" in run.text, run.text
