/** Chat: the office's group and direct messages. */
import type { CallOptions, Core, ListOptions, WatchOptions } from "../core.js";
import type * as plain from "../gen/types.js";
import { ChatMessageSchema, ChatService } from "../gen/mi/v1/chat_service_pb.js";
import { expect, toPlain } from "../plain.js";

const api = ChatService.method;
const DEFAULT_LIMIT = 50;
/** Largest answer of the platform. */
const MOST = 200;

/** Which messages. */
export interface HistoryOptions extends ListOptions {
  /** The conversation with this agent, or with `operator`. Default: the group. */
  with?: string;
  /** Only messages before the one with this id. */
  beforeId?: string;
}

/** `client.chat` */
export class Chat {
  /** @internal */
  constructor(private readonly core: Core) {}

  /** Sends a message to the office's group, or to one agent. */
  async send(
    officeId: string,
    body: string,
    { to, requestId, ...options }: CallOptions & { to?: string; requestId?: string } = {},
  ): Promise<plain.ChatMessage> {
    const answer = await this.core.call(api.sendMessage, { officeId, body, toAgent: to, requestId }, options);
    return expect(ChatMessageSchema, answer.message);
  }

  /** Lists a conversation, newest first. `limit` is 50 unless said otherwise. */
  async list(
    officeId: string,
    { with: withAgent, beforeId, limit = DEFAULT_LIMIT, ...options }: HistoryOptions = {},
  ): Promise<plain.ChatMessage[]> {
    const all: plain.ChatMessage[] = [];
    while (all.length < limit) {
      const input = {
        officeId,
        withAgent,
        beforeId: all.at(-1)?.id ?? beforeId,
        limit: Math.min(limit - all.length, MOST),
      };
      const { messages } = await this.core.call(api.listMessages, input, options);
      if (messages.length === 0) break;
      all.push(...messages.map((message) => toPlain(ChatMessageSchema, message)));
    }
    return all;
  }

  /**
   * Messages as they are sent, of all conversations. Goes on where it was after a lost connection. Starts after
   * `afterId`, empty for the oldest there is; without one with what is new, and then what is sent while a connection is
   * lost before its first message is not told.
   */
  async *watch(
    officeId: string,
    { signal, ...start }: WatchOptions & { afterId?: string } = {},
  ): AsyncGenerator<plain.ChatMessage, void, undefined> {
    let { afterId } = start;
    for await (const answer of this.core.watch(api.watchMessages, () => ({ officeId, afterId }), { signal })) {
      const message = expect(ChatMessageSchema, answer.message);
      afterId = message.id;
      yield message;
    }
  }
}
