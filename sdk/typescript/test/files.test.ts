/** Files of every kind of source, ranges, conflicts and large ones, against the real platform. */
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
  colonyId = (await client.offices.create({ name: "Files" })).id;
});
after(() => platform?.stop());

const sha256 = (data: Uint8Array | string) => createHash("sha256").update(data).digest("hex");

test("each kind of source is written and read back", async () => {
  const text = "Grüße, 世界\n";
  const bytes = new TextEncoder().encode(text);
  const sources = {
    string: text,
    bytes,
    blob: new Blob([text]),
    stream: new Blob([text]).stream(),
    iterable: (async function* () {
      yield bytes.subarray(0, 3);
      yield new Uint8Array();
      yield bytes.subarray(3);
    })(),
  };
  for (const [name, source] of Object.entries(sources)) {
    const file = await client.files.upload(colonyId, `kinds/${name}`, source, { contentType: "text/plain" });
    assert.deepEqual([file.path, file.size, file.sha256], [`kinds/${name}`, bytes.length, sha256(bytes)]);
    assert.deepEqual([file.contentType, file.modifiedBy], ["text/plain", "operator"]);
    const download = await client.files.download(colonyId, file.path);
    assert.deepEqual(download.info, file);
    assert.equal(await download.text(), text);
    assert.deepEqual(await client.files.stat(colonyId, file.path), file);
  }
  const names = (await client.files.list(colonyId, { prefix: "kinds/" })).map(({ path }) => path);
  assert.deepEqual(
    names,
    Object.keys(sources)
      .map((name) => `kinds/${name}`)
      .sort(),
  );
});

test("an empty file is a file", async () => {
  const file = await client.files.upload(colonyId, "empty", "");
  assert.equal(file.size, 0);
  assert.equal((await (await client.files.download(colonyId, "empty")).bytes()).length, 0);
});

test("parts are read", async () => {
  await client.files.upload(colonyId, "digits", "0123456789");
  const part = async (options: { offset?: number; length?: number }) =>
    (await client.files.download(colonyId, "digits", options)).text();
  assert.equal(await part({ offset: 3 }), "3456789");
  assert.equal(await part({ offset: 3, length: 2 }), "34");
  assert.equal(await part({ length: 100 }), "0123456789");
  await assert.rejects(part({ length: 0 }), { code: "INVALID_ARGUMENT" });
});

test("what is there is replaced only by its revision or by force", async () => {
  const first = await client.files.upload(colonyId, "shared", "one");
  const conflict = (error: MiError) => {
    assert.deepEqual([error.code, error.reason], ["FAILED_PRECONDITION", "REVISION_CONFLICT"]);
    assert.match(error.hint ?? "", /ifRevision/);
    return true;
  };
  await assert.rejects(client.files.upload(colonyId, "shared", "two"), conflict);
  // The answer comes while there is more to send.
  await assert.rejects(client.files.upload(colonyId, "shared", new Uint8Array(40 * MIB)), conflict);
  await assert.rejects(
    client.files.upload(colonyId, "shared", new Blob([new Uint8Array(40 * MIB)]).stream()),
    conflict,
  );
  const second = await client.files.upload(colonyId, "shared", "two", { ifRevision: first.revision });
  await client.files.upload(colonyId, "shared", "three", { force: true });
  await assert.rejects(client.files.delete(colonyId, "shared", { ifRevision: second.revision }), conflict);
  await client.files.delete(colonyId, "shared", { force: true });
  const types = (await client.files.changes(colonyId)).filter(({ path }) => path === "shared").map(({ type }) => type);
  assert.deepEqual(types, ["created", "updated", "updated", "deleted"]);
});

test("changes are watched", async () => {
  const seen: string[] = [];
  const all = await client.files.changes(colonyId);
  await client.files.upload(colonyId, "watched", "x");
  for await (const change of client.files.watch(colonyId, { afterCursor: all.at(-1)!.cursor })) {
    seen.push(`${change.type} ${change.path}`);
    break;
  }
  assert.deepEqual(seen, ["created watched"]);
});

test("a large stream passes through little memory, both ways", async () => {
  const [pieces, piece] = [400, new Uint8Array(MIB)];
  const hash = createHash("sha256");
  const rssBefore = process.memoryUsage().rss;
  let peak = 0;
  const source = (async function* () {
    for (let index = 0; index < pieces; index++) {
      const next = piece.fill(index).slice();
      hash.update(next);
      peak = Math.max(peak, process.memoryUsage().rss);
      yield next;
    }
  })();
  const file = await client.files.upload(colonyId, "large", source);
  assert.deepEqual([file.size, file.sha256], [pieces * MIB, hash.digest("hex")]);
  const read = createHash("sha256");
  for await (const chunk of await client.files.download(colonyId, "large")) {
    read.update(chunk);
    peak = Math.max(peak, process.memoryUsage().rss);
  }
  assert.equal(read.digest("hex"), file.sha256);
  assert.ok(peak - rssBefore < 128 * MIB, `${Math.round((peak - rssBefore) / MIB)} MiB more`);
});

test("a download that is left ends", async () => {
  for await (const chunk of await client.files.download(colonyId, "large")) {
    assert.ok(chunk.length > 0);
    break;
  }
  const reader = (await client.files.download(colonyId, "large")).stream().getReader();
  await reader.read();
  await reader.cancel();
  const unread = await client.files.download(colonyId, "large");
  unread.cancel();
  await assert.rejects(unread.bytes(), { code: "CANCELLED" });
});

test("a source that fails leaves no file", async () => {
  const broken = (async function* () {
    yield new Uint8Array(10);
    throw new Error("the disk is gone");
  })();
  await assert.rejects(client.files.upload(colonyId, "never", broken), /the disk is gone/);
  await assert.rejects(client.files.stat(colonyId, "never"), { code: "NOT_FOUND" });
});
