// A proxy-wasm 0.2.1 host in V8, of what the filter asks a proxy for. What it answers is up to the test.

import { randomFillSync } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const OK = 0, NOT_FOUND = 1, UNIMPLEMENTED = 12;
const ROOT = 1;
const CONFIGURATION = 7; // a buffer type of the ABI

/** The module as `./wasm-build.sh` makes it. */
export const BYTES = readFileSync(join(
  process.env.CARGO_TARGET_DIR ?? new URL("../../target", import.meta.url).pathname,
  "wasm32-wasip1/release-wasm/meshchain_filter.wasm"));
const MODULE = new WebAssembly.Module(BYTES);

export class Host {
  /** Request headers, response headers, headers of the collector's answer: [name, value] pairs. */
  maps = { 0: [], 2: [], 6: [] };
  /** Attributes by path, as bytes; elements of a path have a 0 byte between them. */
  properties = new Map();
  /** Bodies of the POSTs to the collector. */
  posts = [];
  metrics = new Map();
  log = [];
  nowNs = 1_795_000_000_000_000_000n;
  #answered = 0;
  #streams = ROOT;
  #metricNames = [];

  constructor(configuration = "", overrides = {}) {
    this.configuration = Buffer.from(configuration);
    const calls = { ...this.#calls(), ...overrides };
    const imports = { env: {}, wasi_snapshot_preview1: {} };
    for (const { module, name } of WebAssembly.Module.imports(MODULE)) {
      const call = calls[name] ?? (() => UNIMPLEMENTED);
      imports[module][name] = (...args) => call.apply(this, args);
    }
    this.vm = new WebAssembly.Instance(MODULE, imports).exports;
    this.vm._initialize();
    this.vm.proxy_on_context_create(ROOT, 0);
    this.vm.proxy_on_configure(ROOT, this.configuration.length);
  }

  /** A stream from its request headers to its end. */
  stream() {
    const id = ++this.#streams;
    this.vm.proxy_on_context_create(id, ROOT);
    this.vm.proxy_on_request_headers(id, this.maps[0].length, 1);
    this.vm.proxy_on_log(id);
    this.vm.proxy_on_done(id);
  }

  tick() {
    this.vm.proxy_on_tick(ROOT);
  }

  /** The collector's answer to the last POST, if it has none yet; without a status it broke off. */
  answer(status) {
    if (this.#answered === this.posts.length) return;
    this.#answered = this.posts.length;
    this.maps[6] = status === undefined ? [] : [[":status", String(status)]];
    this.vm.proxy_on_http_call_response(ROOT, this.#answered, this.maps[6].length, 0, 0);
  }

  /** Bytes of the VM's memory. */
  bytes(at, length) {
    return Buffer.from(this.vm.memory.buffer, at, length);
  }

  #text(at, length) {
    return this.bytes(at, length).toString("latin1");
  }

  #number(at, value) {
    new DataView(this.vm.memory.buffer).setUint32(at, value, true);
  }

  /** Hands bytes over as the ABI wants it: in memory that the VM allocates. */
  give(bytes, data, size) {
    const at = this.vm.proxy_on_memory_allocate(bytes.length);
    this.bytes(at, bytes.length).set(bytes);
    this.#number(data, at);
    this.#number(size, bytes.length);
    return OK;
  }

  #calls() {
    return {
      proxy_log(_level, at, length) {
        this.log.push(this.#text(at, length));
        return OK;
      },
      proxy_get_header_map_pairs(map, data, size) {
        return this.give(serialized(this.maps[map] ?? []), data, size);
      },
      proxy_replace_header_map_value(map, name, nameLength, value, valueLength) {
        const key = this.#text(name, nameLength);
        this.maps[map] = this.maps[map].filter(([other]) => other !== key);
        this.maps[map].push([key, Buffer.from(this.bytes(value, valueLength))]);
        return OK;
      },
      proxy_remove_header_map_value(map, name, length) {
        const key = this.#text(name, length);
        this.maps[map] = this.maps[map].filter(([other]) => other !== key);
        return OK;
      },
      proxy_get_buffer_bytes(buffer, _start, _length, data, size) {
        return buffer === CONFIGURATION ? this.give(this.configuration, data, size) : NOT_FOUND;
      },
      proxy_get_property(path, length, data, size) {
        const value = this.properties.get(this.#text(path, length));
        return value === undefined ? NOT_FOUND : this.give(value, data, size);
      },
      proxy_get_current_time_nanoseconds(at) {
        new DataView(this.vm.memory.buffer).setBigUint64(at, this.nowNs, true);
        return OK;
      },
      clock_time_get(_clock, _precision, at) {
        new DataView(this.vm.memory.buffer).setBigUint64(at, this.nowNs, true);
        return OK;
      },
      proxy_set_effective_context: () => OK,
      proxy_set_tick_period_milliseconds: () => OK,
      proxy_http_call(...args) {
        this.posts.push(Buffer.from(this.bytes(args[4], args[5])));
        this.#number(args[9], this.posts.length);
        return OK;
      },
      proxy_define_metric(_kind, name, length, id) {
        this.#metricNames.push(this.#text(name, length));
        this.#number(id, this.#metricNames.length);
        return OK;
      },
      proxy_increment_metric(id, by) {
        const name = this.#metricNames[id - 1];
        this.metrics.set(name, (this.metrics.get(name) ?? 0n) + by);
        return OK;
      },
      proxy_record_metric: () => OK,
      environ_sizes_get(count, size) {
        this.#number(count, 0);
        this.#number(size, 0);
        return OK;
      },
      fd_write(_file, vectors, count, written) {
        const at = (index) => new DataView(this.vm.memory.buffer).getUint32(vectors + 4 * index, true);
        const texts = Array.from({ length: count }, (_, index) => this.#text(at(2 * index), at(2 * index + 1)));
        this.log.push(texts.join(""));
        this.#number(written, texts.join("").length);
        return OK;
      },
      proc_exit(code) {
        throw new Error(`the module ends itself with ${code}: ${this.log.join("")}`);
      },
      random_get(at, length) {
        randomFillSync(this.bytes(at, length));
        return OK;
      },
    };
  }
}

/** A header map as the ABI has it: count, lengths of names and values, each text with a 0 behind it. */
function serialized(pairs) {
  const texts = pairs.flat().map((text) => Buffer.from(text));
  const lengths = Buffer.alloc(4 + 4 * texts.length);
  lengths.writeUInt32LE(pairs.length);
  texts.forEach((text, at) => lengths.writeUInt32LE(text.length, 4 + 4 * at));
  return Buffer.concat([lengths, ...texts.flatMap((text) => [text, Buffer.alloc(1)])]);
}

/** Fields of a protobuf message of bytes and varints, by number: a list of values each. */
export function fields(message) {
  const found = {};
  let at = 0;
  const varint = () => {
    for (let value = 0n, shift = 0n; ; shift += 7n) {
      const byte = message[at++];
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < message.length) {
    const tag = Number(varint());
    let value = varint();
    if (tag % 8 === 2) {
      const end = at + Number(value);
      [value, at] = [message.subarray(at, end), end];
    }
    (found[tag >> 3] ??= []).push(value);
  }
  return found;
}
