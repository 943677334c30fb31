// One round of the least that a durable queue can be: a table, `FOR UPDATE SKIP LOCKED`, and a notification.
// As with the others a job is taken in one transaction and completed in the next.

import pg from "pg";

import { BATCH, BATCHED, SINGLE, WORKERS, drained, latencies, onFreshDatabase } from "./round.mjs";

const PEER = "bare SKIP LOCKED loop";
const CREATE = `
  CREATE TABLE job (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, state text NOT NULL DEFAULT 'ready');
  CREATE INDEX job_ready ON job (id) WHERE state = 'ready'`;
const ADD = { name: "add", text: "WITH added AS (INSERT INTO job DEFAULT VALUES) SELECT pg_notify('job', '')" };
const TAKE = {
  name: "take",
  text: `UPDATE job SET state = 'taken' WHERE id = ANY (ARRAY(
           SELECT id FROM job WHERE state = 'ready' ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED
         )) RETURNING id`,
};
const COMPLETE = { name: "complete", text: "UPDATE job SET state = 'done' WHERE id = ANY ($1)" };

// Takes up to `most` jobs, hands them to `handler`, and completes them; answers how many.
async function step(worker, most, handler) {
  const { rows } = await worker.query({ ...TAKE, values: [most] });
  if (rows.length > 0) {
    handler();
    await worker.query({ ...COMPLETE, values: [rows.map((row) => row.id)] });
  }
  return rows.length;
}

await onFreshDatabase("bare", async (client, url) => {
  await client.query(CREATE);
  const workers = Array.from({ length: WORKERS }, () => new pg.Client(url));
  await Promise.all(workers.map((worker) => worker.connect()));

  const [idle] = workers;
  const handler = {};
  const failed = (error) => {
    console.error(error);
    process.exit(1);
  };
  const wake = () => step(idle, 1, () => handler.started()).catch(failed);
  idle.on("notification", wake);
  await idle.query("LISTEN job");
  await latencies(PEER, handler, () => client.query(ADD));
  idle.off("notification", wake);
  await idle.query("UNLISTEN job");

  const busy = async (what, total, most) => {
    await client.query("INSERT INTO job (state) SELECT 'ready' FROM generate_series(1, $1)", [total]);
    await client.query("ANALYZE");
    await drained(PEER, what, total, workers, (worker) => step(worker, most, () => {}));
  };
  await busy("take + complete, 8 workers, one job a call", SINGLE, 1);
  await busy("take + complete, 8 workers, 50 a call", BATCHED, BATCH);
  await Promise.all(workers.map((worker) => worker.end()));
});
