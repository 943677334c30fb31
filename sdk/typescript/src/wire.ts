/** How calls travel: a transport of Connect over `fetch`, with the caller's key on each call. */
import type { DescMessage, DescMethodStreaming, DescMethodUnary, MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError, type StreamResponse, type Transport, type UnaryResponse } from "@connectrpc/connect";
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-web";
import { unanswered } from "./errors.js";
import type { Uploading } from "./upload.js";

/** A key, or what answers one for each call: for tokens that live shortly. */
export type ApiKey = string | (() => string | Promise<string>);

/** What is spoken over HTTP. */
export type Protocol = "connect" | "grpc-web";

/** A transport that sends the caller's key. */
export function authorized(inner: Transport, apiKey: ApiKey | undefined): Transport {
  const headers = async (given: HeadersInit | undefined): Promise<Headers> => {
    const headers = new Headers(given);
    const key = typeof apiKey === "function" ? await apiKey() : apiKey;
    if (key && !headers.has("authorization")) headers.set("authorization", bearer(key));
    return headers;
  };
  return {
    async unary<I extends DescMessage, O extends DescMessage>(
      method: DescMethodUnary<I, O>,
      signal: AbortSignal | undefined,
      timeoutMs: number | undefined,
      header: HeadersInit | undefined,
      input: MessageInitShape<I>,
    ): Promise<UnaryResponse<I, O>> {
      return inner.unary(method, signal, timeoutMs, await headers(header), input);
    },
    async stream<I extends DescMessage, O extends DescMessage>(
      method: DescMethodStreaming<I, O>,
      signal: AbortSignal | undefined,
      timeoutMs: number | undefined,
      header: HeadersInit | undefined,
      input: AsyncIterable<MessageInitShape<I>>,
    ): Promise<StreamResponse<I, O>> {
      return inner.stream(method, signal, timeoutMs, await headers(header), input);
    },
  };
}

function bearer(key: string): string {
  // Said here, since the runtime's own error would show the key.
  if (!/^[\x21-\x7e]+$/.test(key)) {
    throw new ConnectError("the API key holds characters that no key has; copy it again", Code.Unauthenticated);
  }
  return `Bearer ${key}`;
}

/** A transport over `fetch`, which may be one of the caller's own. */
export function transport(endpoint: string, protocol: Protocol, fetch: typeof globalThis.fetch): Transport {
  const options = { baseUrl: endpoint, useBinaryFormat: true, fetch: telling(endpoint, fetch) };
  return protocol === "connect" ? createConnectTransport(options) : createGrpcWebTransport(options);
}

/** A `fetch` that says UNAVAILABLE where nobody answers, so that such a call is tried again. */
function telling(endpoint: string, fetch: typeof globalThis.fetch): typeof globalThis.fetch {
  return async (input, init) => {
    try {
      return await fetch(input, init);
    } catch (failure) {
      throw unanswered(endpoint, failure);
    }
  };
}

/** How files are sent over `fetch`: with a body that goes on behind the first message. */
export function uploading(
  endpoint: string,
  protocol: Protocol,
  fetch: typeof globalThis.fetch,
  apiKey: ApiKey | undefined,
): Uploading {
  return (body) => {
    const longer: typeof globalThis.fetch = (input, init) => {
      const first = init?.body as Uint8Array<ArrayBuffer>;
      // `duplex` is not in the types of every runtime; a body that is a stream needs it.
      return fetch(input, { ...init, body: body(first), duplex: "half" } as RequestInit);
    };
    return authorized(transport(endpoint, protocol, longer), apiKey);
  };
}

/** What sends requests in Node; its default one has this name, and so has one that the program chose instead. */
const DISPATCHER = Symbol.for("undici.globalDispatcher.1");
type Dispatcher = { dispatch(options: object, handler: object): unknown };

/**
 * The runtime's `fetch`. That of Node ends an answer that is silent for five minutes, as the streams of a quiet office
 * are; it is told not to. Browsers have no such limit.
 */
export const patientFetch: typeof globalThis.fetch = (input, init) => {
  const current = () => (globalThis as { [DISPATCHER]?: Dispatcher })[DISPATCHER];
  if (current() === undefined) return globalThis.fetch(input, init);
  const dispatcher: Dispatcher = {
    dispatch: (options, handler) => current()!.dispatch({ ...options, bodyTimeout: 0, headersTimeout: 0 }, handler),
  };
  return globalThis.fetch(input, { ...init, dispatcher } as RequestInit);
};
