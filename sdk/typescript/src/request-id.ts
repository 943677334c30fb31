/** The ids by which the platform knows a call that is sent again. */
import type { DescMessage, Message } from "@bufbuild/protobuf";

/** Gives each request that takes an id one of its own, before the first try, so that all tries carry the same. */
export function fillRequestIds(desc: DescMessage, message: Message): void {
  const values = message as unknown as Record<string, unknown>;
  for (const field of desc.fields) {
    if (field.localName === "requestId" && values["requestId"] === "") values["requestId"] = uuid();
    if (field.fieldKind === "list" && field.listKind === "message" && field.message.name.endsWith("Request")) {
      for (const item of values[field.localName] as Message[]) fillRequestIds(field.message, item);
    }
  }
}

/** A random UUID; `crypto.randomUUID` is not there on pages without TLS. */
export function uuid(): string {
  if (typeof crypto.randomUUID === "function") return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6]! & 0x0f) | 0x40;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}
