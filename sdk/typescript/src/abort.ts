/** Giving up: what ends when its caller says so, and can be ended from inside as well. */

/** A controller that also ends when `signal` fires; ended itself, it lets go of it. */
export function linked(signal: AbortSignal | undefined): AbortController {
  const end = new AbortController();
  if (signal?.aborted) end.abort(signal.reason);
  signal?.addEventListener("abort", () => end.abort(signal.reason), { once: true, signal: end.signal });
  return end;
}
