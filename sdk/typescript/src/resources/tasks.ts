/** Tasks: the queue that an office's agents share. */
import type { CallOptions, Core, ListOptions, WatchOptions } from "../core.js";
import { MiError } from "../errors.js";
import type * as plain from "../gen/types.js";
import {
  CompleteTaskResultSchema,
  TaskNoteSchema,
  TaskSchema,
  TaskService,
  TaskStatsSchema,
} from "../gen/mi/v1/task_service_pb.js";
import { expect, toPlain } from "../plain.js";
import { first, type WaitOptions } from "../wait.js";

const api = TaskService.method;

/** A new task. */
export type TaskInput = Omit<plain.CreateTaskRequest, "officeId"> & { title: string };
/** Which tasks. */
export type TaskFilter = ListOptions & Pick<plain.ListTasksRequest, "statuses" | "assignedAgent" | "parentId">;
/** Which tasks to work on, and how. `wait` and `lease` are seconds. */
export type ClaimInput = Omit<plain.ClaimTasksRequest, "officeId">;
/** What came out. */
export type CompleteInput = Omit<plain.CompleteTaskRequest, "officeId" | "taskId"> & {
  leaseId: string;
  result: string;
};
/** Why it failed. */
export type FailInput = Omit<plain.FailTaskRequest, "officeId" | "taskId"> & { leaseId: string; error: string };
/** A judgement of somebody else's work. */
export type VerifyInput = Omit<plain.VerifyTaskRequest, "officeId" | "taskId"> & { approve: boolean };

/** A change of a task. */
export interface TaskChange {
  /** The task after the change. */
  task: plain.Task;
  /** Position of the change; a watch resumes after it. */
  cursor: number;
}

const FINISHED: readonly plain.TaskStatus[] = ["done", "failed", "cancelled"];

/** `client.tasks` */
export class Tasks {
  /** @internal */
  constructor(private readonly core: Core) {}

  /** Creates a task for the office's agents. */
  async create(officeId: string, input: TaskInput, options?: CallOptions): Promise<plain.Task> {
    return expect(TaskSchema, (await this.core.call(api.createTask, { ...input, officeId }, options)).task);
  }

  /** Creates several tasks, all or none; one may depend on one before it by its position: `#0`. */
  async createMany(officeId: string, inputs: TaskInput[], options?: CallOptions): Promise<plain.Task[]> {
    const answer = await this.core.call(api.batchCreateTasks, { officeId, requests: inputs }, options);
    return answer.tasks.map((task) => toPlain(TaskSchema, task));
  }

  /** Creates a task and waits until it is done; as {@link create} and {@link waitFor}. */
  async run(officeId: string, input: TaskInput, options?: WaitOptions): Promise<plain.Task> {
    const task = await this.create(officeId, input, { signal: options?.signal });
    return this.waitFor(officeId, task.id, options);
  }

  /** Returns one task. */
  async get(officeId: string, taskId: string, options?: CallOptions): Promise<plain.Task> {
    return expect(TaskSchema, (await this.core.call(api.getTask, { officeId, taskId }, options)).task);
  }

  /** Lists tasks, newest first. */
  async list(officeId: string, { limit, signal, timeoutMs, ...filter }: TaskFilter = {}): Promise<plain.Task[]> {
    const options = { limit, signal, timeoutMs };
    const tasks = this.core.pages(api.listTasks, { ...filter, officeId }, (answer) => answer.tasks, options);
    return (await tasks).map((task) => toPlain(TaskSchema, task));
  }

  /**
   * Each task that changes, as it is after the change. Goes on where it was after a lost connection. Starts after
   * `afterCursor`, 0 for every task there is; without one with what changes from now on, and then what changes while a
   * connection is lost before its first message is not told.
   */
  async *watch(
    officeId: string,
    { signal, ...start }: WatchOptions & { afterCursor?: number; taskId?: string } = {},
  ): AsyncGenerator<TaskChange, void, undefined> {
    let { afterCursor } = start;
    const input = () => ({ ...start, officeId, afterCursor });
    for await (const answer of this.core.watch(api.watchTasks, input, { signal })) {
      const change = { task: expect(TaskSchema, answer.task), cursor: Number(answer.cursor) };
      afterCursor = change.cursor;
      yield change;
    }
  }

  /** Waits until a task is done, and returns it; one that is failed or cancelled instead is an error. */
  async waitFor(officeId: string, taskId: string, options: WaitOptions = {}): Promise<plain.Task> {
    const task = await this.waitForFinished(officeId, taskId, options);
    if (task.status === "done") return task;
    throw new MiError({
      code: "FAILED_PRECONDITION",
      reason: task.status === "failed" ? "TASK_FAILED" : "TASK_CANCELLED",
      message: `task ${taskId} is ${task.status}${task.error && `: ${task.error}`}`,
      metadata: { task_id: taskId },
    });
  }

