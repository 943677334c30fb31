/** Credits: what an office may spend, and the ledger that explains it. Amounts are micro-credits: a million are one. */
import type { CallOptions, Core, ListOptions } from "../core.js";
import type * as plain from "../gen/types.js";
import { AgentSchema } from "../gen/mi/v1/agent_service_pb.js";
import { BalanceSchema, CreditService, LedgerEntrySchema, UsageSchema } from "../gen/mi/v1/credit_service_pb.js";
import { expect, toPlain } from "../plain.js";

const api = CreditService.method;

/** Micro-credits in a credit. */
export const CREDIT = 1_000_000;

/** Which usage. */
export type UsageInput = Omit<plain.GetUsageRequest, "officeId"> & { groupBy: plain.UsageGroup };
/** What is given, and why. */
export type GrantInput = Omit<plain.GrantCreditsRequest, "officeId"> & { amount: number; reason: string };

/** `client.credits` */
export class Credits {
  /** @internal */
  constructor(private readonly core: Core) {}

  /** Returns what an office has, in micro-credits. */
  async balance(officeId: string, options?: CallOptions): Promise<plain.Balance> {
    return expect(BalanceSchema, (await this.core.call(api.getBalance, { officeId }, options)).balance);
  }

  /** Lists the changes of an office's balance, newest first. */
  async ledger(officeId: string, options?: ListOptions): Promise<plain.LedgerEntry[]> {
    const entries = this.core.pages(api.listLedgerEntries, { officeId }, (answer) => answer.entries, options);
    return (await entries).map((entry) => toPlain(LedgerEntrySchema, entry));
  }

  /** Gives micro-credits to an office; the administrator does. */
  async grant(officeId: string, input: GrantInput, options?: CallOptions): Promise<plain.LedgerEntry> {
    return expect(LedgerEntrySchema, (await this.core.call(api.grantCredits, { ...input, officeId }, options)).entry);
  }

  /** Adds up what was used, by agent, model, task or day. */
  async usage(officeId: string, input: UsageInput, options?: CallOptions): Promise<plain.Usage[]> {
    const answer = await this.core.call(api.getUsage, { ...input, officeId }, options);
    return answer.usages.map((usage) => toPlain(UsageSchema, usage));
  }

  /** Limits what an agent and all agents below it may spend; `undefined` takes the limit away. */
  async setAgentBudget(
    officeId: string,
    agent: string,
    amount: number | undefined,
    options?: CallOptions,
  ): Promise<plain.Agent> {
    return expect(AgentSchema, (await this.core.call(api.setAgentBudget, { officeId, agent, amount }, options)).agent);
  }
}
