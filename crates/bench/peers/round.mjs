// What the rounds of all peers in JavaScript share: a database of their own, the clock, and the lines they print.

import { setTimeout as sleep } from "node:timers/promises";

import pg from "pg";

export const WORKERS = 8;
export const BATCH = 50;
export const SINGLE = count("PEER_SINGLE");
export const BATCHED = count("PEER_BATCHED");
const LATENCIES = count("PEER_LATENCIES");
// Jobs before the first that is measured, for the compiler and the caches.
const WARM_UP = 20;
// Milliseconds for a worker to finish with a job, and to find that there is no other.
const SETTLE = 10;

function count(name) {
  const value = Number(process.env[name]);
  if (!Number.isInteger(value) || value < 1) {
    throw new Error(`${name} must be a number of jobs`);
  }
  return value;
}

// Runs `measure(client, url)` on an empty database that goes with it; one that a failure left goes first.
// A server that need not write to disk is refused: its figures would flatter everybody.
export async function onFreshDatabase(name, measure) {
  const url = new URL(process.env.MI_TEST_POSTGRES);
  const server = new pg.Client(url.href);
  await server.connect();
  for (const setting of ["fsync", "synchronous_commit"]) {
    const { rows } = await server.query(`SELECT current_setting('${setting}') AS value`);
    if (rows[0].value !== "on") {
      throw new Error(`the server has ${setting}=${rows[0].value}: nothing that it says done is durable; set it to on`);
    }
  }
  const database = `peer_${name}`;
  await server.query(`DROP DATABASE IF EXISTS ${database} WITH (FORCE)`);
  await server.query(`CREATE DATABASE ${database}`);
  url.pathname = database;
  const client = new pg.Client(url.href);
  await client.connect();
  await measure(client, url.href);
  await client.end();
  // By grace: connections of a pool may still be on their way out, and die of force as of an error.
  await server.query(`DROP DATABASE ${database}`);
  await server.end();
}

// Prints the median and the 99th percentile of the time from before `add` to when the handler calls `started`.
export async function latencies(peer, handler, add) {
  const taken = [];
  for (let job = -WARM_UP; job < LATENCIES; job += 1) {
    await sleep(SETTLE);
    const begin = performance.now();
    const start = new Promise((resolve) => (handler.started = () => resolve(performance.now())));
    await add();
    const took = (await start) - begin;
    if (job >= 0) {
      taken.push(took);
    }
  }
  taken.sort((a, b) => a - b);
  const quantile = (share) => taken[Math.ceil(share * taken.length) - 1];
  report(peer, "add -> start by an idle worker, p50", "ms", quantile(0.5));
  report(peer, "the same, p99", "ms", quantile(0.99));
}

// Prints how many jobs a second `total` of them are: from when the first one starts until `left` says that none is
// there any more. Answers the handler and a promise.
export function counted(peer, what, total, left) {
  let begin;
  let seen = 0;
  let all;
  const started = new Promise((resolve) => (all = resolve));
  const handler = () => {
    begin ??= performance.now();
    seen += 1;
    if (seen === total) {
      all();
    }
  };
  const done = started.then(async () => {
    // Asked only now: a count while it runs would be in the way.
    while ((await left()) > 0) {
      await sleep(1);
    }
    report(peer, what, "/s", (total / (performance.now() - begin)) * 1000);
  });
  return { handler, done };
}

// Prints how many jobs a second `total` of them are, for workers that each call `step` until it finds no job.
export async function drained(peer, what, total, workers, step) {
  const begin = performance.now();
  let seen = 0;
  const work = async (worker) => {
    for (let found; (found = await step(worker)) > 0; ) {
      seen += found;
    }
  };
  await Promise.all(workers.map(work));
  const took = performance.now() - begin;
  if (seen !== total) {
    throw new Error(`${peer}: ${seen} jobs of ${total} were done`);
  }
  report(peer, what, "/s", (total / took) * 1000);
}

function report(peer, what, unit, value) {
  console.log(JSON.stringify({ peer, what, unit, value }));
}