  /** Waits until a task is done, failed or cancelled, and returns it. */
  async waitForFinished(officeId: string, taskId: string, options: WaitOptions = {}): Promise<plain.Task> {
    // Says at once that there is no such task: the watch would wait for one.
    await this.get(officeId, taskId, { signal: options.signal });
    const watch = (signal: AbortSignal) => this.watch(officeId, { taskId, afterCursor: 0, signal });
    try {
      return await first(`task ${taskId} to be finished`, options, watch, ({ task }) =>
        FINISHED.includes(task.status) ? task : undefined,
      );
    } catch (failure) {
      throw await this.explained(failure, officeId, taskId);
    }
  }

  /** A wait that took too long, with what holds the task up, where that is known. */
  private async explained(failure: unknown, officeId: string, taskId: string): Promise<unknown> {
    if (!(failure instanceof MiError) || failure.code !== "DEADLINE_EXCEEDED") return failure;
    const task = await this.get(officeId, taskId).catch(() => undefined);
    const why = task && (task.error || task.blockedReason);
    if (!why) return failure;
    const message = `${failure.message}, which is ${task.status}: ${why}`;
    return new MiError({ code: failure.code, message, metadata: { task_id: taskId }, cause: failure });
  }

  /** Cancels a task that is not finished, and its open subtasks. */
  async cancel(
    officeId: string,
    taskId: string,
    { reason, ...options }: CallOptions & { reason?: string } = {},
  ): Promise<plain.Task> {
    return expect(TaskSchema, (await this.core.call(api.cancelTask, { officeId, taskId, reason }, options)).task);
  }

  /** Puts a failed or cancelled task back into the queue, with a fresh set of attempts. */
  async retry(officeId: string, taskId: string, options?: CallOptions): Promise<plain.Task> {
    return expect(TaskSchema, (await this.core.call(api.retryTask, { officeId, taskId }, options)).task);
  }

  /** Accepts or rejects the work on a task that is `verifying`. */
  async verify(officeId: string, taskId: string, input: VerifyInput, options?: CallOptions): Promise<plain.Task> {
    return expect(TaskSchema, (await this.core.call(api.verifyTask, { ...input, officeId, taskId }, options)).task);
  }

  /** Adds a note to a task. */
  async addNote(officeId: string, taskId: string, body: string, options?: CallOptions): Promise<plain.TaskNote> {
    return expect(TaskNoteSchema, (await this.core.call(api.addTaskNote, { officeId, taskId, body }, options)).note);
  }

  /** Lists a task's notes, oldest first. */
  async notes(officeId: string, taskId: string, options?: ListOptions): Promise<plain.TaskNote[]> {
    const notes = this.core.pages(api.listTaskNotes, { officeId, taskId }, (answer) => answer.notes, options);
    return (await notes).map((note) => toPlain(TaskNoteSchema, note));
  }

  /** Counts the office's tasks by status. */
  async stats(officeId: string, options?: CallOptions): Promise<plain.TaskStats> {
    return expect(TaskStatsSchema, (await this.core.call(api.getTaskStats, { officeId }, options)).stats);
  }

  /** Claims the most urgent tasks to work on them, each under the lease in its `leaseId`; may answer none. */
  async claim(officeId: string, input: ClaimInput = {}, options: CallOptions = {}): Promise<plain.Task[]> {
    // A claim that waits is answered before the platform's own limit, which starts at 30 s.
    const timeoutMs = options.timeoutMs ?? ((input.wait ?? 0) + 30) * 1000;
    const answer = await this.core.call(api.claimTasks, { ...input, officeId }, { ...options, timeoutMs });
    return answer.tasks.map((task) => toPlain(TaskSchema, task));
  }

  /** Prolongs a lease, by `lease` seconds from now (30). */
  async renew(
    officeId: string,
    taskId: string,
    leaseId: string,
    { lease, ...options }: CallOptions & { lease?: number } = {},
  ): Promise<plain.Task> {
    const answer = await this.core.call(api.renewLease, { officeId, taskId, leaseId, lease }, options);
    return expect(TaskSchema, answer.task);
  }

  /** Gives a task back unfinished; the attempt does not count. */
  async release(officeId: string, taskId: string, leaseId: string, options?: CallOptions): Promise<plain.Task> {
    return expect(TaskSchema, (await this.core.call(api.releaseTask, { officeId, taskId, leaseId }, options)).task);
  }

  /** Completes a claimed task. */
  async complete(officeId: string, taskId: string, input: CompleteInput, options?: CallOptions): Promise<plain.Task> {
    return expect(TaskSchema, (await this.core.call(api.completeTask, { ...input, officeId, taskId }, options)).task);
  }

  /** Completes several claimed tasks; each result has its task, or the reason why it was refused. */
  async completeMany(
    officeId: string,
    inputs: (CompleteInput & { taskId: string })[],
    options?: CallOptions,
  ): Promise<plain.CompleteTaskResult[]> {
    const answer = await this.core.call(api.batchCompleteTasks, { officeId, requests: inputs }, options);
    return answer.results.map((result) => toPlain(CompleteTaskResultSchema, result));
  }

  /** Reports that an attempt failed; with `retryable` another one may do better. */
  async fail(officeId: string, taskId: string, input: FailInput, options?: CallOptions): Promise<plain.Task> {
    return expect(TaskSchema, (await this.core.call(api.failTask, { ...input, officeId, taskId }, options)).task);
  }
}
