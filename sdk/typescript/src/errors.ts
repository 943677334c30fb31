/** What goes wrong, in one type: what the platform refused, what kept a call from it, and input that cannot be sent. */
import type { Duration } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  HelpSchema,
  ResourceInfoSchema,
  RetryInfoSchema,
} from "./gen/google/rpc/error_details_pb.js";

/** The codes of gRPC, by their names. */
export type MiCode =
  | "CANCELLED"
  | "UNKNOWN"
  | "INVALID_ARGUMENT"
  | "DEADLINE_EXCEEDED"
  | "NOT_FOUND"
  | "ALREADY_EXISTS"
  | "PERMISSION_DENIED"
  | "RESOURCE_EXHAUSTED"
  | "FAILED_PRECONDITION"
  | "ABORTED"
  | "OUT_OF_RANGE"
  | "UNIMPLEMENTED"
  | "INTERNAL"
  | "UNAVAILABLE"
  | "DATA_LOSS"
  | "UNAUTHENTICATED";

const CODES: Record<Code, MiCode> = {
  [Code.Canceled]: "CANCELLED",
  [Code.Unknown]: "UNKNOWN",
  [Code.InvalidArgument]: "INVALID_ARGUMENT",
  [Code.DeadlineExceeded]: "DEADLINE_EXCEEDED",
  [Code.NotFound]: "NOT_FOUND",
  [Code.AlreadyExists]: "ALREADY_EXISTS",
  [Code.PermissionDenied]: "PERMISSION_DENIED",
  [Code.ResourceExhausted]: "RESOURCE_EXHAUSTED",
  [Code.FailedPrecondition]: "FAILED_PRECONDITION",
  [Code.Aborted]: "ABORTED",
  [Code.OutOfRange]: "OUT_OF_RANGE",
  [Code.Unimplemented]: "UNIMPLEMENTED",
  [Code.Internal]: "INTERNAL",
  [Code.Unavailable]: "UNAVAILABLE",
  [Code.DataLoss]: "DATA_LOSS",
  [Code.Unauthenticated]: "UNAUTHENTICATED",
};

/** A part of the input that was refused. */
export interface FieldViolation {
  /** The field, as the protocol spells it, e.g. `model_tier`. */
  field: string;
  /** What is wrong with it, and what would be right. */
  description: string;
}

/** What an error is made of. */
export interface MiErrorInit {
  /** See {@link MiError.code}. */
  code: MiCode;
  /** The sentence for people. */
  message: string;
  /** See {@link MiError.reason}. */
  reason?: string;
  /** See {@link MiError.hint}. */
  hint?: string;
  /** See {@link MiError.metadata}. */
  metadata?: Record<string, string>;
  /** See {@link MiError.retryAfter}. */
  retryAfter?: number;
  /** See {@link MiError.fields}. */
  fields?: FieldViolation[];
  /** See {@link MiError.resource}. */
  resource?: { type: string; name: string };
  /** What was behind it. */
  cause?: unknown;
}

/** A call that failed. `message` is a sentence for people; programs look at `code` and `reason`. */
export class MiError extends Error {
  override readonly name = "MiError";
  /** What kind of failure, e.g. `NOT_FOUND`. */
  readonly code: MiCode;
  /** The platform's own word for why, e.g. `INTEGRATION_NOT_CONFIGURED`; empty: it gave none. */
  readonly reason: string;
  /** What to do about it, where that is known. */
  readonly hint?: string;
  /** More for programs; the keys depend on the reason. */
  readonly metadata: Record<string, string>;
  /** Seconds after which the same call may work. */
  readonly retryAfter?: number;
  /** The fields of the input that were refused. */
  readonly fields: FieldViolation[];
  /** What is missing, or there already. */
  readonly resource?: { type: string; name: string };

