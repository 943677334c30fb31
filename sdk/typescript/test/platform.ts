/** The real platform for tests: one process on free ports, with directories of its own. */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Mi, type MiOptions, type Protocol } from "mi-sdk";

/** The binary; by default the one that `cargo build` makes. */
export const MI_BIN = process.env["MI_BIN"] ?? fileURLToPath(new URL("../../../../target/debug/mi", import.meta.url));
/** What the tests speak; the client's default where it is not said. */
export const PROTOCOL = process.env["MI_TEST_PROTOCOL"] as Protocol | undefined;

const START_MS = 60_000;

/** What dies with this process, also when the runner ends it because a test hangs. */
const running = new Set<ChildProcess>();
process.once("exit", () => running.forEach((child) => child.kill("SIGKILL")));
process.once("SIGTERM", () => process.exit(1));

/** A platform that is running. */
export class Platform {
  private constructor(
    private readonly directory: string,
    private child: ChildProcess,
    /** Where it listens. */
    readonly endpoint: string,
    /** The administrator's key. */
    readonly apiKey: string,
  ) {}

  /** Starts one. */
  static async start(): Promise<Platform> {
    const directory = mkdtempSync(join(tmpdir(), "mi-sdk-test-"));
    const { child, ready } = await run(directory, "127.0.0.1:0");
    return new Platform(directory, child, ready.endpoint, ready.api_key);
  }

  /** A client of it. */
  client(options: MiOptions = {}): Mi {
    return new Mi({ endpoint: this.endpoint, apiKey: this.apiKey, protocol: PROTOCOL, ...options });
  }

  /** Ends it; {@link restart} brings it back. */
  async end(signal: NodeJS.Signals): Promise<void> {
    await ended(this.child, signal);
  }

  /** Starts it again where it was. */
  async restart(): Promise<void> {
    rmSync(join(this.directory, "ready.json"), { force: true });
    this.child = (await run(this.directory, new URL(this.endpoint).host)).child;
  }

  /** Ends it and removes what it left. */
  async stop(): Promise<void> {
    await ended(this.child, "SIGTERM");
    rmSync(this.directory, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
  }
}

async function run(directory: string, listen: string) {
  if (!existsSync(MI_BIN)) throw new Error(`${MI_BIN} is not there: build it, or name it in MI_BIN`);
  const file = join(directory, "ready.json");
  const args = ["up", "--data-dir", join(directory, "data"), "--config-dir", join(directory, "config")];
  args.push("--listen", listen, "--metrics-listen", "127.0.0.1:0", "--ready-file", file);
  const environment = Object.entries(process.env).filter(([name]) => !name.startsWith("MI_"));
  const child = spawn(MI_BIN, args, { env: Object.fromEntries(environment), stdio: ["ignore", "ignore", "pipe"] });
  running.add(child);
  child.once("exit", () => running.delete(child));
  let log = "";
  child.stderr?.on("data", (text: Buffer) => (log = (log + text).slice(-10_000)));
  const deadline = Date.now() + START_MS;
  while (!existsSync(file)) {
    if (child.exitCode !== null || Date.now() > deadline) {
      child.kill("SIGKILL");
      throw new Error(`the platform did not start:\n${log}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return { child, ready: JSON.parse(readFileSync(file, "utf8")) as { endpoint: string; api_key: string } };
}

async function ended(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  child.kill(signal);
  await exit;
}
