/** Reading a whole file as a stream of chunks, with no more of it in memory than is being read. */
import { MiError } from "./errors.js";
import { streamOf } from "./upload.js";

/** A file that is being read, once: by one of its methods, or by iterating over it. What is not read is cancelled. */
export class Download<T> implements AsyncIterable<Uint8Array> {
  /** @internal */
  constructor(
    /** What is read. */
    readonly info: T,
    private readonly chunks: AsyncGenerator<Uint8Array, void, undefined>,
    private readonly end: AbortController,
  ) {}

  /** The content, chunk by chunk. Leaving the loop ends the download. */
  [Symbol.asyncIterator](): AsyncIterator<Uint8Array, void, undefined> {
    return {
      next: () => this.chunks.next(),
      return: async () => {
        this.cancel();
        return this.chunks.return();
      },
    };
  }

  /** Ends the download; for what is not going to be read. */
  cancel(): void {
    this.end.abort();
  }

  /** The content as a stream, for what takes one: `new Response(download.stream())`. */
  stream(): ReadableStream<Uint8Array<ArrayBuffer>> {
    return streamOf(this);
  }

  /** The whole content, in memory. */
  async bytes(): Promise<Uint8Array> {
    return new Uint8Array(await new Response(this.stream()).arrayBuffer());
  }

  /** The whole content as text, which must be UTF-8. */
  async text(): Promise<string> {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(await this.bytes());
  }

  /** The whole content as a Blob, which browsers may keep on disk. */
  async blob(): Promise<Blob> {
    return new Response(this.stream()).blob();
  }
}

/** The chunks of messages of which the first, that was read already, may have one too; all in all so many bytes. */
export async function* wholly(
  chunks: AsyncIterable<Uint8Array>,
  size: number,
): AsyncGenerator<Uint8Array, void, undefined> {
  let received = 0;
  for await (const chunk of chunks) {
    received += chunk.length;
    if (chunk.length > 0) yield chunk;
  }
  if (received !== size) {
    throw new MiError({ code: "DATA_LOSS", message: `${received} bytes came of ${size}` });
  }
}
