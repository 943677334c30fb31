/** The drive: files that an office's agents share. */
import { linked } from "../abort.js";
import type { CallOptions, Core, ListOptions, WatchOptions } from "../core.js";
import { Download, wholly } from "../download.js";
import type * as plain from "../gen/types.js";
import { ChangeSchema, DriveService, FileSchema, type DownloadFileResponse } from "../gen/mi/v1/drive_service_pb.js";
import { MiError } from "../errors.js";
import { expect, toPlain } from "../plain.js";
import { uuid } from "../request-id.js";
import { mayResume, pauseStream, retry } from "../retry.js";
import { Content, upload, type FileSource } from "../upload.js";
import { found } from "../wait.js";

const api = DriveService.method;

/** How a file is written. One that is there already is replaced only with one of the last two. */
export interface UploadOptions {
  /** Media type. Default: `application/octet-stream`. */
  contentType?: string;
  /** Replace this revision, as it was read; another one is a `REVISION_CONFLICT`. */
  ifRevision?: number;
  /** Replace whatever is there. */
  force?: boolean;
  /** The same id again writes nothing and answers the same file. */
  requestId?: string;
  /** Gives the upload up when it fires: the old file stays. */
  signal?: AbortSignal;
}

/** Which part of a file. */
export interface DownloadOptions {
  /** First byte. */
  offset?: number;
  /** How many bytes. Default: to the end. */
  length?: number;
  /** Ends the download when it fires. */
  signal?: AbortSignal;
}

/** Under which condition a file is deleted. */
export type DeleteOptions = CallOptions & Pick<UploadOptions, "ifRevision" | "force">;

/** `client.files` */
export class Files {
  /** @internal */
  constructor(private readonly core: Core) {}

  /** Lists files by path. */
  async list(officeId: string, { prefix, ...options }: ListOptions & { prefix?: string } = {}): Promise<plain.File[]> {
    const files = this.core.pages(api.listFiles, { officeId, prefix }, (answer) => answer.files, options);
    return (await files).map((file) => toPlain(FileSchema, file));
  }

  /** Returns one file without its content. */
  async stat(officeId: string, path: string, options?: CallOptions): Promise<plain.File> {
    return expect(FileSchema, (await this.core.call(api.statFile, { officeId, path }, options)).file);
  }

  /**
   * Writes a file. It is there, whole, when this answers; until then the old one is. Streams are read as they are sent;
   * what is not a stream is sent again when the connection breaks.
   */
  async upload(
    officeId: string,
    path: string,
    source: FileSource,
    { signal, ...given }: UploadOptions = {},
  ): Promise<plain.File> {
    const content = await Content.of(source);
    if (content.isLarge && this.core.uploading) await this.mayWrite(officeId, path, { ...given, signal });
    const { contentType, force, requestId = uuid(), ifRevision = 0 } = given;
    const header = { officeId, path, contentType, ifRevision: BigInt(ifRevision), force, requestId };
    const send = () => upload(this.core.transport, this.core.uploading, header, content, signal);
    try {
      return expect(FileSchema, (await (content.repeats ? retry(send, signal) : send())).file);
    } catch (failure) {
      throw MiError.from(failure);
    }
  }

  /**
   * Refuses what the platform would refuse, before it is sent: an answer that comes while a large body is on its way
   * is lost with the connection, and reads as if nobody were there.
   */
  private async mayWrite(
    officeId: string,
    path: string,
    { ifRevision = 0, force, requestId, signal }: UploadOptions,
  ): Promise<void> {
    const there = await found(this.stat(officeId, path, { signal }));
    // With an id of the caller's own, this may be the same upload once more, which is no conflict.
    if (force || requestId !== undefined || (there?.revision ?? 0) === ifRevision) return;
    const is = there ? `is at revision ${there.revision}` : "is not there";
    const message = `${JSON.stringify(path)} ${is}, and not at revision ${ifRevision}`;
    throw new MiError({ code: "FAILED_PRECONDITION", reason: "REVISION_CONFLICT", message });
  }

