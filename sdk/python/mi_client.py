"""One connection to the platform, with the caller's key, a deadline and retries on each call.

The stubs themselves are generated: `mi.offices.CreateOffice(CreateOfficeRequest(name="My Colony")).office`.
"""

import json
import os
import pathlib
import sys

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "gen"))

from mi.v1 import (  # noqa: E402
    activity_service_pb2_grpc,
    agent_service_pb2_grpc,
    chat_service_pb2_grpc,
    credit_service_pb2_grpc,
    drive_service_pb2_grpc,
    integration_service_pb2_grpc,
    log_service_pb2_grpc,
    office_service_pb2_grpc,
    task_service_pb2_grpc,
)

CALL_SECONDS = 30

# What was not delivered is sent again. Give calls that make something a `request_id`, so that they make it once.
RETRIES = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}

# Calls that do something new each time, and take no `request_id` to be told apart by.
ONCE = {
    "mi.v1.AgentService": ["RestartAgent", "RotateAgentIdentity"],
    "mi.v1.TaskService": ["CancelTask", "ClaimTasks", "RetryTask", "VerifyTask"],
}


def _service_config() -> str:
    once = [{"service": service, "method": method} for service, methods in ONCE.items() for method in methods]
    return json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": RETRIES}, {"name": once}]})


class _Caller(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamUnaryClientInterceptor):
    """Adds the key to each call, and a deadline to those with one answer to one message."""

    def __init__(self, api_key: str):
        self._header = ("authorization", f"Bearer {api_key}")

    def _with_key(self, details, seconds=None):
        metadata = [*(details.metadata or []), self._header]
        return details._replace(metadata=metadata, timeout=details.timeout or seconds)

    def intercept_unary_unary(self, call, details, request):
        return call(self._with_key(details, CALL_SECONDS), request)

    def intercept_unary_stream(self, call, details, request):
        return call(self._with_key(details), request)

    def intercept_stream_unary(self, call, details, requests):
        return call(self._with_key(details), requests)


class Mi:
    """The services of a platform. Close it, or use it in a `with`."""

    def __init__(self, endpoint: str | None = None, api_key: str | None = None):
        endpoint = endpoint or os.environ.get("MI_ENDPOINT") or "http://127.0.0.1:7400"
        scheme, _, address = endpoint.rstrip("/").partition("://")
        if scheme not in ("http", "https") or not address:
            raise ValueError(f"endpoint {endpoint!r} is no URL such as http://127.0.0.1:7400")
        options = [("grpc.service_config", _service_config()), ("grpc.max_receive_message_length", 64 << 20)]
        if scheme == "https":
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(), options)
        else:
            self._channel = grpc.insecure_channel(address, options)
        key = api_key or os.environ.get("MI_API_KEY", "")
        channel = grpc.intercept_channel(self._channel, _Caller(key)) if key else self._channel
        self.offices = office_service_pb2_grpc.OfficeServiceStub(channel)
        self.agents = agent_service_pb2_grpc.AgentServiceStub(channel)
        self.tasks = task_service_pb2_grpc.TaskServiceStub(channel)
        self.files = drive_service_pb2_grpc.DriveServiceStub(channel)
        self.chat = chat_service_pb2_grpc.ChatServiceStub(channel)
        self.integrations = integration_service_pb2_grpc.IntegrationServiceStub(channel)
        self.credits = credit_service_pb2_grpc.CreditServiceStub(channel)
        self.logs = log_service_pb2_grpc.LogServiceStub(channel)
        self.activity = activity_service_pb2_grpc.ActivityServiceStub(channel)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> "Mi":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def reason(error: grpc.RpcError) -> str:
    """The platform's own word for why a call failed, e.g. `INTEGRATION_NOT_CONFIGURED`; empty: it gave none."""
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status else []:
        if detail.Unpack(info):
            return info.reason
    return ""
