/** What all resources share: one way to call, one to read lists, one to watch. */
import type {
  DescMessage,
  DescMethodServerStreaming,
  DescMethodUnary,
  MessageInitShape,
  MessageShape,
} from "@bufbuild/protobuf";
import type { Transport } from "@connectrpc/connect";
import { linked } from "./abort.js";
import { MiError } from "./errors.js";
import type { AccessService } from "./gen/mi/v1/access_service_pb.js";
import type { AgentService } from "./gen/mi/v1/agent_service_pb.js";
import type { TaskService } from "./gen/mi/v1/task_service_pb.js";
import { fromPlain } from "./plain.js";
import { fillRequestIds } from "./request-id.js";
import { connectionLost, mayRetry, pauseStream, retry } from "./retry.js";
import type { Uploading } from "./upload.js";

/** What may be said of each call. */
export interface CallOptions {
  /** Gives the call up when it fires. */
  signal?: AbortSignal;
  /** How long one try may take. Default: the client's. */
  timeoutMs?: number;
}

/** What may be said of a list. */
export interface ListOptions extends CallOptions {
  /** The most to answer. Default: all there are. */
  limit?: number;
}

/** What may be said of a watch. */
export interface WatchOptions {
  /** Ends the watch when it fires: without an error. Leaving the loop ends it too. */
  signal?: AbortSignal;
}

/** Largest page that the platform answers. */
const MOST_PAGE = 200;
/** A stream that was open for this long had been taken by the platform. */
const LIVED_MS = 1000;

/**
 * Calls that do something new each time, and take no `requestId` to be told apart by. They are sent once: after a lost
 * answer it is the caller's to look. All others read, state what should be, or carry an id.
 */
const ONCE: ReadonlySet<string> = new Set<Method>([
  "cancelTask",
  "claimTasks",
  "createAccount",
  "createApiKey",
  "createInvite",
  "restartAgent",
  "retryTask",
  "rotateAgentIdentity",
  "verifyTask",
]);
type Method = keyof typeof AccessService.method | keyof typeof AgentService.method | keyof typeof TaskService.method;

/** One platform, as one caller. */
export class Core {
  constructor(
    /** With the caller's key. */
    readonly transport: Transport,
    /** How long one try of a call may take. */
    readonly timeoutMs: number,
    /** How files are sent; none: by the transport itself. */
    readonly uploading?: Uploading,
  ) {}

  /** Calls, and again while the platform cannot be reached, if the call may be sent twice. */
  async call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    input: object,
    options: CallOptions = {},
  ): Promise<MessageShape<O>> {
    const message = fromPlain(method.input, input);
    fillRequestIds(method.input, message);
    const timeoutMs = options.timeoutMs ?? this.timeoutMs;
    const once = async (): Promise<MessageShape<O>> => {
      const sent = message as MessageInitShape<I>;
      const answer = await this.transport.unary(method, options.signal, timeoutMs, undefined, sent);
      return answer.message;
    };
    if (!ONCE.has(method.localName)) return retry(once, options.signal);
    try {
      return await once();
    } catch (failure) {
      throw MiError.from(failure);
    }
  }

  /** Reads pages until there are no more, or `limit` is reached. */
  async pages<I extends DescMessage, O extends DescMessage, T>(
    method: DescMethodUnary<I, O>,
    input: object,
    items: (answer: MessageShape<O>) => T[],
    { limit, ...options }: ListOptions = {},
  ): Promise<T[]> {
    const most = checkedLimit(limit);
    const all: T[] = [];
    let pageToken = "";
    while (all.length < most) {
      const pageSize = Math.min(most - all.length, MOST_PAGE);
      const answer = await this.call(method, { ...input, pageSize, pageToken }, options);
      all.push(...items(answer));
      pageToken = (answer as { nextPageToken?: string }).nextPageToken ?? "";
      if (pageToken === "") break;
    }
    return all;
  }

  /** Opens a stream, once. */
  async open<I extends DescMessage, O extends DescMessage>(
    method: DescMethodServerStreaming<I, O>,
    input: object,
    signal: AbortSignal,
  ): Promise<AsyncIterable<MessageShape<O>>> {
    const message = fromPlain(method.input, input) as MessageInitShape<I>;
    const answer = await this.transport.stream(method, signal, undefined, undefined, one(message));
    return answer.message;
  }

  /**
   * The messages of a stream. It is opened again when the connection is lost, however long the platform is away; what
   * was not there in the first place is tried as often as a call. `input` says, each time, where to go on.
   */
  async *watch<I extends DescMessage, O extends DescMessage>(
    method: DescMethodServerStreaming<I, O>,
    input: () => object,
    { signal }: WatchOptions = {},
  ): AsyncGenerator<MessageShape<O>, void, undefined> {
    const end = linked(signal);
    let messages: AsyncIterator<MessageShape<O>> | undefined;
    let [lived, failures, openedAt] = [false, 0, 0];
    try {
      while (!signal?.aborted) {
        let next: IteratorResult<MessageShape<O>>;
        try {
          if (messages === undefined) {
            openedAt = Date.now();
            messages = (await this.open(method, input(), end.signal))[Symbol.asyncIterator]();
          }
          next = await messages.next();
        } catch (failure) {
          if (signal?.aborted) return;
          const error = MiError.from(failure);
          failures += 1;
          // An error may take the place of the first message: a stream that was silent for a while was there, too.
          lived ||= messages !== undefined && Date.now() - openedAt > LIVED_MS;
          if (!(lived ? connectionLost(error) : mayRetry(error, failures))) throw error;
          messages = undefined;
          await pauseStream(failures, error, signal);
          continue;
        }
        if (next.done) return;
        [lived, failures] = [true, 0];
        yield next.value;
      }
    } finally {
      end.abort();
    }
  }
}

async function* one<T>(item: T): AsyncIterable<T> {
  yield item;
}

function checkedLimit(limit: number | undefined): number {
  if (limit === undefined) return Number.POSITIVE_INFINITY;
  if (!Number.isInteger(limit) || limit < 1) throw MiError.invalid("limit", "must be a whole number, at least 1");
  return limit;
}
