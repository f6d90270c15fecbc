// How long the built module takes to seal and sign a batch, in V8: ticks that seal one beside ticks that do not.

import { Host } from "../filter/v8/host.mjs";

const TURNS = 300, FULL = 512;

function host() {
  const made = new Host();
  made.properties.set("xds\0listener_direction", Buffer.from([1, 0, 0, 0, 0, 0, 0, 0]));
  made.maps[0] = [[":method", "GET"], [":authority", "reviews:9080"], [":path", "/reviews/0"], ["x-request-id", "1"]];
  return made;
}

/** Median microseconds of a tick after so many calls. */
function tickUs(calls) {
  const one = host(), times = [];
  for (let turn = 0; turn < TURNS; turn++) {
    for (let call = 0; call < calls; call++) one.stream();
    const start = process.hrtime.bigint();
    one.tick();
    times.push(Number(process.hrtime.bigint() - start) / 1e3);
    one.answer(200);
  }
  return times.sort((a, b) => a - b)[TURNS / 2];
}

const idle = tickUs(0);
console.log(JSON.stringify({ idle_us: idle, seal_us: tickUs(1) - idle, full_us: tickUs(FULL) - idle }));
