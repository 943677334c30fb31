/** The protocol's own services and messages, for `client.rpc` and for programs that speak Connect themselves. */
export * from "./gen/mi/v1/access_service_pb.js";
export * from "./gen/mi/v1/activity_service_pb.js";
export * from "./gen/mi/v1/agent_service_pb.js";
export * from "./gen/mi/v1/chat_service_pb.js";
export * from "./gen/mi/v1/credit_service_pb.js";
export * from "./gen/mi/v1/drive_service_pb.js";
export * from "./gen/mi/v1/integration_service_pb.js";
export * from "./gen/mi/v1/log_service_pb.js";
export * from "./gen/mi/v1/office_service_pb.js";
export * from "./gen/mi/v1/quota_pb.js";
export * from "./gen/mi/v1/task_service_pb.js";
