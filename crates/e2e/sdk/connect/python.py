"""Every public RPC through the Connect library of PyPI, one line of JSON a codec."""

import importlib
import inspect
import json
import os
import pathlib

from connectrpc.code import Code
from connectrpc.codec import proto_binary_codec, proto_json_codec
from connectrpc.errors import ConnectError

# What would end the office or the process, and is not called.
LEFT_OUT = ["delete_office", "suspend_office", "rotate_master_key"]
# What no caller should see.
STRANGE = [Code.UNKNOWN, Code.INTERNAL, Code.UNIMPLEMENTED, Code.UNAVAILABLE]
# How long a stream is looked at, in milliseconds.
LOOK = 300
ENDPOINT = os.environ["MI_ENDPOINT"]
HEADERS = {"authorization": f"Bearer {os.environ['MI_API_KEY']}"}


def stubs():
    """The clients' classes, each with the messages of its service."""
    directory = pathlib.Path(__file__).parent / "stubs/mi/v1"
    for file in sorted(directory.glob("*_service_connect.py")):
        module = importlib.import_module(f"stubs.mi.v1.{file.stem}")
        messages = importlib.import_module(f"stubs.mi.v1.{file.stem.replace('_connect', '_pb')}")
        client = next(one for name, one in vars(module).items() if name.endswith("ServiceClientSync"))
        yield client, messages


def calls(client, messages):
    """The RPCs of a client: the name, how it is called, and the class of its request."""
    for name, function in inspect.getmembers(client, inspect.isfunction):
        text = inspect.getsource(function)
        kind = next((kind for kind in ["unary", "server_stream", "client_stream", "bidi_stream"] if f"execute_{kind}" in text), None)
        if kind and name in vars(client) and name not in LEFT_OUT:
            wanted = name.replace("_", "") + "request"
            yield name, function, kind, next(one for key, one in vars(messages).items() if key.lower() == wanted)


def call(client, function, kind, request):
    if kind == "unary":
        function(client, request, headers=HEADERS)
    elif kind == "client_stream":
        function(client, iter([request]), headers=HEADERS)
    else:
        sent = request if kind == "server_stream" else iter([request])
        next(iter(function(client, sent, headers=HEADERS, timeout_ms=LOOK)), None)


def main():
    classes = list(stubs())
    for codec in [proto_json_codec(), proto_binary_codec()]:
        told = {"library": f"python, {codec.name()}", "unary": 0, "streams": 0, "strange": []}
        offices, messages = next(pair for pair in classes if pair[0].__name__ == "OfficeServiceClientSync")
        created = offices(ENDPOINT, codec=codec).create_office(messages.CreateOfficeRequest(name="python"), headers=HEADERS)
        for cls, messages in classes:
            client = cls(ENDPOINT, codec=codec)
            for name, function, kind, request in calls(cls, messages):
                try:
                    request = request(office_id=created.office.id)
                except (AttributeError, TypeError, ValueError):
                    request = request()
                try:
                    call(client, function, kind, request)
                except ConnectError as error:
                    if error.code in STRANGE:
                        told["strange"].append(f"{cls.__name__}.{name}: {error.code} {error.message}")
                told["unary" if kind == "unary" else "streams"] += 1
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
