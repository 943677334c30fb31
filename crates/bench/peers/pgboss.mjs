// One round of pg-boss: workers woken by the database, and 8 that fetch and complete.

import { PgBoss } from "pg-boss";

import { BATCH, BATCHED, SINGLE, WORKERS, drained, latencies, onFreshDatabase } from "./round.mjs";

const PEER = "pg-boss";

await onFreshDatabase("pgboss", async (client, url) => {
  const boss = new PgBoss({ connectionString: url, max: WORKERS, schedule: false, useListenNotify: true });
  boss.on("error", (error) => console.error(error));
  await boss.start();

  await boss.createQueue("idle", { notify: true });
  const handler = {};
  await boss.work("idle", async () => handler.started());
  await latencies(PEER, handler, () => boss.send("idle", {}));
  await boss.offWork("idle");

  const busy = async (what, total, batchSize) => {
    const queue = `by-${batchSize}`;
    await boss.createQueue(queue);
    for (let first = 0; first < total; first += 500) {
      await boss.insert(queue, Array.from({ length: Math.min(500, total - first) }, () => ({ data: {} })));
    }
    await client.query("ANALYZE");
    await drained(PEER, what, total, Array(WORKERS).fill(boss), async () => {
      const jobs = await boss.fetch(queue, { batchSize });
      if (jobs.length > 0) {
        await boss.complete(queue, jobs.map((job) => job.id));
      }
      return jobs.length;
    });
  };
  await busy("fetch + complete, 8 workers, one job a call", SINGLE, 1);
  await busy("fetch + complete, 8 workers, 50 a call", BATCHED, BATCH);
  await boss.stop({ graceful: false });
});