  constructor(init: MiErrorInit) {
    super(init.message, { cause: init.cause });
    this.code = init.code;
    this.reason = init.reason ?? "";
    this.hint = init.hint ?? hint(this.reason, init.code);
    this.metadata = init.metadata ?? {};
    this.retryAfter = init.retryAfter;
    this.fields = init.fields ?? [];
    this.resource = init.resource;
  }

  /** Any failure of a call as an error of this type. */
  static from(failure: unknown): MiError {
    if (failure instanceof MiError) return failure;
    const error = ConnectError.from(failure);
    const info = error.findDetails(ErrorInfoSchema)[0];
    const wait = error.findDetails(RetryInfoSchema)[0]?.retryDelay;
    const bad = error.findDetails(BadRequestSchema)[0];
    const resource = error.findDetails(ResourceInfoSchema)[0];
    const help = error.findDetails(HelpSchema)[0]?.links[0];
    return new MiError({
      code: CODES[error.code] ?? "UNKNOWN",
      message: error.rawMessage || (CODES[error.code] ?? "UNKNOWN"),
      reason: info?.reason,
      hint: help && [help.description, help.url].filter((part) => part !== "").join(": "),
      metadata: info && { ...info.metadata },
      retryAfter: wait && seconds(wait),
      fields: bad?.fieldViolations.map(({ field, description }) => ({ field, description })),
      resource: resource && { type: resource.resourceType, name: resource.resourceName },
      cause: error.cause,
    });
  }

  /** Input that cannot be sent: the same error as if the platform had refused it. */
  static invalid(field: string, description: string): MiError {
    return new MiError({
      code: "INVALID_ARGUMENT",
      reason: "INVALID_ARGUMENT",
      message: `${field} ${description}`,
      fields: [{ field, description }],
    });
  }
}

/** A duration of the protocol in seconds. */
export function seconds(duration: Duration): number {
  return Number(duration.seconds) + duration.nanos / 1e9;
}

/** What the runtime says of a connection that was there and broke. */
const BROKEN = ["EPIPE", "ECONNRESET", "UND_ERR_SOCKET"];

/** The failure of a `fetch` that got no answer, told apart from what the platform says. */
export function unanswered(endpoint: string, failure: unknown): ConnectError {
  const cause = failure instanceof Error && failure.cause instanceof Error ? failure.cause : failure;
  const { code, message: why } = cause as { code?: string; message?: string };
  // Several addresses that all refuse make an error with an empty message and a code.
  const text = why || code || String(cause);
  if (code !== undefined && BROKEN.includes(code)) {
    return new ConnectError(`the connection to ${endpoint} broke: ${text}`, Code.Unavailable, undefined, [], failure);
  }
  const link = { description: "start it with `mi up`, or name another one with `endpoint` or MI_ENDPOINT", url: "" };
  const message = `the platform cannot be reached at ${endpoint}: ${text}`;
  const details = [{ desc: HelpSchema, value: { links: [link] } }];
  return new ConnectError(message, Code.Unavailable, undefined, details, failure);
}

function hint(reason: string, code: MiCode): string | undefined {
  switch (reason) {
    case "INTEGRATION_NOT_CONFIGURED":
      return "set that integration's secrets with client.integrations.setSecret, or choose another one";
    case "OFFICE_NOT_ACTIVE":
      return "client.offices.status says what it waits for; client.offices.resume ends a suspension";
    case "OUT_OF_CREDITS":
      return "the administrator can grant credits with client.credits.grant";
    case "REVISION_CONFLICT":
      return "read the file again and give its revision as `ifRevision`, or set `force`";
    case "CURSOR_EXPIRED":
      return "what comes after that cursor is no longer kept; list what is there and watch without one";
  }
  switch (code) {
    case "UNAUTHENTICATED":
      return "pass a key as `apiKey`, or set MI_API_KEY";
    case "UNIMPLEMENTED":
      return "the platform is older than this SDK, or the endpoint is not a platform";
    case "UNAVAILABLE":
      return "try again in a moment";
    default:
      return undefined;
  }
}
