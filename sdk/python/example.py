"""An office, an agent, a file, a task and its result. Needs no model."""

import uuid

import grpc
from mi_client import Mi, reason

from mi.v1 import agent_service_pb2 as agents
from mi.v1 import drive_service_pb2 as drive
from mi.v1 import office_service_pb2 as offices
from mi.v1 import task_service_pb2 as tasks


def once() -> str:
    return str(uuid.uuid4())


with Mi() as mi:  # MI_ENDPOINT and MI_API_KEY
    request = offices.CreateOfficeRequest(name="My Colony", request_id=once())
    office = mi.offices.CreateOffice(request).office

    request = agents.HireAgentRequest(office_id=office.id, name="analyst", request_id=once())
    mi.agents.HireAgent(request)
    for change in mi.agents.WatchAgents(agents.WatchAgentsRequest(office_id=office.id)):
        if change.agent.status.phase == agents.AGENT_PHASE_RUNNING:
            print(f"{change.agent.name} is running")
            break

    header = drive.UploadHeader(office_id=office.id, path="input.txt", request_id=once())
    parts = [drive.UploadFileRequest(header=header), drive.UploadFileRequest(chunk=b"one\ntwo\n")]
    file = mi.files.UploadFile(iter(parts)).file
    print(f"{file.path} has {file.size} bytes")

    request = tasks.CreateTaskRequest(
        office_id=office.id, title="count", kind=tasks.TASK_KIND_COMMAND, description="seq 3 | wc -l", request_id=once()
    )
    task = mi.tasks.CreateTask(request).task
    watch = tasks.WatchTasksRequest(office_id=office.id, task_id=task.id, after_cursor=0)
    for change in mi.tasks.WatchTasks(watch):
        if change.task.HasField("finished_at"):
            print(change.task.result)
            break

    try:
        mi.agents.HireAgent(agents.HireAgentRequest(office_id=office.id, name="writer", provider="anthropic"))
    except grpc.RpcError as error:
        print(f"nobody was hired: {reason(error)}")

    mi.offices.DeleteOffice(offices.DeleteOfficeRequest(office_id=office.id))
