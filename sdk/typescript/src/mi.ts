/** The client. */
import type { DescService } from "@bufbuild/protobuf";
import { type Client, createClient, type Transport } from "@connectrpc/connect";
import { Core } from "./core.js";
import { Access } from "./resources/access.js";
import { Activity } from "./resources/activity.js";
import { Agents } from "./resources/agents.js";
import { Backups } from "./resources/backups.js";
import { Chat } from "./resources/chat.js";
import { Credits } from "./resources/credits.js";
import { Files } from "./resources/files.js";
import { Integrations } from "./resources/integrations.js";
import { Logs } from "./resources/logs.js";
import { Offices } from "./resources/offices.js";
import { Tasks } from "./resources/tasks.js";
import { MiError } from "./errors.js";
import { type ApiKey, authorized, patientFetch, type Protocol, transport, uploading } from "./wire.js";

/** How a client is made. Everything has a default. */
export interface MiOptions {
  /** Where the platform listens. Default: MI_ENDPOINT, else http://127.0.0.1:7400. */
  endpoint?: string;
  /** An API key, or a function that answers one for each call. Default: MI_API_KEY. */
  apiKey?: ApiKey;
  /** How long one try of a call may take. Default: 30,000. */
  timeoutMs?: number;
  /** What is spoken over HTTP. Default: Connect. */
  protocol?: Protocol;
  /** The `fetch` to use instead of the runtime's. */
  fetch?: typeof globalThis.fetch;
  /** A transport of Connect to use instead of `fetch`, such as one of `@connectrpc/connect-node`. */
  transport?: Transport;
}

const DEFAULT_ENDPOINT = "http://127.0.0.1:7400";
const DEFAULT_TIMEOUT_MS = 30_000;

/** One platform, as one caller. Cheap to make, and holds nothing that has to be closed. */
export class Mi {
  /** Where the platform listens. */
  readonly endpoint: string;
  /** Offices. */
  readonly offices: Offices;
  /** Agents. */
  readonly agents: Agents;
  /** Logs of agents. */
  readonly logs: Logs;
  /** The activity feed. */
  readonly activity: Activity;
  /** Tasks. */
  readonly tasks: Tasks;
  /** The drive. */
  readonly files: Files;
  /** Chat. */
  readonly chat: Chat;
  /** Integrations and their secrets. */
  readonly integrations: Integrations;
  /** Credits and their ledger. */
  readonly credits: Credits;
  /** Backups of agents. */
  readonly backups: Backups;
  /** Accounts, API keys and invites. */
  readonly access: Access;
  private readonly transport: Transport;

  constructor(options: MiOptions = {}) {
    this.endpoint = checked(options.endpoint ?? environment("MI_ENDPOINT") ?? DEFAULT_ENDPOINT);
    const apiKey = options.apiKey ?? environment("MI_API_KEY");
    const fetch = options.fetch ?? patientFetch;
    const protocol = options.protocol ?? "connect";
    this.transport = authorized(options.transport ?? transport(this.endpoint, protocol, fetch), apiKey);
    const upload = options.transport ? undefined : uploading(this.endpoint, protocol, fetch, apiKey);
    const core = new Core(this.transport, options.timeoutMs ?? DEFAULT_TIMEOUT_MS, upload);
    this.offices = new Offices(core);
    this.agents = new Agents(core);
    this.logs = new Logs(core);
    this.activity = new Activity(core);
    this.tasks = new Tasks(core);
    this.files = new Files(core);
    this.chat = new Chat(core);
    this.integrations = new Integrations(core);
    this.credits = new Credits(core);
    this.backups = new Backups(core);
    this.access = new Access(core);
  }

  /**
   * The generated client of a service of `mi-sdk/proto`, for what the resources above do not have: messages as they are
   * on the wire, no retries, and errors of Connect, which `MiError.from` reads.
   */
  rpc<S extends DescService>(service: S): Client<S> {
    return createClient(service, this.transport);
  }
}

/** A variable of the environment, where there is one; an empty one counts as not set. */
function environment(name: string): string | undefined {
  const { process } = globalThis as { process?: { env?: Record<string, string | undefined> } };
  return process?.env?.[name] || undefined;
}

function checked(endpoint: string): string {
  let url: URL;
  try {
    url = new URL(endpoint);
  } catch {
    throw MiError.invalid("endpoint", `${JSON.stringify(endpoint)} is no URL such as ${DEFAULT_ENDPOINT}`);
  }
  if (url.protocol !== "http:" && url.protocol !== "https:") {
    throw MiError.invalid("endpoint", `${JSON.stringify(endpoint)} must start with http:// or https://`);
  }
  return endpoint.replace(/\/+$/, "");
}
