/** SEED.md's snippets run as they are written, against the real platform, and answer what SEED.md says. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Agent, Mi, MiError, Office } from "mi-sdk";
import { snippets } from "./generated/snippets.js";
import { Platform } from "./platform.js";

const ISO = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$/;

let platform: Platform | undefined;
let client: Mi;
let office: Office;

before(async () => {
  platform = await Platform.start();
  client = platform.client();
});
after(() => platform?.stop());

test("an office is created, listed, read", async () => {
  office = await snippets["create"](client, "");
  assert.match(office.id, UUID);
  assert.equal(office.name, "My Colony");
  assert.match(office.created_at, ISO);
  assert.equal(office.createdAt, office.created_at);
  office = await client.offices.waitFor(office.id);
  assert.equal(office.status, "active");

  assert.deepEqual(await snippets["get office"](client, office.id), office);
  const offices = await snippets["list offices"](client, office.id);
  assert.deepEqual(
    offices.filter(({ id }) => id === office.id),
    [office],
  );

  const status = await snippets["status"](client, office.id);
  assert.equal(status.status, "active");
  assert.deepEqual(status.agents, []);
  assert.equal(status.balance?.available, 10_000_000);
});

test("settings change what is given and nothing else", async () => {
  const before = await snippets["settings"](client, office.id);
  assert.equal(before.allowAgentHiring, false);
  assert.equal(before.idleFireAfter, 600);
  const settings = await client.offices.getSettings(office.id);
  assert.deepEqual(settings, { ...before, allowAgentHiring: true });
});

test("without a key for its provider nobody is hired", async () => {
  await assert.rejects(snippets["hire"](client, office.id), (error: MiError) => {
    assert.equal(error.code, "FAILED_PRECONDITION");
    assert.equal(error.reason, "INTEGRATION_NOT_CONFIGURED");
    assert.match(error.hint ?? "", /setSecret/);
    return true;
  });
  assert.deepEqual(await client.agents.list(office.id), []);
});

test("an agent is hired with provider, role and skills", async () => {
  await client.integrations.setSecret(office.id, "openai-codex", "api_key", "sk-test");
  await client.integrations.setSecret(office.id, "anthropic", "api_key", "sk-ant-test");
  await client.integrations.setSecret(office.id, "github", "token", "ghp_test");
  const agent: Agent = await snippets["hire"](client, office.id);
  assert.equal(agent.name, "analyst");
  assert.equal(agent.modelTier, "gpt-5.5");
  assert.equal(agent.provider, "openai-codex");
  assert.equal(agent.role, "research-analyst");
  assert.ok(agent.skills.includes("github"));
  assert.equal(agent.systemPrompt, "...");

  const running = await client.agents.waitFor(office.id, "analyst");
  assert.equal(running.status.phase, "Running");
  const integrations = await client.integrations.listForAgent(office.id, "analyst");
  const active = integrations.filter(({ enabled }) => enabled).map(({ name, status }) => [name, status]);
  assert.deepEqual(active.sort(), [
    ["github", "active"],
    ["openai-codex", "active"],
  ]);

  const agents = await snippets["list agents"](client, office.id);
  assert.equal(agents.length, 1);
  assert.equal(agents[0]?.status.phase, "Running");
  assert.equal(agents[0]?.employeeType, "process");
  const read = await snippets["get agent"](client, office.id);
  assert.equal(read.id, agent.id);
  assert.equal(read.modelTier, "gpt-5.5");
});

test("logs and activity are arrays of what happened", async () => {
  const logs = await snippets["logs"](client, office.id);
  assert.ok(Array.isArray(logs));
  for await (const { type } of client.activity.watch(office.id, { agent: "analyst", afterCursor: 0 })) {
    if (type === "agent.running") break;
  }
  const activity = await snippets["activity"](client, office.id);
  assert.ok(activity.every(({ agent, category }) => agent === "analyst" && category === "lifecycle"));
  const types = activity.map(({ type }) => type);
  assert.ok(types.includes("agent.hired") && types.includes("agent.running"), types.join());
  assert.match(activity[0]!.time, ISO);
});

test("an agent is promoted, and fired with a backup", async () => {
  await snippets["update model"](client, office.id);
  const promoted = await client.agents.waitFor(office.id, "analyst");
  assert.deepEqual([promoted.modelTier, promoted.provider], ["opus", "anthropic"]);

  await snippets["fire"](client, office.id);
  await client.agents.waitForGone(office.id, "analyst");
  const backups = await client.backups.list(office.id);
  assert.deepEqual(
    backups.map(({ agent }) => agent),
    ["analyst"],
  );
});

test("an office is deleted, and is gone", async () => {
  await snippets["delete"](client, office.id);
  await client.offices.waitForGone(office.id);
  await assert.rejects(client.offices.get(office.id), { name: "MiError", code: "NOT_FOUND" });
});
