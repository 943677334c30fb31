#!/usr/bin/env python3
"""The Agent2Agent protocol's own library, as it comes from PyPI, against a platform: each binding once.

`MI_ENDPOINT`, `MI_API_KEY` and `MI_OFFICE_ID` say where; the office has the agents ann and bob. What came of each binding is
printed as a line of JSON.
"""

import asyncio
import copy
import json
import os
import urllib.request
import uuid

import grpc
import httpx
from a2a.client import ClientConfig, ClientFactory
from a2a.types import a2a_pb2 as pb
from a2a.utils.signing import create_signature_verifier
from jwt import PyJWK

BASE, KEY, OFFICE = (os.environ[name] for name in ("MI_ENDPOINT", "MI_API_KEY", "MI_OFFICE_ID"))
BEARER = ("authorization", f"Bearer {KEY}")


def key(kid, jku):
    keys = json.load(urllib.request.urlopen(jku))["keys"]
    return PyJWK(next(key for key in keys if key["kid"] == kid))


VERIFY = create_signature_verifier(key, ["EdDSA"])


def with_key(details):
    return details._replace(metadata=[*(details.metadata or []), BEARER])


class Unary(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, proceed, details, request):
        return await proceed(with_key(details), request)


class Stream(grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, proceed, details, request):
        return await proceed(with_key(details), request)


def script(text, **fields):
    message = pb.Message(message_id=str(uuid.uuid4()), role=pb.ROLE_USER, parts=[pb.Part(text=text)], **fields)
    message.metadata.update({"mi.kind": "command"})
    return message


async def all_of(stream):
    return [event async for event in stream]


async def refused(call):
    try:
        await call
    except Exception as error:  # The name of it is what is looked at.
        return type(error).__name__
    return "nothing"


def state(status):
    return pb.TaskState.Name(status.state)


async def tried(binding):
    http = httpx.AsyncClient(headers=[BEARER], timeout=30)

    def factory(streaming):
        channel = lambda url: grpc.aio.insecure_channel(url, interceptors=[Unary(), Stream()])
        config = ClientConfig(
            httpx_client=http, supported_protocol_bindings=[binding], streaming=streaming, grpc_channel_factory=channel
        )
        return ClientFactory(config)

    ann = await factory(False).create_from_url(f"{BASE}/a2a/{OFFICE}/ann", signature_verifier=VERIFY)
    bob = await factory(True).create_from_url(f"{BASE}/a2a/{OFFICE}/bob", signature_verifier=VERIFY)
    card = ann._card
    forged = copy.deepcopy(card)
    forged.supported_interfaces[0].url = "https://elsewhere.example"

    async def verified(card):
        VERIFY(card)

    said = {"card": [card.name, card.capabilities.streaming, await refused(verified(forged))]}

    [event] = await all_of(ann.send_message(pb.SendMessageRequest(message=script("echo hello"))))
    task = event.task
    said["blocking"] = [state(task.status), task.artifacts[0].parts[0].text]
    short = await ann.get_task(pb.GetTaskRequest(id=task.id, history_length=0))
    whole = await ann.get_task(pb.GetTaskRequest(id=task.id))
    said["history"] = [len(short.history), whole.history[0].parts[0].text]

    message = script("sleep 0.2; echo streamed", context_id=task.context_id)
    events = await all_of(bob.send_message(pb.SendMessageRequest(message=message)))
    streamed = events[0].task.id
    assert all(event.status_update.task_id == streamed for event in events if event.HasField("status_update"))
    said["streamed"] = [
        events[0].WhichOneof("payload"),
        events[-2].WhichOneof("payload"),
        state(events[-1].status_update.status),
    ]

    at_once = pb.SendMessageConfiguration(return_immediately=True)
    request = pb.SendMessageRequest(message=script("sleep 60"), configuration=at_once)
    [event] = await all_of(factory(False).create(bob._card).send_message(request))
    long = event.task
    told, begun = [], asyncio.Event()

    async def subscribe():
        async for event in bob.subscribe(pb.SubscribeToTaskRequest(id=long.id)):
            begun.set()
            # Whether the agent has begun it by then is a matter of luck.
            if not (event.HasField("status_update") and state(event.status_update.status) == "TASK_STATE_WORKING"):
                told.append(event.WhichOneof("payload"))

    subscribed = asyncio.create_task(subscribe())
    await begun.wait()
    cancelled = await bob.cancel_task(pb.CancelTaskRequest(id=long.id))
    await subscribed
    said["cancelled"] = [state(cancelled.status), told]

    listed = await bob.list_tasks(pb.ListTasksRequest(page_size=1))
    said["listed"] = [len(listed.tasks), bool(listed.next_page_token), listed.total_size, listed.tasks[0].id == long.id]
    done = pb.TASK_STATE_COMPLETED
    conversation = await bob.list_tasks(pb.ListTasksRequest(context_id=task.context_id, status=done))
    said["conversation"] = len([found for found in conversation.tasks if found.id == streamed])

    push = pb.TaskPushNotificationConfig(task_id=task.id, url="https://elsewhere.example")
    file = pb.Message(message_id="file", role=pb.ROLE_USER, parts=[pb.Part(raw=b"\xff", media_type="image/png")])
    send = lambda **fields: all_of(ann.send_message(pb.SendMessageRequest(**fields)))
    said["refused"] = [
        await refused(bob.cancel_task(pb.CancelTaskRequest(id=long.id))),
        await refused(bob.get_task(pb.GetTaskRequest(id="nonsense"))),
        await refused(bob.get_task(pb.GetTaskRequest(id=task.id))),
        await refused(ann.create_task_push_notification_config(push)),
        await refused(
            ann.list_task_push_notification_configs(pb.ListTaskPushNotificationConfigsRequest(task_id=task.id))
        ),
        await refused(
            ann.delete_task_push_notification_config(pb.DeleteTaskPushNotificationConfigRequest(task_id=task.id, id="x"))
        ),
        await refused(all_of(bob.subscribe(pb.SubscribeToTaskRequest(id=streamed)))),
        await refused(send(message=script("more", task_id=task.id))),
        await refused(send(message=file)),
        await refused(send(message=script("x"), tenant=f"{OFFICE}/nobody")),
        await refused(bob.list_tasks(pb.ListTasksRequest(page_size=101))),
    ]
    await ann.close()
    await bob.close()
    await http.aclose()
    print(json.dumps(said), flush=True)


async def main():
    for binding in ("JSONRPC", "HTTP+JSON", "GRPC"):
        await tried(binding)


asyncio.run(main())
