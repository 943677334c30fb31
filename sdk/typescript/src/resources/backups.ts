/** Backups: archives of the workspaces of agents that were fired. */
import { linked } from "../abort.js";
import type { CallOptions, Core, ListOptions } from "../core.js";
import { Download, wholly } from "../download.js";
import { MiError } from "../errors.js";
import type * as plain from "../gen/types.js";
import { AgentService, BackupSchema, type DownloadBackupResponse } from "../gen/mi/v1/agent_service_pb.js";
import { expect, toPlain } from "../plain.js";
import { retry } from "../retry.js";

const api = AgentService.method;

/** `client.backups`. A new agent starts with one by `hire(officeId, { name, restoreFromBackup: id })`. */
export class Backups {
  /** @internal */
  constructor(private readonly core: Core) {}

  /** Lists an office's backups, newest first. */
  async list(officeId: string, options?: ListOptions): Promise<plain.Backup[]> {
    const backups = this.core.pages(api.listBackups, { officeId }, (answer) => answer.backups, options);
    return (await backups).map((backup) => toPlain(BackupSchema, backup));
  }

  /** Reads a backup: a tar archive, compressed with zstd. */
  async download(
    officeId: string,
    backupId: string,
    { signal }: Pick<CallOptions, "signal"> = {},
  ): Promise<Download<plain.Backup>> {
    const end = linked(signal);
    const { messages, head } = await retry(async () => {
      const messages = (await this.core.open(api.downloadBackup, { officeId, backupId }, end.signal))[
        Symbol.asyncIterator
      ]();
      return { messages, head: (await messages.next()).value as DownloadBackupResponse | undefined };
    }, signal);
    const backup = expect(BackupSchema, head?.backup);
    return new Download(backup, wholly(chunks(head!, messages, end), backup.sizeBytes), end);
  }

  /** Deletes a backup for good. */
  async delete(officeId: string, backupId: string, options?: CallOptions): Promise<void> {
    await this.core.call(api.deleteBackup, { officeId, backupId }, options);
  }
}

async function* chunks(
  head: DownloadBackupResponse,
  messages: AsyncIterator<DownloadBackupResponse>,
  end: AbortController,
): AsyncGenerator<Uint8Array> {
  try {
    yield head.chunk;
    for (;;) {
      const next = await messages.next();
      if (next.done) return;
      yield next.value.chunk;
    }
  } catch (failure) {
    throw MiError.from(failure);
  } finally {
    end.abort();
  }
}
