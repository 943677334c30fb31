// One round of graphile-worker: as it comes, with 8 jobs at a time, and as its documentation makes it fastest.

import { Logger, makeWorkerUtils, run } from "graphile-worker";

import { BATCHED, SINGLE, WORKERS, counted, latencies, onFreshDatabase } from "./round.mjs";

const PEER = "graphile-worker";
const SINGLY = { concurrentJobs: WORKERS };
const FAST = {
  concurrentJobs: 24,
  maxPoolSize: 25,
  localQueue: { size: 500 },
  completeJobBatchDelay: 0,
  failJobBatchDelay: 0,
};

// Errors alone are worth a line.
const logger = new Logger(() => (level, message) => {
  if (level === "error") {
    console.error(message);
  }
});

await onFreshDatabase("graphile", async (client, url) => {
  const worker = (settings, handler) =>
    run({
      preset: { worker: { connectionString: url, logger, ...settings } },
      noHandleSignals: true,
      taskList: { job: async () => handler() },
    });
  const utils = await makeWorkerUtils({ connectionString: url, logger });
  await utils.migrate();

  const handler = {};
  const idle = await worker(SINGLY, () => handler.started());
  await latencies(PEER, handler, () => utils.addJob("job", {}));
  await idle.stop();

  const left = async () => (await client.query("SELECT count(*)::int FROM graphile_worker.jobs")).rows[0].count;
  const busy = async (what, total, settings) => {
    for (let first = 0; first < total; first += 500) {
      const length = Math.min(500, total - first);
      await utils.addJobs(Array.from({ length }, () => ({ identifier: "job", payload: {} })));
    }
    await client.query("ANALYZE");
    const { handler, done } = counted(PEER, what, total, left);
    const running = await worker(settings, handler);
    await done;
    await running.stop();
  };
  await busy("8 jobs at a time", SINGLE, SINGLY);
  await busy("24 at a time, a local queue of 500, completions batched", BATCHED, FAST);
  await utils.release();
});
