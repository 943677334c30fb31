/** Tasks, files, chat, credits, logs, activity and access against the real platform. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { CREDIT, type Mi, MiError, type Task } from "mi-sdk";
import { OfficeService } from "mi-sdk/proto";
import { Platform } from "./platform.js";

let platform: Platform | undefined;
let client: Mi;
let colonyId: string;

before(async () => {
  platform = await Platform.start();
  client = platform.client();
  colonyId = (await client.offices.create({ name: "Work" })).id;
  await client.agents.hire(colonyId, { name: "worker" });
  await client.agents.waitFor(colonyId, "worker");
});
after(() => platform?.stop());

test("a command task is run by an agent and answers its output", async () => {
  const task = await client.tasks.run(colonyId, { title: "hello", kind: "command", description: "echo hello" });
  assert.equal(task.status, "done");
  assert.match(task.result, /hello/);
  assert.deepEqual([task.kind, task.priority, task.worker, task.createdBy], ["command", 50, "worker", "operator"]);
  assert.ok(task.receiptPublicKey instanceof Uint8Array && task.receiptPublicKey.length === 32);
  // Plain all the way down: what JSON cannot hold would throw here.
  assert.equal(JSON.parse(JSON.stringify(task)).id, task.id);
  assert.deepEqual(await client.tasks.get(colonyId, task.id), task);
});

test("a task that fails says why", async () => {
  const input = { title: "bad", kind: "command", description: "exit 3", maxAttempts: 1 } as const;
  await assert.rejects(client.tasks.run(colonyId, input), (error: MiError) => {
    assert.equal(error.reason, "TASK_FAILED");
    assert.match(error.message, /exit code: 3/);
    return true;
  });
  const failed = await client.tasks.list(colonyId, { statuses: ["failed"] });
  assert.deepEqual(
    failed.map(({ title }) => title),
    ["bad"],
  );
});

test("a wait that takes too long says what holds the task up", async () => {
  const input = { title: "stuck", requiredTools: ["no-such-tool"] };
  await assert.rejects(client.tasks.run(colonyId, input, { timeoutMs: 300 }), (error: MiError) => {
    assert.equal(error.code, "DEADLINE_EXCEEDED");
    assert.match(error.message, /which is blocked: .*no-such-tool/);
    return true;
  });
  const [stuck] = await client.tasks.list(colonyId, { statuses: ["blocked"] });
  await client.tasks.cancel(colonyId, stuck?.id ?? "");
});

test("tasks of a batch depend on each other; lists read all pages or so many", async () => {
  const inputs = Array.from({ length: 205 }, (_, index) => ({
    title: `t${index}`,
    assignedAgent: "worker",
    requiredTools: ["no-such-tool"],
    dependsOn: index === 0 ? [] : ["#0"],
  }));
  const tasks = await client.tasks.createMany(colonyId, inputs);
  assert.deepEqual(
    tasks.map(({ title }) => title),
    inputs.map(({ title }) => title),
  );
  assert.deepEqual(tasks[204]?.dependsOn, [tasks[0]?.id]);
  const blocked = await client.tasks.list(colonyId, { statuses: ["blocked"] });
  assert.deepEqual(new Set(blocked.map(({ id }) => id)), new Set(tasks.map(({ id }) => id)));
  assert.equal((await client.tasks.list(colonyId, { limit: 3 })).length, 3);
  await assert.rejects(client.tasks.list(colonyId, { limit: 0 }), { code: "INVALID_ARGUMENT" });
  const cancelled = await client.tasks.cancel(colonyId, tasks[0]!.id, { reason: "enough" });
  assert.equal(cancelled.status, "cancelled");
  assert.equal((await client.tasks.retry(colonyId, tasks[0]!.id)).status, "blocked");
  const stats = await client.tasks.stats(colonyId);
  assert.equal(stats.counts.find(({ status }) => status === "blocked")?.count, 205);
});

test("an operator claims, renews, completes; a lost lease is told", async () => {
  const made = await client.tasks.create(colonyId, { title: "by hand", kind: "research" });
  const [task] = await client.tasks.claim(colonyId, { kinds: ["research"], lease: 60, wait: 1 });
  assert.equal(task?.id, made.id);
  const leaseId = task!.leaseId;
  await client.tasks.renew(colonyId, made.id, leaseId, { lease: 120 });
  const note = await client.tasks.addNote(colonyId, made.id, "half way");
  assert.deepEqual(await client.tasks.notes(colonyId, made.id), [note]);
  await assert.rejects(client.tasks.complete(colonyId, made.id, { leaseId: made.id, result: "x" }), {
    code: "ABORTED",
    reason: "LEASE_LOST",
  });
  const done = await client.tasks.complete(colonyId, made.id, { leaseId, result: "found" });
  assert.deepEqual([done.status, done.result, done.worker], ["done", "found", "operator"]);
  assert.deepEqual(await client.tasks.claim(colonyId, { kinds: ["review"] }), []);
});

test("the same request id makes one task", async () => {
  const input = { title: "once", requiredTools: ["none"], requestId: "r1" };
  const [one, two] = [await client.tasks.create(colonyId, input), await client.tasks.create(colonyId, input)];
  assert.equal(one.id, two.id);
});

test("tasks are watched as they change", async () => {
  const seen: Task["status"][] = [];
  const task = await client.tasks.create(colonyId, { title: "w", kind: "command", description: "true" });
  for await (const { task: now, cursor } of client.tasks.watch(colonyId, { taskId: task.id, afterCursor: 0 })) {
    assert.equal(now.id, task.id);
    assert.ok(cursor > 0);
    seen.push(now.status);
    if (now.status === "done") break;
  }
  assert.equal(seen.at(-1), "done");
});

test("an agent's logs are listed and tailed", async () => {
  await client.tasks.run(colonyId, { title: "log", kind: "command", description: "echo one; echo two" });
  const lines: string[] = [];
  for await (const { stream, text } of client.logs.tail(colonyId, "worker", { limit: 1000 })) {
    if (stream === "stdout") lines.push(text.replace(/^task \S+: /, ""));
    if (lines.at(-1) === "two") break;
  }
  assert.deepEqual(lines.slice(-2), ["one", "two"]);
  const [last] = await client.agents.logs(colonyId, "worker", { limit: 1 });
  assert.ok(last!.sequence > 1 && ["stdout", "stderr", "agent"].includes(last!.stream));
});

test("activity is watched from now on", async () => {
  const events = client.activity.watch(colonyId, { category: "chat, file" });
  const next = events.next();
  await client.files.upload(colonyId, "seen.txt", "x");
  const { value } = await next;
  assert.ok(value);
  assert.deepEqual([value.category, value.agent], ["file", ""]);
  assert.deepEqual((await client.activity.list(colonyId, { limit: 1, category: "file" }))[0], value);
  await events.return();
});

test("messages are sent, listed and watched", async () => {
  const first = await client.chat.send(colonyId, "hello all");
  await client.chat.send(colonyId, "and you");
  const bodies: string[] = [];
  for await (const message of client.chat.watch(colonyId, { afterId: "" })) {
    bodies.push(message.body);
    if (bodies.length === 2) break;
  }
  assert.deepEqual(bodies, ["hello all", "and you"]);
  assert.deepEqual((await client.chat.list(colonyId)).at(-1), first);
  assert.deepEqual(
    (await client.chat.list(colonyId, { limit: 1 })).map(({ body }) => body),
    ["and you"],
  );
});

test("credits are granted, and explained by the ledger", async () => {
  const before = await client.credits.balance(colonyId);
  const entry = await client.credits.grant(colonyId, { amount: 5 * CREDIT, reason: "test" });
  assert.equal(entry.amount, 5_000_000);
  const ledger = await client.credits.ledger(colonyId);
  assert.deepEqual(
    ledger.find(({ id }) => id === entry.id),
    entry,
  );
  assert.ok((await client.credits.balance(colonyId)).balance > before.balance);
  assert.ok(Array.isArray(await client.credits.usage(colonyId, { groupBy: "agent" })));
  assert.equal((await client.credits.setAgentBudget(colonyId, "worker", 7)).budget, 7);
  assert.equal((await client.credits.setAgentBudget(colonyId, "worker", undefined)).budget, undefined);
});

test("integrations are configured, enabled and disabled", async () => {
  await client.integrations.setSecret(colonyId, "github", "token", "t");
  const enabled = await client.integrations.enable(colonyId, "worker", "github");
  assert.deepEqual([enabled.enabled, enabled.status], [true, "active"]);
  const github = (await client.integrations.list(colonyId)).find(({ name }) => name === "github");
  assert.deepEqual([github?.status, github?.configured], ["active", true]);
  assert.equal((await client.integrations.disable(colonyId, "worker", "github")).enabled, false);
  assert.equal((await client.integrations.deleteSecret(colonyId, "github", "token")).configured, false);
});

test("an agent is changed, stopped, started, replaced; its backup is read and hired from", async () => {
  const updated = await client.agents.update(colonyId, "worker", { systemPrompt: "be brief", env: { A: "b" } });
  assert.deepEqual([updated.systemPrompt, updated.env], ["be brief", { A: "b" }]);
  await client.agents.stop(colonyId, "worker");
  assert.equal((await client.agents.waitFor(colonyId, "worker", { phase: "Stopped" })).status.phase, "Stopped");
  await client.agents.start(colonyId, "worker");
  await client.agents.waitFor(colonyId, "worker");
  await client.tasks.run(colonyId, { title: "keep", kind: "command", description: "echo kept > kept.txt" });
  await client.agents.fire(colonyId, "worker");
  await client.agents.waitForGone(colonyId, "worker");

  const [backup] = await client.backups.list(colonyId);
  const download = await client.backups.download(colonyId, backup!.id);
  assert.deepEqual(download.info, backup);
  const bytes = await download.bytes();
  assert.deepEqual([...bytes.subarray(0, 4)], [0x28, 0xb5, 0x2f, 0xfd], "zstd");
  assert.equal(
    Buffer.from(await crypto.subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>)).toString("hex"),
    backup!.sha256,
  );

  await client.agents.hire(colonyId, { name: "heir", restoreFromBackup: backup!.id });
  const task = await client.tasks.run(colonyId, { title: "read", kind: "command", description: "cat kept.txt" });
  assert.match(task.result, /kept/);
  await client.backups.delete(colonyId, backup!.id);
  assert.deepEqual(await client.backups.list(colonyId), []);
});

test("another account sees nothing of the office, and has its own keys", async () => {
  const { principal } = await client.access.whoAmI();
  assert.equal(principal.kind, "administrator");
  const { account, secret } = await client.access.createAccount("Other");
  const other = platform!.client({ apiKey: async () => secret });
  assert.deepEqual(await other.offices.list(), []);
  await assert.rejects(other.offices.get(colonyId), { code: "NOT_FOUND" });
  const made = await other.access.createApiKey("second");
  const keys = await other.access.listApiKeys();
  assert.ok(keys.some(({ id }) => id === made.apiKey.id) && keys.every(({ accountId }) => accountId === account.id));
  await other.access.revokeApiKey(made.apiKey.id);
  assert.match((await client.access.createInvite(colonyId)).code, /^[A-HJ-NP-Z2-9]{6}$/);
});

test("what the resources do not have is called by the protocol itself", async () => {
  const { checks } = await client.rpc(OfficeService).verifyOffice({ officeId: colonyId });
  assert.ok(checks.length > 0);
});

test("an office is suspended and resumed", async () => {
  assert.equal((await client.offices.suspend(colonyId)).status, "suspended");
  await assert.rejects(client.agents.hire(colonyId, { name: "late" }), { reason: "OFFICE_NOT_ACTIVE" });
  assert.equal((await client.offices.resume(colonyId)).status, "active");
});
