/** The README's example runs as it stands. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { Platform } from "./platform.js";

test("the README's example prints the result and the log", async () => {
  const platform = await Platform.start();
  try {
    const example = fileURLToPath(new URL("generated/readme-0.js", import.meta.url));
    const env = { ...process.env, MI_ENDPOINT: platform.endpoint, MI_API_KEY: platform.apiKey };
    const { stdout } = await promisify(execFile)(process.execPath, [example], { env, timeout: 60_000 });
    assert.match(stdout, /exit code: 0[\s\S]*3\n/);
    assert.match(stdout, /attempt 1, "count"/);
    assert.match(stdout, /: done\n$/);
  } finally {
    await platform.stop();
  }
});
