/** Logs: what agents print and say. */
import type { CallOptions, Core, WatchOptions } from "../core.js";
import type * as plain from "../gen/types.js";
import { LogLineSchema, LogService } from "../gen/mi/v1/log_service_pb.js";
import { expect, toPlain } from "../plain.js";

const api = LogService.method;

/** Which lines. */
export type LogOptions = CallOptions & Omit<plain.ListLogsRequest, "officeId" | "agent">;
/** Where a tail starts. */
export type TailOptions = WatchOptions & Omit<plain.TailLogsRequest, "officeId" | "agent">;

/** `client.logs` */
export class Logs {
  /** @internal */
  constructor(private readonly core: Core) {}

  /** Returns the last lines of an agent's log, or those of a time range, oldest first. Default: 100. */
  async list(
    officeId: string,
    agent: string,
    { signal, timeoutMs, ...which }: LogOptions = {},
  ): Promise<plain.LogLine[]> {
    const answer = await this.core.call(api.listLogs, { ...which, officeId, agent }, { signal, timeoutMs });
    return answer.lines.map((line) => toPlain(LogLineSchema, line));
  }

  /**
   * Lines as they are written, after `afterSequence`, or else with the last `limit` (10) before. Goes on where it was
   * after a lost connection: no line is lost or doubled.
   */
  async *tail(
    officeId: string,
    agent: string,
    { signal, ...start }: TailOptions = {},
  ): AsyncGenerator<plain.LogLine, void, undefined> {
    let { afterSequence } = start;
    const input = () => ({ ...start, officeId, agent, afterSequence });
    for await (const answer of this.core.watch(api.tailLogs, input, { signal })) {
      const line = expect(LogLineSchema, answer.line);
      afterSequence = line.sequence;
      yield line;
    }
  }
}
