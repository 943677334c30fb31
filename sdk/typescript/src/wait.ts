/** Waiting for something to become so, for a limited time. */
import { linked } from "./abort.js";
import { MiError } from "./errors.js";
import { cancelled, pause } from "./retry.js";

/** What may be said of a wait. */
export interface WaitOptions {
  /** The longest to wait. Default: 5 minutes. */
  timeoutMs?: number;
  /** Gives the wait up when it fires. */
  signal?: AbortSignal;
}

const DEFAULT_TIMEOUT_MS = 5 * 60 * 1000;
const POLL_FIRST_MS = 50;
const POLL_MOST_MS = 2000;

/** Runs `work` under a signal that fires when the time is up, and says what was waited for when it does. */
export async function within<T>(
  what: string,
  { timeoutMs = DEFAULT_TIMEOUT_MS, signal }: WaitOptions,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  if (signal?.aborted) throw cancelled(signal);
  const end = linked(signal);
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    end.abort();
  }, timeoutMs);
  try {
    return await work(end.signal);
  } catch (failure) {
    if (signal?.aborted) throw cancelled(signal);
    if (!late) throw failure;
    const message = `waited ${timeoutMs / 1000} s for ${what}`;
    throw new MiError({ code: "DEADLINE_EXCEEDED", message, hint: "wait longer with `timeoutMs`", cause: failure });
  } finally {
    clearTimeout(timer);
    end.abort();
  }
}

/** Asks until there is an answer: for what the platform has no stream of. */
export async function poll<T>(
  what: string,
  options: WaitOptions,
  ask: (signal: AbortSignal) => Promise<T | undefined>,
): Promise<T> {
  return within(what, options, async (signal) => {
    for (let wait = POLL_FIRST_MS; ; wait = Math.min(wait * 2, POLL_MOST_MS)) {
      const answer = await ask(signal);
      if (answer !== undefined) return answer;
      await pause(wait, signal);
    }
  });
}

/** The first answer that `look` makes of the items of a watch. */
export async function first<T, R>(
  what: string,
  options: WaitOptions,
  watch: (signal: AbortSignal) => AsyncIterable<T>,
  look: (item: T) => R | undefined,
): Promise<R> {
  return within(what, options, async (signal) => {
    for await (const item of watch(signal)) {
      const found = look(item);
      if (found !== undefined) return found;
    }
    throw new MiError({ code: "UNAVAILABLE", message: `the platform ended the stream while waiting for ${what}` });
  });
}

/** What a call answers; undefined where there is no such thing. */
export async function found<T>(call: Promise<T>): Promise<T | undefined> {
  try {
    return await call;
  } catch (failure) {
    if (failure instanceof MiError && failure.code === "NOT_FOUND") return undefined;
    throw failure;
  }
}
