"""One round of pgqueuer: 8 queue managers, each with a connection of its own, that take one job or 50 at once."""

import asyncio
import json
import math
import os
import time
from urllib.parse import urlsplit

import asyncpg
import uvloop
from pgqueuer.db import AsyncpgDriver
from pgqueuer.qm import QueueManager
from pgqueuer.queries import Queries

PEER = "pgqueuer"
DATABASE = "peer_pgqueuer"
WORKERS = 8
BATCH = 50
# Jobs before the first that is measured, and seconds for a worker to find that there is no other.
WARM_UP = 20
SETTLE = 0.01


def report(what, unit, value):
    print(json.dumps({"peer": PEER, "what": what, "unit": unit, "value": value}), flush=True)


class Workers:
    """Queue managers that work until they are stopped."""

    def __init__(self, url, count, batch, handler):
        self.url, self.count, self.batch, self.handler = url, count, batch, handler

    async def __aenter__(self):
        self.connections = [await asyncpg.connect(self.url) for _ in range(self.count)]
        self.managers = [QueueManager(Queries(AsyncpgDriver(connection))) for connection in self.connections]
        for manager in self.managers:
            manager.entrypoint("job")(self.handler)
        self.running = [asyncio.create_task(manager.run(batch_size=self.batch)) for manager in self.managers]

    async def __aexit__(self, *_):
        for manager in self.managers:
            manager.shutdown.set()
        await asyncio.gather(*self.running)
        for connection in self.connections:
            await connection.close()


async def latencies(url, queries, count):
    """From before the call that adds a job to the start of the handler in an idle worker."""
    taken = []
    started = asyncio.Queue()

    async def handler(_job):
        started.put_nowait(time.perf_counter())

    async with Workers(url, 1, 1, handler):
        for job in range(-WARM_UP, count):
            await asyncio.sleep(SETTLE)
            begin = time.perf_counter()
            await queries.enqueue("job", None)
            took = await started.get() - begin
            if job >= 0:
                taken.append(took * 1000)
    taken.sort()
    for what, share in [("add -> start by an idle worker, p50", 0.5), ("the same, p99", 0.99)]:
        report(what, "ms", taken[math.ceil(share * len(taken)) - 1])


async def throughput(url, client, queries, what, total, batch):
    """From when the first job starts until none is left in the table."""
    for first in range(0, total, 500):
        count = min(500, total - first)
        await queries.enqueue(["job"] * count, [None] * count, [0] * count)
    await client.execute("ANALYZE")
    begin, seen, everything = None, 0, asyncio.Event()

    async def handler(_job):
        nonlocal begin, seen
        begin = begin or time.perf_counter()
        seen += 1
        if seen == total:
            everything.set()

    async with Workers(url, WORKERS, batch, handler):
        await everything.wait()
        while await client.fetchval("SELECT count(*) FROM pgqueuer") > 0:
            await asyncio.sleep(0.001)
        report(what, "/s", total / (time.perf_counter() - begin))


async def main():
    server_url = os.environ["MI_TEST_POSTGRES"]
    url = urlsplit(server_url)._replace(path=f"/{DATABASE}").geturl()
    server = await asyncpg.connect(server_url)
    # One that a failure left.
    await server.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
    await server.execute(f"CREATE DATABASE {DATABASE}")
    client = await asyncpg.connect(url)
    queries = Queries(AsyncpgDriver(client))
    await queries.install()
    await latencies(url, queries, int(os.environ["PEER_LATENCIES"]))
    for what, jobs, batch in [("one job a call", "PEER_SINGLE", 1), ("50 a call", "PEER_BATCHED", BATCH)]:
        total = int(os.environ[jobs])
        await throughput(url, client, queries, f"8 workers, {what}", total, batch)
    await client.close()
    await server.execute(f"DROP DATABASE {DATABASE}")
    await server.close()


uvloop.run(main())
