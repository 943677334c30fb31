/**
 * Sending a whole file as one stream of messages.
 *
 * `fetch` has no streams of messages towards a server, but it has bodies that are streams, or made of pieces of a Blob,
 * which browsers keep on disk: the body is put together here, behind the header that the transport wrote.
 */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Transport } from "@connectrpc/connect";
import { DriveService, type UploadFileRequestSchema, type UploadFileResponse } from "./gen/mi/v1/drive_service_pb.js";

/** What a file is written from. What is a stream is read once; everything else can be sent again. */
export type FileSource = string | Uint8Array | Blob | ReadableStream<Uint8Array> | AsyncIterable<Uint8Array>;

/** A transport like another one, whose bodies are made by `body` of the first message. */
export type Uploading = (body: (first: Uint8Array<ArrayBuffer>) => Blob | ReadableStream<Uint8Array>) => Transport;

/** The platform takes chunks of at most 1 MiB. */
const CHUNK_BYTES = 256 * 1024;

const method = DriveService.method.uploadFile;
type Part = MessageInitShape<typeof UploadFileRequestSchema>;
type Header = Extract<Part["part"], { case: "header" }>["value"];

/** A source that can be read as chunks. */
export class Content {
  private constructor(private readonly source: Blob | AsyncIterable<Uint8Array>) {}

  /** Browsers take no streams as bodies, or only over HTTP/2: there a stream is put into a Blob first. */
  static async of(source: FileSource): Promise<Content> {
    if (typeof source === "string" || source instanceof Uint8Array) {
      return new Content(new Blob([source as string | Uint8Array<ArrayBuffer>]));
    }
    if (source instanceof Blob) return new Content(source);
    const chunks = source instanceof ReadableStream ? chunksOf(source) : source;
    if (!inBrowser()) return new Content(chunks);
    return new Content(await new Response(streamOf(chunks)).blob());
  }

  /** Whether it can be read again. */
  get repeats(): boolean {
    return this.source instanceof Blob;
  }

  /** Whether it is more than goes out at once, as far as that is known. */
  get isLarge(): boolean {
    return !(this.source instanceof Blob) || this.source.size > CHUNK_BYTES;
  }

  /** The content in pieces of at most a chunk. */
  async *chunks(): AsyncGenerator<Uint8Array> {
    const chunks = this.source instanceof Blob ? chunksOf(this.source.stream()) : this.source;
    for await (const chunk of chunks) {
      for (let at = 0; at < chunk.length; at += CHUNK_BYTES) yield chunk.subarray(at, at + CHUNK_BYTES);
    }
  }

  /** The body of a request: the first message, then the content in messages of a chunk each. */
  body(first: Uint8Array<ArrayBuffer>): Blob | ReadableStream<Uint8Array> {
    const { source } = this;
    if (!(source instanceof Blob)) return streamOf(framed(first, this.chunks()));
    const parts: BlobPart[] = [first];
    for (let at = 0; at < source.size; at += CHUNK_BYTES) {
      const chunk = source.slice(at, at + CHUNK_BYTES);
      parts.push(frame(chunk.size), chunk);
    }
    return new Blob(parts);
  }
}

/** Sends a file, once. */
export async function upload(
  transport: Transport,
  uploading: Uploading | undefined,
  header: Header,
  content: Content,
  signal: AbortSignal | undefined,
): Promise<UploadFileResponse> {
  const first: Part = { part: { case: "header", value: header } };
  const answer = uploading
    ? await uploading((first) => content.body(first)).stream(
        // To the transport it is a call with one message, whose body happens to be longer.
        { ...method, methodKind: "server_streaming" },
        signal,
        undefined,
        undefined,
        (async function* () {
          yield first;
        })(),
      )
    : await transport.stream(method, signal, undefined, undefined, parts(first, content));
  let file: UploadFileResponse | undefined;
  for await (const message of answer.message) file = message;
  if (file === undefined) throw new Error("the platform ended the upload without an answer");
  return file;
}

async function* parts(first: Part, content: Content): AsyncGenerator<Part> {
  yield first;
  for await (const chunk of content.chunks()) {
    yield { part: { case: "chunk", value: chunk as Uint8Array<ArrayBuffer> } };
  }
}

async function* framed(first: Uint8Array, chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  yield first;
  for await (const chunk of chunks) {
    yield frame(chunk.length);
    yield chunk;
  }
}

/** What comes before the bytes of a chunk: the envelope of a message, and in it the tag of `chunk` and its length. */
function frame(length: number): Uint8Array<ArrayBuffer> {
  const tag = [(2 << 3) | 2];
  for (let rest = length; ; rest >>>= 7) {
    if (rest < 0x80) {
      tag.push(rest);
      break;
    }
    tag.push((rest & 0x7f) | 0x80);
  }
  const frame = new Uint8Array(5 + tag.length);
  new DataView(frame.buffer).setUint32(1, tag.length + length);
  frame.set(tag, 5);
  return frame;
}

/** The chunks of a stream; not every browser can iterate one by itself. */
export async function* chunksOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array> {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

/** A stream of chunks that is read no faster than it is taken from. */
export function streamOf(chunks: AsyncIterable<Uint8Array>): ReadableStream<Uint8Array<ArrayBuffer>> {
  const iterator = chunks[Symbol.asyncIterator]();
  return new ReadableStream<Uint8Array<ArrayBuffer>>(
    {
      async pull(controller) {
        const next = await iterator.next();
        if (next.done) controller.close();
        else controller.enqueue(next.value as Uint8Array<ArrayBuffer>);
      },
      async cancel() {
        await iterator.return?.();
      },
    },
    { highWaterMark: 0 },
  );
}

function inBrowser(): boolean {
  return "document" in globalThis || "importScripts" in globalThis;
}
