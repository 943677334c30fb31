/**
 * Plain objects for the protocol's messages, both ways, by the messages' own descriptions.
 *
 * Enums are words (`active`, `Running`), times are ISO strings in UTC, durations are seconds, 64-bit integers are
 * numbers. Micro-credits above 2^53 (nine billion credits) do not fit into a number: they are refused, never rounded.
 */
import {
  create,
  type DescEnum,
  type DescField,
  type DescMessage,
  type Message,
  type MessageShape,
  ScalarType,
} from "@bufbuild/protobuf";
import { type Duration, type Timestamp, timestampDate, timestampFromDate } from "@bufbuild/protobuf/wkt";
import { MiError, seconds } from "./errors.js";
import type { Plain } from "./gen/types.js";

/** Messages that have a plain form. */
type Plainable = { $typeName: keyof Plain };
type Values = Record<string, unknown>;

/** The plain form of a message. */
export function toPlain<D extends DescMessage>(
  desc: D,
  message: MessageShape<D>,
): MessageShape<D> extends Plainable ? Plain[MessageShape<D>["$typeName"]] : never {
  return outOf(desc, message) as never;
}

/** The plain form of a field that every answer has. */
export function expect<D extends DescMessage>(desc: D, message: MessageShape<D> | undefined) {
  if (message === undefined) {
    throw new MiError({ code: "INTERNAL", message: `the platform's answer has no ${desc.name}` });
  }
  return toPlain(desc, message);
}

/** The message of a plain object. What the message does not know is refused: it would be lost without a word. */
export function fromPlain<D extends DescMessage>(desc: D, plain: object): MessageShape<D> {
  return into(desc, plain, "") as MessageShape<D>;
}

/** The names of what a change gives a value, for its update mask. */
export function changed(desc: DescMessage, change: object): { paths: string[] } {
  const given = Object.entries(change).filter(([, value]) => value !== undefined);
  return { paths: given.map(([key]) => desc.field[key]?.name ?? key) };
}

function outOf(desc: DescMessage, message: Message): unknown {
  switch (desc.typeName) {
    case "google.protobuf.Timestamp":
      return timestampDate(message as Timestamp).toISOString();
    case "google.protobuf.Duration":
      return seconds(message as Duration);
  }
  const values = message as unknown as Values;
  const plain: Values = {};
  for (const field of desc.fields) {
    const value = values[field.localName];
    if (value !== undefined) plain[field.localName] = fieldOut(field, value);
  }
  return plain;
}

function fieldOut(field: DescField, value: unknown): unknown {
  switch (field.fieldKind) {
    case "list":
      return (value as unknown[]).map((item) => itemOut(field, item));
    case "map":
      return { ...(value as Values) };
    default:
      return itemOut(field, value);
  }
}

function itemOut(field: DescField, value: unknown): unknown {
  if (field.enum) return word(field.enum, value as number);
  // A Struct is JSON already.
  if (field.message) return isStruct(field) ? value : outOf(field.message, value as Message);
  if (typeof value !== "bigint") return value;
  const number = Number(value);
  if (!Number.isSafeInteger(number)) {
    const message = `${field.name} is ${value}, more than a number holds; client.rpc answers it as a bigint`;
    throw new MiError({ code: "OUT_OF_RANGE", message });
  }
  return number;
}

function isStruct(field: DescField): boolean {
  return field.message?.typeName === "google.protobuf.Struct";
}

/** The word of a value, without what its names have in common. The same rule as in scripts/protoc-gen-types.mjs. */
function word(desc: DescEnum, value: number): string {
  const name = desc.value[value]?.name;
  if (name === undefined) return `unknown_${value}`;
  const lower = name.slice(desc.sharedPrefix?.length ?? 0).toLowerCase();
  return desc.name === "AgentPhase" ? lower.charAt(0).toUpperCase() + lower.slice(1) : lower;
}

function into(desc: DescMessage, plain: unknown, path: string): Message {
  switch (desc.typeName) {
    case "google.protobuf.Timestamp":
      return timestamp(plain, path);
    case "google.protobuf.Duration":
      return create(desc, duration(plain, path));
  }
  if (typeof plain !== "object" || plain === null || Array.isArray(plain)) {
    throw MiError.invalid(path || desc.name, "must be an object");
  }
  const values: Values = {};
  for (const [key, value] of Object.entries(plain)) {
    if (value === undefined || value === null) continue;
    const field = desc.fields.find((field) => field.localName === key);
    if (field === undefined) {
      const known = desc.fields.map((field) => field.localName).join(", ");
      throw MiError.invalid(join(path, key), `is not known here; known are ${known}`);
    }
    values[key] = fieldInto(field, value, join(path, key));
  }
  return create(desc, values);
}

function fieldInto(field: DescField, value: unknown, path: string): unknown {
  switch (field.fieldKind) {
    case "list":
      if (!Array.isArray(value)) throw MiError.invalid(path, "must be an array");
      return value.map((item, index) => itemInto(field, item, `${path}[${index}]`));
    case "map":
      if (typeof value !== "object") throw MiError.invalid(path, "must be an object");
      return { ...value };
    default:
      return itemInto(field, value, path);
  }
}

function itemInto(field: DescField, value: unknown, path: string): unknown {
  if (field.enum) return number(field.enum, value, path);
  if (field.message) return isStruct(field) ? value : into(field.message, value, path);
  switch (field.scalar) {
    case ScalarType.INT64: {
      const exact = typeof value === "bigint" || Number.isSafeInteger(value);
      if (!exact) throw MiError.invalid(path, "must be a whole number below 2^53, or a bigint");
      return BigInt(value as number | bigint);
    }
    case ScalarType.INT32:
      if (!Number.isInteger(value)) throw MiError.invalid(path, "must be a whole number");
      return value;
    case ScalarType.STRING:
      if (typeof value !== "string") throw MiError.invalid(path, "must be a string");
      return value;
    case ScalarType.BOOL:
      if (typeof value !== "boolean") throw MiError.invalid(path, "must be true or false");
      return value;
    default:
      return value;
  }
}

function number(desc: DescEnum, value: unknown, path: string): number {
  const known = desc.values.filter((known) => known.number !== 0);
  const found = known.find((known) => word(desc, known.number) === value);
  if (found === undefined) {
    const words = known.map((known) => word(desc, known.number)).join(", ");
    throw MiError.invalid(path, `must be one of ${words}`);
  }
  return found.number;
}

function timestamp(value: unknown, path: string): Timestamp {
  const date = value instanceof Date ? value : new Date(String(value));
  if (Number.isNaN(date.getTime()))
    throw MiError.invalid(path, "must be a Date or a time such as 2026-08-01T12:00:00Z");
  return timestampFromDate(date);
}

function duration(value: unknown, path: string): { seconds: bigint; nanos: number } {
  if (typeof value !== "number" || !Number.isFinite(value)) throw MiError.invalid(path, "must be a number of seconds");
  const whole = Math.trunc(value);
  return { seconds: BigInt(whole), nanos: Math.round((value - whole) * 1e9) };
}

function join(path: string, key: string): string {
  return path === "" ? key : `${path}.${key}`;
}