  /** Reads a file, or a part of it. Goes on where it was after a lost connection, if the file is still the same. */
  async download(
    officeId: string,
    path: string,
    { offset = 0, length, signal }: DownloadOptions = {},
  ): Promise<Download<plain.File>> {
    if (length === 0) throw MiError.invalid("length", "must be at least 1; leave it out to read to the end");
    const end = linked(signal);
    const open = async (skip: number) => {
      const input = { officeId, path, offset: offset + skip, length: length && length - skip };
      const messages = (await this.core.open(api.downloadFile, input, end.signal))[Symbol.asyncIterator]();
      const { value } = await messages.next();
      return { file: expect(FileSchema, value?.file), first: value, messages };
    };
    const start = await retry(() => open(0), signal);
    const size = Math.max(0, Math.min(length ?? Number.POSITIVE_INFINITY, start.file.size - offset));
    return new Download(start.file, wholly(resuming(start, open, size, end), size), end);
  }

  /** Deletes a file, under the same condition as {@link upload} replaces one. */
  async delete(officeId: string, path: string, { ifRevision, force, ...options }: DeleteOptions = {}): Promise<void> {
    await this.core.call(api.deleteFile, { officeId, path, ifRevision, force }, options);
  }

  /** Lists what changed after a cursor, oldest first; without one, all that is kept. */
  async changes(
    officeId: string,
    { afterCursor = 0, limit, ...options }: ListOptions & { afterCursor?: number } = {},
  ): Promise<plain.Change[]> {
    const all: plain.Change[] = [];
    let cursor = afterCursor;
    while (limit === undefined || all.length < limit) {
      const pageSize = Math.min(200, limit === undefined ? 200 : limit - all.length);
      const answer = await this.core.call(api.listChanges, { officeId, cursor, pageSize }, options);
      if (answer.changes.length === 0) break;
      all.push(...answer.changes.map((change) => toPlain(ChangeSchema, change)));
      cursor = Number(answer.nextCursor);
    }
    return all;
  }

  /**
   * Changes as they happen. Goes on where it was after a lost connection. Starts after `afterCursor`, 0 for all; without
   * one with what is new, and then what changes while a connection is lost before its first message is not told.
   */
  async *watch(
    officeId: string,
    { signal, ...start }: WatchOptions & { afterCursor?: number } = {},
  ): AsyncGenerator<plain.Change, void, undefined> {
    let { afterCursor } = start;
    for await (const answer of this.core.watch(api.watchChanges, () => ({ officeId, afterCursor }), { signal })) {
      const change = expect(ChangeSchema, answer.change);
      afterCursor = change.cursor;
      yield change;
    }
  }
}

interface Reading {
  file: plain.File;
  first: DownloadFileResponse;
  messages: AsyncIterator<DownloadFileResponse>;
}

/** The chunks of a file, read further by another stream when one breaks. */
async function* resuming(
  start: Reading,
  open: (skip: number) => Promise<Reading>,
  size: number,
  end: AbortController,
): AsyncGenerator<Uint8Array> {
  let [received, failures] = [0, 0];
  let reading: Reading | undefined = start;
  let chunk: Uint8Array | undefined = start.first.chunk;
  try {
    for (;;) {
      try {
        if (reading === undefined) {
          reading = await open(received);
          if (reading.file.revision !== start.file.revision) {
            throw new MiError({ code: "ABORTED", message: `${start.file.path} was replaced while it was read` });
          }
          chunk = reading.first.chunk;
        }
        if (chunk === undefined) {
          const next = await reading.messages.next();
          if (next.done) return;
          chunk = next.value.chunk;
        }
      } catch (failure) {
        const error = MiError.from(failure);
        failures += 1;
        if (end.signal.aborted || received >= size || !mayResume(error, failures)) throw error;
        reading = chunk = undefined;
        await pauseStream(failures, error, end.signal);
        continue;
      }
      failures = 0;
      received += chunk.length;
      yield chunk;
      chunk = undefined;
    }
  } finally {
    end.abort();
  }
}
