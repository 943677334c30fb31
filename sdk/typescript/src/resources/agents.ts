/** Agents: AI workers hired into an office. */
import type { CallOptions, Core, ListOptions, WatchOptions } from "../core.js";
import { MiError } from "../errors.js";
import type * as plain from "../gen/types.js";
import { AgentSchema, AgentService, ModelTierSchema, RoleSchema } from "../gen/mi/v1/agent_service_pb.js";
import { changed, expect, toPlain } from "../plain.js";
import { first, found, poll, type WaitOptions } from "../wait.js";
import { Activity, type ActivityOptions } from "./activity.js";
import { Logs, type LogOptions } from "./logs.js";

const api = AgentService.method;

/** What a new agent is. */
export type HireInput = Omit<plain.HireAgentRequest, "officeId"> & { name: string };
/** What an agent is promoted to. */
export type PromoteInput = Omit<plain.PromoteAgentRequest, "officeId" | "name">;
/** What of an agent may be changed; what is not given stays. */
export type AgentUpdate = Partial<Pick<plain.Agent, "skills" | "systemPrompt" | "env" | "command">> & {
  /** Bounds of its compute; those that are not given become the platform's default. */
  resources?: Partial<plain.Resources>;
};

/** A change of an agent. */
export interface AgentChange {
  /** The agent as it is now; when `deleted`, as it last was. */
  agent: plain.Agent;
  /** Whether the agent is gone. */
  deleted: boolean;
}

/** `client.agents` */
export class Agents {
  private readonly logLines: Logs;
  private readonly feed: Activity;

  /** @internal */
  constructor(private readonly core: Core) {
    this.logLines = new Logs(core);
    this.feed = new Activity(core);
  }

  /**
   * Hires an agent. It starts by itself.
   *
   * With `provider` the platform enables that provider's integration for it and promotes it, whatever becomes of this
   * client; without a key for it the call fails with `INTEGRATION_NOT_CONFIGURED`, and nobody is hired.
   */
  async hire(officeId: string, input: HireInput, options?: CallOptions): Promise<plain.Agent> {
    return expect(AgentSchema, (await this.core.call(api.hireAgent, { ...input, officeId }, options)).agent);
  }

  /** Lists an office's agents by name. */
  async list(officeId: string, options?: ListOptions): Promise<plain.Agent[]> {
    const agents = this.core.pages(api.listAgents, { officeId }, (answer) => answer.agents, options);
    return (await agents).map((agent) => toPlain(AgentSchema, agent));
  }

  /** Returns one agent. */
  async get(officeId: string, name: string, options?: CallOptions): Promise<plain.Agent> {
    return expect(AgentSchema, (await this.core.call(api.getAgent, { officeId, name }, options)).agent);
  }

  /** Returns the last lines of an agent's log, oldest first. */
  async logs(officeId: string, name: string, options?: LogOptions): Promise<plain.LogLine[]> {
    return this.logLines.list(officeId, name, options);
  }

  /** Returns what happened to an agent, newest first. */
  async activity(
    officeId: string,
    name: string,
    options?: Omit<ActivityOptions, "agent">,
  ): Promise<plain.ActivityEvent[]> {
    return this.feed.list(officeId, { ...options, agent: name });
  }

  /** Changes model tier and provider; the agent restarts with them and keeps its workspace. */
  async promote(officeId: string, name: string, input: PromoteInput, options?: CallOptions): Promise<plain.Agent> {
    return expect(AgentSchema, (await this.core.call(api.promoteAgent, { ...input, officeId, name }, options)).agent);
  }

  /** Changes what is given; the agent restarts with it. */
  async update(officeId: string, name: string, agent: AgentUpdate, options?: CallOptions): Promise<plain.Agent> {
    const input = { officeId, name, agent, updateMask: changed(AgentSchema, agent) };
    return expect(AgentSchema, (await this.core.call(api.updateAgent, input, options)).agent);
  }

  /** Starts a stopped, failed or paused agent. */
  async start(officeId: string, name: string, options?: CallOptions): Promise<plain.Agent> {
    return expect(AgentSchema, (await this.core.call(api.startAgent, { officeId, name }, options)).agent);
  }

