// Writes src/gen from the protocol; with --check says whether it is as it would be written.
import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const target = join(root, "src", "gen");

function files(folder) {
  if (!existsSync(folder)) return new Map();
  const found = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return new Map(
    found.map((entry) => {
      const path = join(entry.parentPath ?? entry.path, entry.name);
      return [relative(folder, path), readFileSync(path, "utf8")];
    }),
  );
}

const fresh = mkdtempSync(join(tmpdir(), "mi-sdk-gen-"));
try {
  const bin = join(root, "node_modules", ".bin");
  const env = { ...process.env, PATH: `${bin}${delimiter}${process.env.PATH}` };
  execFileSync(join(bin, "buf"), ["generate", "-o", fresh], { cwd: root, env, stdio: "inherit" });
  if (process.argv.includes("--check")) {
    const [is, should] = [files(target), files(fresh)];
    const names = new Set([...is.keys(), ...should.keys()]);
    const stale = [...names].filter((name) => is.get(name) !== should.get(name));
    if (stale.length > 0) {
      console.error(`src/gen is not what proto/mi/v1 says; run \`npm run generate\`:\n  ${stale.join("\n  ")}`);
      process.exitCode = 1;
    }
  } else {
    rmSync(target, { recursive: true, force: true });
    cpSync(fresh, target, { recursive: true });
  }
} finally {
  rmSync(fresh, { recursive: true, force: true });
}
