/** The client over the Connect protocol, against a server of `@connectrpc/connect-node`. */
import assert from "node:assert/strict";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, type ConnectRouter } from "@connectrpc/connect";
import { connectNodeAdapter, createConnectTransport } from "@connectrpc/connect-node";
import { Mi } from "mi-sdk";
import { ChatService, DriveService, FileSchema, OfficeService, OfficeStatus } from "mi-sdk/proto";

/** Longer than any limit below it takes to notice: Node looks once a second. */
const SILENCE_MS = 3000;
const silence = () => new Promise((resolve) => setTimeout(resolve, SILENCE_MS));

let server: Server;
let endpoint: string;
let streams = 0;
const masks: string[][] = [];
const ids: string[] = [];
const keys: (string | null)[] = [];

function routes({ service }: ConnectRouter): void {
  service(OfficeService, {
    createOffice({ name, requestId }, { requestHeader }) {
      ids.push(requestId);
      keys.push(requestHeader.get("authorization"));
      if (ids.length === 1) throw new ConnectError("not yet", Code.Unavailable);
      return { office: { id: "o1", name, status: OfficeStatus.ACTIVE } };
    },
    updateOfficeSettings({ settings, updateMask }) {
      masks.push(updateMask?.paths ?? []);
      return { settings };
    },
    getOffice() {
      throw new ConnectError("office not found", Code.NotFound);
    },
  });
  service(DriveService, {
    async uploadFile(parts) {
      let file = create(FileSchema);
      for await (const { part } of parts) {
        if (part.case === "header") file = create(FileSchema, { path: part.value.path });
        if (part.case === "chunk") file.size += BigInt(part.value.length);
      }
      return { file };
    },
    statFile() {
      throw new ConnectError("file not found", Code.NotFound);
    },
    async *downloadFile() {
      yield { file: { path: "p", size: 6n }, chunk: new Uint8Array([1, 2, 3]) };
      yield { chunk: new Uint8Array([4, 5, 6]) };
    },
  });
  service(ChatService, {
    // Breaks after each message, and goes on after the last one that was seen.
    async *watchMessages({ officeId, afterId }) {
      if (officeId === "quiet") {
        streams += 1;
        await silence();
        yield { message: { id: "1", body: "one" } };
        await silence();
        yield { message: { id: "2", body: "two" } };
        return;
      }
      const id = String(Number(afterId || "0") + 1);
      yield { message: { id, body: `message ${id}` } };
      throw new ConnectError("going away", Code.Unavailable);
    },
  });
}

before(async () => {
  server = createServer(connectNodeAdapter({ routes }));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
after(() => {
  server.closeAllConnections();
  server.close();
});

test("a call carries the key, and the same id each time", async () => {
  const office = await new Mi({ endpoint, apiKey: "mi_key" }).offices.create({ name: "Mine" });
  assert.deepEqual([office.id, office.name, office.status], ["o1", "Mine", "active"]);
  assert.equal(ids.length, 2);
  assert.match(ids[0]!, /^[0-9a-f-]{36}$/);
  assert.equal(ids[0], ids[1]);
  assert.deepEqual(keys, ["Bearer mi_key", "Bearer mi_key"]);
});

test("an error keeps its code", async () => {
  const client = new Mi({ endpoint, apiKey: "k" });
  await assert.rejects(client.offices.get("x"), { name: "MiError", code: "NOT_FOUND", message: "office not found" });
});

test("a change names what it gives, as the protocol spells it", async () => {
  const client = new Mi({ endpoint, apiKey: "k" });
  const change = { allowAgentHiring: true, idleFireAfter: 90.5, hiresPer10Minutes: 1, maxAgents: undefined };
  const settings = await client.offices.updateSettings("o", change);
  assert.deepEqual(masks, [["allow_agent_hiring", "idle_fire_after", "hires_per_10_minutes"]]);
  assert.deepEqual([settings.allowAgentHiring, settings.idleFireAfter, settings.hiresPer10Minutes], [true, 90.5, 1]);
});

for (const [name, transport] of [
  ["fetch", undefined],
  ["a transport of connect-node", () => createConnectTransport({ baseUrl: endpoint, httpVersion: "1.1" })],
] as const) {
  test(`files go both ways, by ${name}`, async () => {
    const client = new Mi({ endpoint, apiKey: "k", transport: transport?.() });
    for (const source of [new Uint8Array(600_000), new Blob([new Uint8Array(600_000)]).stream()]) {
      const file = await client.files.upload("o", "up", source, { requestId: "r", force: true });
      assert.deepEqual([file.path, file.size], ["up", 600_000]);
    }
    const bytes = await (await client.files.download("o", "p")).bytes();
    assert.deepEqual([...bytes], [1, 2, 3, 4, 5, 6]);
  });
}

test("a watch goes on after what it has seen", async () => {
  const bodies: string[] = [];
  for await (const { body } of new Mi({ endpoint, apiKey: "k" }).chat.watch("o")) {
    bodies.push(body);
    if (bodies.length === 3) break;
  }
  assert.deepEqual(bodies, ["message 1", "message 2", "message 3"]);
});

test("a quiet stream is not ended by the runtime's limit", async () => {
  const place = Symbol.for("undici.globalDispatcher.1");
  const holder = globalThis as unknown as Record<symbol, { dispatch(options: object, handler: object): unknown }>;
  const own = holder[place]!;
  const limits = { headersTimeout: 100, bodyTimeout: 100 };
  holder[place] = { dispatch: (options, handler) => own.dispatch({ ...limits, ...options }, handler) };
  try {
    const bodies: string[] = [];
    for await (const { body } of new Mi({ endpoint, apiKey: "k" }).chat.watch("quiet")) bodies.push(body);
    assert.deepEqual(bodies, ["one", "two"]);
    assert.equal(streams, 1);
  } finally {
    holder[place] = own;
  }
});