  /** Stops an agent's compute and keeps its workspace. */
  async stop(officeId: string, name: string, options?: CallOptions): Promise<plain.Agent> {
    return expect(AgentSchema, (await this.core.call(api.stopAgent, { officeId, name }, options)).agent);
  }

  /** Replaces an agent's instance by a fresh one. */
  async restart(officeId: string, name: string, options?: CallOptions): Promise<plain.Agent> {
    return expect(AgentSchema, (await this.core.call(api.restartAgent, { officeId, name }, options)).agent);
  }

  /**
   * Fires an agent: its workspace is backed up, the backup is read back, and only then is anything deleted. The answer
   * comes when that is recorded. With `force` also when no backup can be made.
   */
  async fire(
    officeId: string,
    name: string,
    { force, ...options }: CallOptions & { force?: boolean } = {},
  ): Promise<plain.Agent> {
    return expect(AgentSchema, (await this.core.call(api.fireAgent, { officeId, name, force }, options)).agent);
  }

  /** Kills an agent's key at once; a hosted agent makes itself a new one. */
  async rotateIdentity(officeId: string, name: string, options?: CallOptions): Promise<plain.Agent> {
    return expect(AgentSchema, (await this.core.call(api.rotateAgentIdentity, { officeId, name }, options)).agent);
  }

  /** Every agent of the office as it is now, then each one that changes or goes. */
  async *watch(officeId: string, options?: WatchOptions): AsyncGenerator<AgentChange, void, undefined> {
    for await (const { agent, deleted } of this.core.watch(api.watchAgents, () => ({ officeId }), options)) {
      yield { agent: expect(AgentSchema, agent), deleted };
    }
  }

  /** Waits until an agent is in a phase, `Running` unless said otherwise, as it was last asked to be. */
  async waitFor(
    officeId: string,
    name: string,
    { phase = "Running", ...options }: WaitOptions & { phase?: plain.AgentPhase } = {},
  ): Promise<plain.Agent> {
    // Says at once that there is no such agent: the watch would wait for one.
    const { name: known } = await this.get(officeId, name, { signal: options.signal });
    const watch = (signal: AbortSignal) => this.watch(officeId, { signal });
    return first(`agent ${name} to be ${phase}`, options, watch, ({ agent, deleted }) => {
      if (agent.name !== known) return undefined;
      const { status } = agent;
      const settled = phase !== "Running" || status.observedGeneration === agent.generation;
      if (!deleted && status.phase === phase && settled) return agent;
      if (deleted || status.phase === "Failed" || status.phase === "Terminating") {
        const why = deleted ? "gone" : `${status.phase}${status.message && `: ${status.message}`}`;
        throw new MiError({ code: "FAILED_PRECONDITION", message: `agent ${name} is ${why}` });
      }
      return undefined;
    });
  }

  /** Waits until a fired agent is gone, its backup made. */
  async waitForGone(officeId: string, name: string, options: WaitOptions = {}): Promise<void> {
    await poll(`agent ${name} to be gone`, options, async (signal) => {
      const agent = await found(this.get(officeId, name, { signal }));
      if (agent?.status.phase === "Failed") {
        const message = `agent ${name} is Failed: ${agent.status.message}`;
        throw new MiError({ code: "FAILED_PRECONDITION", message, hint: "fire it with `force`" });
      }
      return agent === undefined ? true : undefined;
    });
  }

  /** Lists the role templates of the catalogue. */
  async roles(options?: CallOptions): Promise<plain.Role[]> {
    const answer = await this.core.call(api.listRoles, {}, options);
    return answer.roles.map((role) => toPlain(RoleSchema, role));
  }

  /** Lists the model tiers of the catalogue. */
  async modelTiers(options?: CallOptions): Promise<plain.ModelTier[]> {
    const answer = await this.core.call(api.listModelTiers, {}, options);
    return answer.modelTiers.map((tier) => toPlain(ModelTierSchema, tier));
  }
}
