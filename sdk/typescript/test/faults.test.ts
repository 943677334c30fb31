/** Lost answers, broken connections, and a platform that dies: nothing is done twice, lost or doubled. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, before, test } from "node:test";
import { type Mi, type MiError } from "mi-sdk";
import { Platform } from "./platform.js";

const MIB = 1 << 20;

let platform: Platform | undefined;
let client: Mi;
let colonyId: string;

before(async () => {
  platform = await Platform.start();
  client = platform.client();
  colonyId = (await client.offices.create({ name: "Faults" })).id;
});
after(() => platform?.stop());

/** A client whose first answer of a call is lost after the platform gave it, and how often the call was sent. */
function losing(method: string) {
  const sent = { calls: 0 };
  const lossy: typeof fetch = async (input, init) => {
    const answer = await fetch(input, init);
    if (!String(input).endsWith(`/${method}`)) return answer;
    sent.calls += 1;
    if (sent.calls > 1) return answer;
    await answer.arrayBuffer();
    throw new TypeError("fetch failed", {
      cause: Object.assign(new Error("other side closed"), { code: "UND_ERR_SOCKET" }),
    });
  };
  return { sent, client: platform!.client({ fetch: lossy }) };
}

/** A client whose streams break again and again, after so many bytes each. */
function breaking(method: string, bytes: number) {
  const opened = { streams: 0 };
  const cutting: typeof fetch = async (input, init) => {
    const answer = await fetch(input, init);
    if (!String(input).endsWith(`/${method}`) || answer.body === null) return answer;
    opened.streams += 1;
    const reader = answer.body.getReader();
    let left = bytes;
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        if (left <= 0) {
          await reader.cancel();
          return controller.error(new TypeError("terminated"));
        }
        const { done, value } = await reader.read();
        if (done) return controller.close();
        controller.enqueue(value.subarray(0, left));
        left -= value.length;
      },
      cancel: (reason) => reader.cancel(reason),
    });
    return new Response(body, { status: answer.status, headers: answer.headers });
  };
  return { opened, client: platform!.client({ fetch: cutting }) };
}

test("a lost answer: the call is sent again, and done once", async () => {
  const create = losing("CreateTask");
  const task = await create.client.tasks.create(colonyId, { title: "lost", requiredTools: ["none"] });
  assert.equal(create.sent.calls, 2);
  const tasks = await client.tasks.list(colonyId);
  assert.deepEqual(
    tasks.filter(({ title }) => title === "lost").map(({ id }) => id),
    [task.id],
  );

  const batch = losing("BatchCreateTasks");
  const made = await batch.client.tasks.createMany(colonyId, [{ title: "b", requiredTools: ["none"] }]);
  assert.equal(batch.sent.calls, 2);
  const again = await client.tasks.list(colonyId);
  assert.deepEqual(
    again.filter(({ title }) => title === "b").map(({ id }) => id),
    [made[0]?.id],
  );

  const hire = losing("HireAgent");
  const agent = await hire.client.agents.hire(colonyId, { name: "worker" });
  assert.equal(hire.sent.calls, 2);
  assert.deepEqual(
    (await client.agents.list(colonyId)).map(({ id }) => id),
    [agent.id],
  );
});

test("a call that does something new each time is sent once", async () => {
  const key = losing("CreateApiKey");
  await assert.rejects(key.client.access.createApiKey("lost"), {
    code: "UNAVAILABLE",
    message: `the connection to ${platform!.endpoint} broke: other side closed`,
  });
  assert.equal(key.sent.calls, 1);
  assert.equal((await client.access.listApiKeys()).filter(({ name }) => name === "lost").length, 1);
});

test("an upload whose answer is lost is there once; one of a stream is not sent again", async () => {
  const upload = losing("UploadFile");
  const file = await upload.client.files.upload(colonyId, "lost.bin", new Uint8Array(MIB));
  assert.equal(upload.sent.calls, 2);
  assert.deepEqual(await client.files.stat(colonyId, "lost.bin"), file);
  const changes = await client.files.changes(colonyId);
  assert.equal(changes.filter(({ path }) => path === "lost.bin").length, 1);

  const stream = losing("UploadFile");
  const source = new Blob(["once"]).stream();
  await assert.rejects(stream.client.files.upload(colonyId, "stream.bin", source), { code: "UNAVAILABLE" });
  assert.equal(stream.sent.calls, 1);
});

test("a download goes on where it broke", async () => {
  const content = new Uint8Array(4 * MIB).map((_, index) => (index * 31) >> 8);
  const file = await client.files.upload(colonyId, "large.bin", content);
  const { opened, client: broken } = breaking("DownloadFile", MIB + 1000);
  const read = await (await broken.files.download(colonyId, "large.bin", { offset: 5 })).bytes();
  assert.ok(opened.streams > 2, `${opened.streams} streams`);
  const sha256 = (data: Uint8Array) => createHash("sha256").update(data).digest("hex");
  assert.equal(sha256(read), sha256(content.subarray(5)));
  assert.equal(sha256(content), file.sha256);
});

