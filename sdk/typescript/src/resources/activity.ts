/** The activity feed: every state change of an office, once. */
import type { CallOptions, Core, ListOptions, WatchOptions } from "../core.js";
import type * as plain from "../gen/types.js";
import { ActivityEventSchema, ActivityHeadSchema, ActivityService } from "../gen/mi/v1/activity_service_pb.js";
import { expect, toPlain } from "../plain.js";

const api = ActivityService.method;
const DEFAULT_LIMIT = 50;

/** Categories of events. */
export interface CategoryOptions {
  /** Only these, separated by commas: task, lifecycle, chat, file, credit, integration, security, model. */
  category?: string;
}

/** Which events. */
export interface ActivityOptions extends CategoryOptions, ListOptions {
  /** Only events of this agent. */
  agent?: string;
  /** Only events at or after this time. */
  startTime?: string | Date;
  /** Only events before this time. */
  endTime?: string | Date;
}

/** Which events, and from where. */
export interface ActivityWatchOptions extends CategoryOptions, WatchOptions {
  /** Only events of this agent. */
  agent?: string;
  /** Start after this cursor, 0 for the whole feed. Default: only what is new. */
  afterCursor?: number;
}

function categories(category: string | undefined): string[] {
  return category === undefined ? [] : category.split(",").map((name) => name.trim());
}

/** `client.activity` */
export class Activity {
  /** @internal */
  constructor(private readonly core: Core) {}

  /** Lists events, newest first. `limit` is 50 unless said otherwise. */
  async list(
    officeId: string,
    { category, limit = DEFAULT_LIMIT, signal, timeoutMs, ...which }: ActivityOptions = {},
  ): Promise<plain.ActivityEvent[]> {
    const input = { ...which, officeId, categories: categories(category) };
    const options = { limit, signal, timeoutMs };
    const events = await this.core.pages(api.listActivity, input, (answer) => answer.events, options);
    return events.map((event) => toPlain(ActivityEventSchema, event));
  }

  /** Returns both ends of the feed's chain of hashes. */
  async head(officeId: string, options?: CallOptions): Promise<plain.ActivityHead> {
    return expect(ActivityHeadSchema, (await this.core.call(api.getActivityHead, { officeId }, options)).head);
  }

  /** Events as they happen. Goes on where it was after a lost connection: no event is lost or doubled. */
  async *watch(
    officeId: string,
    { category, signal, ...which }: ActivityWatchOptions = {},
  ): AsyncGenerator<plain.ActivityEvent, void, undefined> {
    let { afterCursor } = which;
    if (afterCursor === undefined) {
      // Known before the stream is opened, so that a break before the first event loses none.
      const head = await this.head(officeId, { signal }).catch((failure: unknown) => {
        if (signal?.aborted) return undefined;
        throw failure;
      });
      if (head === undefined) return;
      afterCursor = head.cursor;
    }
    const input = () => ({ ...which, officeId, categories: categories(category), afterCursor });
    for await (const answer of this.core.watch(api.watchActivity, input, { signal })) {
      const event = expect(ActivityEventSchema, answer.event);
      afterCursor = event.cursor;
      yield event;
    }
  }
}
