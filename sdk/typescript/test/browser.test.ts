/** What browsers need: a bundle without anything of Node, and bodies that are no streams. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { after, before, test } from "node:test";
import { build } from "esbuild";
import { type Mi } from "mi-sdk";
import { Platform } from "./platform.js";

let platform: Platform | undefined;
let colonyId: string;
let client: Mi;
const bodies: unknown[] = [];

before(async () => {
  platform = await Platform.start();
  client = platform.client({
    fetch: (input, init) => {
      if (String(input).endsWith("/UploadFile")) bodies.push(init?.body);
      return fetch(input, init);
    },
  });
  colonyId = (await client.offices.create({ name: "Browser" })).id;
});
after(() => platform?.stop());

test("it bundles for browsers, with nothing of Node in it", async () => {
  const bundle = await build({
    entryPoints: [fileURLToPath(import.meta.resolve("mi-sdk"))],
    bundle: true,
    write: false,
    metafile: true,
    minify: true,
    format: "esm",
    platform: "browser",
    target: "es2022",
    logLevel: "silent",
  });
  assert.deepEqual(bundle.errors, []);
  assert.deepEqual(bundle.warnings, []);
  const outside = Object.values(bundle.metafile.outputs).flatMap(({ imports }) => imports);
  assert.deepEqual(outside, []);
  const foreign = Object.keys(bundle.metafile.inputs).filter(
    (path) =>
      !/^(dist\/|node_modules\/(@bufbuild\/protobuf|@connectrpc\/connect|@connectrpc\/connect-web)\/)/.test(path),
  );
  assert.deepEqual(foreign, []);
});

test("where pages are, a stream is sent as a Blob", async () => {
  const source = () => new Blob(["from a page"]).stream();
  await client.files.upload(colonyId, "node.txt", source());
  Object.assign(globalThis, { document: {} });
  try {
    const file = await client.files.upload(colonyId, "page.txt", source());
    assert.equal(file.size, 11);
    assert.equal(await (await client.files.download(colonyId, "page.txt")).text(), "from a page");
  } finally {
    Reflect.deleteProperty(globalThis, "document");
  }
  assert.deepEqual(
    bodies.map((body) => body instanceof Blob),
    [false, true],
  );
});
