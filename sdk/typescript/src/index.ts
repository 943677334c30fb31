/** The TypeScript SDK of mi: one client, plain objects, retries, and streams that resume. */
export { Mi, type MiOptions } from "./mi.js";
export { MiError, type FieldViolation, type MiCode } from "./errors.js";
export type { ApiKey, Protocol } from "./wire.js";
export type { CallOptions, ListOptions, WatchOptions } from "./core.js";
export type { WaitOptions } from "./wait.js";
export type { FileSource } from "./upload.js";
export type { Download } from "./download.js";
export type { Office } from "./resources/offices.js";
export type { AgentChange, AgentUpdate, HireInput, PromoteInput } from "./resources/agents.js";
export type { ActivityOptions, ActivityWatchOptions } from "./resources/activity.js";
export type { LogOptions, TailOptions } from "./resources/logs.js";
export type {
  ClaimInput,
  CompleteInput,
  FailInput,
  TaskChange,
  TaskFilter,
  TaskInput,
  VerifyInput,
} from "./resources/tasks.js";
export type { DeleteOptions, DownloadOptions, UploadOptions } from "./resources/files.js";
export type { HistoryOptions } from "./resources/chat.js";
export { CREDIT, type GrantInput, type UsageInput } from "./resources/credits.js";
export type {
  ActivityEvent,
  ActivityHead,
  Account,
  Agent,
  AgentIntegration,
  AgentPhase,
  AgentStatus,
  ApiKey as ApiKeyInfo,
  Backup,
  Balance,
  Change,
  ChatMessage,
  CompleteTaskResult,
  EmployeeType,
  File,
  Integration,
  Invite,
  LedgerEntry,
  LogLine,
  LogStream,
  ModelTier,
  OfficeSettings,
  OfficeStatus,
  OfficeStatusReport,
  Principal,
  Quota,
  Resources,
  Role,
  Task,
  TaskKind,
  TaskNote,
  TaskStats,
  TaskStatus,
  Usage,
  UsageGroup,
  Verification,
} from "./gen/types.js";
