/** Trying again: only what was not delivered, a few times, with jitter. The same rules as the Rust SDK's. */
import { MiError } from "./errors.js";

/** Tries of one call, the first included. */
const TRIES = 4;
/** The longest that the platform may ask to wait, in seconds: beyond it the caller hears the error instead. */
const PATIENCE_SECONDS = 5;

const CALL_BACKOFF = { firstMs: 100, mostMs: 1000 };
const STREAM_BACKOFF = { firstMs: 200, mostMs: 5000 };

/** Calls until it works, or trying again makes no sense. */
export async function retry<T>(call: () => Promise<T>, signal?: AbortSignal): Promise<T> {
  for (let failures = 1; ; failures++) {
    try {
      return await call();
    } catch (failure) {
      const error = MiError.from(failure);
      if (signal?.aborted || !mayRetry(error, failures)) throw error;
      // The jitter comes on top of what was asked for, so that callers who were told the same do not return together.
      await pause((error.retryAfter ?? 0) * 1000 + backoff(CALL_BACKOFF, failures), signal);
    }
  }
}

/** Whether a call is tried again after so many failures. */
export function mayRetry(error: MiError, failures: number): boolean {
  return error.code === "UNAVAILABLE" && failures < TRIES && (error.retryAfter ?? 0) <= PATIENCE_SECONDS;
}

/** Whether a download goes on after so many failures without progress. */
export function mayResume(error: MiError, failures: number): boolean {
  return connectionLost(error) && failures < TRIES;
}

/** Waits before a stream is opened again, after so many failures in a row; ends at once when the caller gives up. */
export async function pauseStream(failures: number, error: MiError, signal?: AbortSignal): Promise<void> {
  const wait = (error.retryAfter ?? 0) * 1000 + backoff(STREAM_BACKOFF, failures);
  await pause(wait, signal).catch(() => undefined);
}

/** Whether a stream broke, and goes on where it was when it is opened again. */
export function connectionLost(error: MiError): boolean {
  return ["UNAVAILABLE", "UNKNOWN", "INTERNAL", "CANCELLED", "DEADLINE_EXCEEDED"].includes(error.code);
}

/** Somewhere between half of the wait and all of it. */
function backoff({ firstMs, mostMs }: { firstMs: number; mostMs: number }, failures: number): number {
  const wait = Math.min(firstMs * 2 ** (failures - 1), mostMs);
  return wait * (0.5 + Math.random() / 2);
}

/** Waits so many milliseconds, or until the caller gives up. */
export async function pause(ms: number, signal?: AbortSignal): Promise<void> {
  if (signal?.aborted) throw cancelled(signal);
  await new Promise<void>((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(cancelled(signal));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    signal?.addEventListener("abort", stop, { once: true });
  });
}

/** What a caller hears who gave up. */
export function cancelled(signal?: AbortSignal): MiError {
  return new MiError({ code: "CANCELLED", message: "the call was given up", cause: signal?.reason });
}
