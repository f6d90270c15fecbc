// The built module in V8, the engine that Envoy runs it in, without Envoy: digests against another
// SHA-256, and hosts that answer what no host should.

import assert from "node:assert/strict";
import { createHash, createPublicKey, verify } from "node:crypto";
import { test } from "node:test";
import { BYTES, fields, Host } from "./host.mjs";

const ENTRY = 90, HOP_DIGEST = 26, SPAN_DIGEST = 58;
const u64 = (value) => { const out = Buffer.alloc(8); out.writeBigUInt64LE(BigInt(value)); return out; };
const sha256 = (...parts) => createHash("sha256").update(Buffer.concat(parts.map((part) => Buffer.from(part)))).digest();

function request(host, number, pathLength = 10) {
  host.maps[0] = [
    [":method", "GET"], [":authority", "reviews:9080"], [":path", "/" + "p".repeat(pathLength)],
    ["x-request-id", `id-${number}`],
    ["x-b3-traceid", number.toString(16).padStart(32, "a")], ["x-b3-spanid", number.toString(16).padStart(16, "b")],
  ];
}

function inbound(host) {
  host.properties.set("xds\0listener_direction", u64(1));
  host.properties.set("response\0code", u64(200));
  host.properties.set("request\0time", u64(host.nowNs));
  host.maps[2] = [[":status", "200"]];
}

/** The calls of a batch, each checked: its digests are those of its record. */
function checked(post) {
  const { 4: [entries], 5: records = [] } = fields(post);
  assert.equal(entries.length, ENTRY * records.length);
  return records.map((record, at) => {
    const { 1: [hop], 2: [own] } = fields(record);
    const entry = entries.subarray(at * ENTRY, (at + 1) * ENTRY);
    const hopDigest = sha256("meshchain/hop/v1\0", hop);
    assert.deepEqual(entry.subarray(HOP_DIGEST, SPAN_DIGEST), hopDigest, `hop digest ${at}`);
    assert.deepEqual(entry.subarray(SPAN_DIGEST), sha256("meshchain/span/v1\0", hopDigest, own), `span digest ${at}`);
    return hop;
  });
}

test("every digest is that of its record, for parts of every number of blocks", () => {
  const host = new Host();
  inbound(host);
  for (const calls of [1, 3, 4, 63, 64, 65, 200]) {
    for (let number = 1; number <= calls; number++) {
      request(host, number, (number * 37) % 1100);
      host.stream();
    }
    host.tick();
    const hops = checked(host.posts.at(-1));
    assert.equal(hops.length, calls);
    assert.equal(new Set(hops.map((hop) => hop.toString("hex"))).size, calls);
    host.answer(200);
  }
  host.tick();
  assert.equal(host.metrics.get("meshchain_acked"), 7n);
});

test("each batch is signed by its session's key, as node sees it", () => {
  const host = new Host();
  inbound(host);
  for (let number = 1; number <= 3; number++) {
    request(host, number);
    host.stream();
    host.tick();
    const { 1: [header], 2: [prev], 3: [chain], 4: [entries], 6: [key], 7: [signature] } = fields(host.posts.at(-1));
    assert.deepEqual(chain, sha256("meshchain/chain/v1\0", prev, sha256(entries), header));
    assert.deepEqual(fields(header)[4][0], sha256("meshchain/session/v1\0", key).subarray(0, 16));
    const spki = Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), key]);
    const publicKey = createPublicKey({ key: spki, format: "der", type: "spki" });
    const message = Buffer.concat([Buffer.from("meshchain/batch/v1\0"), chain]);
    assert.ok(verify(null, message, publicKey, signature));
    host.answer(200);
  }
});

test("lanes of 128 bits are in use", () => {
  const v128 = Buffer.from([0xfd, 0xae, 0x01]); // i32x4.add
  assert.ok(BYTES.includes(v128));
});

test("a host that refuses every call costs records and nothing else", () => {
  for (const status of [1, 2, 3, 4, 7, 8, 9, 10, 11, 12, 99]) {
    const refuse = () => status;
    const refused = Object.fromEntries([
      "proxy_get_header_map_pairs", "proxy_replace_header_map_value", "proxy_get_property", "proxy_log",
      "proxy_call_foreign_function", "proxy_get_current_time_nanoseconds", "proxy_define_metric",
      "proxy_increment_metric", "proxy_record_metric", "proxy_get_buffer_bytes",
    ].map((name) => [name, refuse]));
    const host = new Host("", refused);
    for (let at = 0; at < 100; at++) host.stream();
    host.tick();
    host.answer(200);
  }
});

test("a host without randomness ends nothing, and its calls are counted", () => {
  const failure = 29; // EIO
  const host = new Host('{"payload": "record", "no_such_key": 1}', { random_get: () => failure });
  inbound(host);
  request(host, 1);
  host.stream();
  host.tick();
  assert.equal(host.posts.length, 0);
  assert.equal(host.metrics.get("meshchain_dropped_no_randomness"), 1n);
  assert.ok(host.log.some((line) => line.includes("no randomness")), host.log.join());
});

/** Numbers that look random and are the same in each run (xorshift). */
function numbers(seed) {
  let state = seed;
  return (below) => {
    state ^= state << 13; state ^= state >>> 17; state ^= state << 5;
    return (state >>> 0) % below;
  };
}

test("a host that answers noise is survived", () => {
  for (let seed = 1; seed <= 300; seed++) {
    const below = numbers(seed * 7919);
    const noise = () => Buffer.from({ length: below(4) ? below(64) : below(3000) }, () => 0).map(() => below(256));
    const given = (data, size) => function () { return below(3) ? this.give(noise(), arguments[data], arguments[size]) : below(13); };
    const host = new Host(below(2) ? "" : noise().toString("latin1"), {
      proxy_get_header_map_pairs: given(1, 2),
      proxy_get_property: given(2, 3),
      proxy_call_foreign_function: given(4, 5),
    });
    for (let at = 0; at < 80; at++) {
      host.stream();
      if (below(20) === 0) host.tick();
      if (below(20) === 0) host.answer(below(2) ? below(600) : undefined);
    }
    host.tick();
  }
});

test("a configuration of any kind starts the module", () => {
  for (const text of ["", "{", "[]", "null", "\0", "{\"tick_ms\": -1}", "{\"headers\": 1}", "\u00ff".repeat(9999), "[".repeat(9999)]) {
    const host = new Host(text);
    inbound(host);
    request(host, 1);
    host.stream();
    host.tick();
  }
});
