/** What errors tell, and what is refused before it is sent. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Code, ConnectError, createRouterTransport } from "@connectrpc/connect";
import { create, toBinary } from "@bufbuild/protobuf";
import { DurationSchema } from "@bufbuild/protobuf/wkt";
import { Mi, MiError } from "mi-sdk";
import { OfficeService } from "mi-sdk/proto";
import { Platform } from "./platform.js";

let platform: Platform | undefined;
let client: Mi;

before(async () => {
  platform = await Platform.start();
  client = platform.client();
});
after(() => platform?.stop());

/** What a call fails with. */
async function failure(call: Promise<unknown>): Promise<MiError> {
  const error = await call.then(
    () => assert.fail("it did not fail"),
    (error: unknown) => error,
  );
  assert.ok(error instanceof MiError, String(error));
  return error;
}

test("a refused field is named, with what would be right", async () => {
  const error = await failure(client.offices.create({ name: "" }));
  assert.deepEqual([error.code, error.reason], ["INVALID_ARGUMENT", "INVALID_ARGUMENT"]);
  assert.deepEqual(error.fields, [{ field: "name", description: error.message }]);
});

test("what is missing is named", async () => {
  const { id } = await client.offices.create({ name: "Errors" });
  const error = await failure(client.agents.get(id, "nobody"));
  assert.equal(error.code, "NOT_FOUND");
  assert.deepEqual(error.resource, { type: "agent", name: "nobody" });
  assert.equal((await failure(client.agents.waitFor(id, "nobody"))).code, "NOT_FOUND");
  assert.equal((await failure(client.tasks.waitFor(id, id))).code, "NOT_FOUND");
  await assert.rejects(client.files.download(id, "nothing"), { name: "MiError", code: "NOT_FOUND" });
  await assert.rejects(client.activity.watch(crypto.randomUUID()).next(), { name: "MiError", code: "NOT_FOUND" });
});

test("a wrong key, and one that no key can be", async () => {
  const wrong = await failure(platform!.client({ apiKey: "mi_wrong" }).offices.list());
  assert.equal(wrong.code, "UNAUTHENTICATED");
  assert.match(wrong.hint ?? "", /MI_API_KEY/);
  const broken = await failure(platform!.client({ apiKey: "mi_a\nb" }).offices.list());
  assert.equal(broken.code, "UNAUTHENTICATED");
  assert.ok(!broken.message.includes("mi_a"));
});

test("what a message does not know is refused before it is sent", async () => {
  const strange = { name: "x", modelTeir: "opus" };
  const error = await failure(client.agents.hire("o", strange));
  assert.equal(error.code, "INVALID_ARGUMENT");
  assert.deepEqual(
    error.fields.map(({ field }) => field),
    ["modelTeir"],
  );
  assert.match(error.message, /known are .*modelTier/);
  const cases: [Promise<unknown>, RegExp][] = [
    [client.tasks.create("o", { title: "x", kind: "cooking" as "code" }), /kind must be one of general, code/],
    [client.tasks.create("o", { title: "x", priority: 1.5 }), /priority must be a whole number/],
    [client.tasks.create("o", { title: 7 as unknown as string }), /title must be a string/],
    [client.tasks.create("o", { title: "x", dependsOn: "y" as unknown as string[] }), /dependsOn must be an array/],
    [client.credits.grant("o", { amount: 2 ** 53, reason: "x" }), /amount must be a whole number below 2\^53/],
    [
      client.offices.updateSettings("o", { idleFireAfter: "10m" as unknown as number }),
      /settings.idleFireAfter must be a number of seconds/,
    ],
    [client.offices.updateSettings("o", { maxAgent: 3 } as object), /settings.maxAgent is not known here/],
    [client.activity.list("o", { startTime: "soon" }), /startTime must be a Date/],
  ];
  for (const [call, message] of cases) assert.match((await failure(call)).message, message);
});

test("an endpoint that is none is refused at once", () => {
  assert.throws(() => new Mi({ endpoint: "localhost" }), { name: "MiError", code: "INVALID_ARGUMENT" });
  assert.throws(() => new Mi({ endpoint: "grpc://localhost:1" }), /must start with http/);
  assert.equal(new Mi({ endpoint: "http://127.0.0.1:1//" }).endpoint, "http://127.0.0.1:1");
});

test("the environment says where and who", async () => {
  process.env["MI_ENDPOINT"] = platform!.endpoint;
  process.env["MI_API_KEY"] = platform!.apiKey;
  try {
    const made = new Mi({ protocol: (process.env["MI_TEST_PROTOCOL"] as "grpc-web") || undefined });
    assert.equal(made.endpoint, platform!.endpoint);
    assert.equal((await made.access.whoAmI()).principal.kind, "administrator");
  } finally {
    delete process.env["MI_ENDPOINT"];
    delete process.env["MI_API_KEY"];
  }
});

test("nobody there: it is tried a few times, and said what to do", async () => {
  let tries = 0;
  const counting: typeof fetch = (...call) => {
    tries += 1;
    return fetch(...call);
  };
  // Port 1 of this machine: nobody listens there.
  const error = await failure(new Mi({ endpoint: "http://127.0.0.1:1", fetch: counting }).offices.list());
  assert.equal(error.code, "UNAVAILABLE");
  assert.match(error.message, /cannot be reached at http:\/\/127.0.0.1:1: /);
  assert.match(error.hint ?? "", /mi up/);
  assert.equal(tries, 4);
});

/** A platform that is always busy, and asks to wait; with the times at which it was called. */
function busy(seconds: number) {
  const calls: number[] = [];
  const transport = createRouterTransport(({ service }) => {
    service(OfficeService, {
      getOffice() {
        calls.push(Date.now());
        const error = new ConnectError("busy", Code.Unavailable);
        const wait = toBinary(DurationSchema, create(DurationSchema, durationOf(seconds)));
        // RetryInfo has the wait as its field 1.
        error.details.push({ type: "google.rpc.RetryInfo", value: new Uint8Array([0x0a, wait.length, ...wait]) });
        throw error;
      },
    });
  });
  return { calls, client: new Mi({ transport, apiKey: "k" }) };
}

const durationOf = (seconds: number) => ({
  seconds: BigInt(Math.trunc(seconds)),
  nanos: Math.round((seconds % 1) * 1e9),
});

test("a wait that the platform asks for is kept to, unless it is long", async () => {
  const soon = busy(0.2);
  const error = await failure(soon.client.offices.get("o"));
  assert.deepEqual([error.message, error.retryAfter], ["busy", 0.2]);
  const gaps = soon.calls.slice(1).map((at, index) => at - soon.calls[index]!);
  assert.equal(gaps.length, 3);
  assert.ok(
    gaps.every((gap) => gap >= 199),
    gaps.join(),
  );

  const late = busy(60);
  assert.equal((await failure(late.client.offices.get("o"))).retryAfter, 60);
  assert.equal(late.calls.length, 1);
});