test("a download of what is replaced meanwhile fails", async () => {
  const { client: broken } = breaking("DownloadFile", MIB);
  const download = await broken.files.download(colonyId, "large.bin");
  await client.files.upload(colonyId, "large.bin", new Uint8Array(4 * MIB), { force: true });
  await assert.rejects(download.bytes(), (error: MiError) => {
    assert.equal(error.code, "ABORTED");
    return true;
  });
});

test("watches go on where they broke: nothing lost, nothing doubled", async () => {
  const numbers = Array.from({ length: 6 }, (_, index) => String(index));
  for (const number of numbers) {
    await client.chat.send(colonyId, number);
    await client.tasks.create(colonyId, { title: `n${number}`, requiredTools: ["none"] });
  }
  const chat = breaking("WatchMessages", 300);
  const bodies: string[] = [];
  for await (const { body } of chat.client.chat.watch(colonyId, { afterId: "" })) {
    bodies.push(body);
    if (body === "5") break;
  }
  assert.deepEqual(bodies, numbers);
  assert.ok(chat.opened.streams > 1);

  const tasks = breaking("WatchTasks", 600);
  const titles: string[] = [];
  for await (const { task } of tasks.client.tasks.watch(colonyId, { afterCursor: 0 })) {
    if (task.title.startsWith("n")) titles.push(task.title);
    if (task.title === "n5") break;
  }
  assert.deepEqual(
    titles,
    numbers.map((number) => `n${number}`),
  );
  assert.ok(tasks.opened.streams > 1);

  const feed = breaking("WatchActivity", 1000);
  const all = (await client.activity.list(colonyId, { limit: 1000 })).map(({ cursor }) => cursor).sort((a, b) => a - b);
  const cursors: number[] = [];
  for await (const { cursor } of feed.client.activity.watch(colonyId, { afterCursor: 0 })) {
    cursors.push(cursor);
    if (cursor === all.at(-1)) break;
  }
  assert.deepEqual(cursors, all);
  assert.ok(feed.opened.streams > 1);

  await client.agents.waitFor(colonyId, "worker");
  await client.tasks.run(colonyId, { title: "say", kind: "command", description: "seq 20" });
  const logs = breaking("TailLogs", 300);
  const sequences: number[] = [];
  for await (const { sequence } of logs.client.logs.tail(colonyId, "worker", { afterSequence: 0 })) {
    sequences.push(sequence);
    if (sequence === 20) break;
  }
  assert.deepEqual(
    sequences,
    Array.from({ length: 20 }, (_, index) => index + 1),
  );
  assert.ok(logs.opened.streams > 1);
});

for (const signal of ["SIGKILL", "SIGTERM"] as const) {
  test(`a watch outlives a platform that ends by ${signal}`, async () => {
    const { cursor } = (await client.files.changes(colonyId)).at(-1)!;
    const changes = client.files.watch(colonyId, { afterCursor: cursor });
    await client.files.upload(colonyId, `before ${signal}`, "x");
    assert.equal((await changes.next()).value?.path, `before ${signal}`);
    const next = changes.next();
    await platform!.end(signal);
    await platform!.restart();
    await client.files.upload(colonyId, `after ${signal}`, "x");
    assert.equal((await next).value?.path, `after ${signal}`);
    await changes.return();
  });
}

test("a watch of what is deleted ends", async () => {
  const { id } = await client.offices.create({ name: "Short" });
  const watching = async () => {
    for await (const event of client.activity.watch(id)) assert.ok(event.cursor);
  };
  const ended = assert.rejects(watching(), { code: "NOT_FOUND" });
  await client.offices.delete(id);
  await ended;
});

test("a caller gives up, and is not kept", async () => {
  const end = new AbortController();
  const events: unknown[] = [];
  const watching = (async () => {
    for await (const event of client.activity.watch(colonyId, { signal: end.signal })) events.push(event);
  })();
  setTimeout(() => end.abort(), 100);
  await watching;

  const gone = AbortSignal.abort();
  await assert.rejects(client.offices.list({ signal: gone }), { code: "CANCELLED" });
  await assert.rejects(client.agents.waitFor(colonyId, "worker", { signal: gone }), { code: "CANCELLED" });
  await assert.rejects(client.agents.waitFor(colonyId, "worker", { phase: "Failed", timeoutMs: 100 }), {
    code: "DEADLINE_EXCEEDED",
    message: "waited 0.1 s for agent worker to be Failed",
  });
  const task = await client.tasks.create(colonyId, { title: "never", requiredTools: ["none"] });
  await assert.rejects(client.tasks.waitFor(colonyId, task.id, { timeoutMs: 100 }), { code: "DEADLINE_EXCEEDED" });
});

test("a call that takes too long ends", async () => {
  const slow: typeof fetch = (_input, init) =>
    new Promise((_resolve, reject) => init?.signal?.addEventListener("abort", () => reject(init.signal!.reason)));
  const error = await platform!
    .client({ fetch: slow, timeoutMs: 50 })
    .offices.list()
    .then(
      () => undefined,
      (error: MiError) => error,
    );
  assert.equal(error?.code, "DEADLINE_EXCEEDED");
});
