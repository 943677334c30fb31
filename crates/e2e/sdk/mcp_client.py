"""An MCP client, `mcp` of PyPI as it is, in both eras of the protocol: hires an agent and gets a task done."""

import asyncio
import json
import os
import sys

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

URL, TOKEN, OFFICE = os.environ["MI_MCP_URL"], os.environ["MI_MCP_TOKEN"], os.environ["MI_OFFICE_ID"]


async def main(mode):
    http = httpx2.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60)
    async with Client(streamable_http_client(URL, http_client=http), mode=mode) as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
        name = f"py-{mode[:4]}"
        hired = await client.call_tool("hire_agent", {"office_id": OFFICE, "name": name})
        assert not hired.is_error, hired
        progress = []

        async def note(done, total, message):
            progress.append(message)

        arguments = {
            "office_id": OFFICE,
            "title": "greet",
            "kind": "TASK_KIND_COMMAND",
            "description": "echo hello from $((40 + 2))",
            "assigned_agent": name,
            "wait": True,
        }
        done = await client.call_tool("create_task", arguments, progress_callback=note)
        task = done.structured_content["task"]
        written = await client.call_tool("write_file", {"office_id": OFFICE, "path": f"{name}.txt", "text": "héllo"})
        assert not written.is_error, written
        read = await client.read_resource(f"mi://office/{OFFICE}/files/{name}.txt")
        listed = [str(resource.uri) for resource in (await client.list_resources()).resources]
        refused = await client.call_tool("get_agent", {"office_id": OFFICE, "name": "nobody"})
        told = {
            "tools": len(names),
            "status": task["status"],
            "greeted": "hello from 42" in task["result"],
            "noted": bool(progress) and "done" in progress[-1],
            "read": read.contents[0].text,
            "listed": f"mi://office/{OFFICE}/files/{name}.txt" in listed,
            "refused": [refused.is_error, refused.structured_content["error"]["reason"]],
        }
        print(json.dumps(told), flush=True)


for mode in sys.argv[1:]:
    asyncio.run(main(mode))
