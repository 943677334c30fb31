"""Writes gen/: the messages and stubs of proto/mi/v1, by the compiler that comes with grpcio-tools."""

import pathlib
import sys
from importlib import resources

from grpc_tools import protoc

HERE = pathlib.Path(__file__).resolve().parent
PROTO = HERE.parent.parent / "proto"


def generate(out: pathlib.Path = HERE / "gen") -> None:
    out.mkdir(exist_ok=True)
    files = sorted(str(path) for path in PROTO.glob("mi/v1/*.proto"))
    well_known = resources.files("grpc_tools") / "_proto"
    to = [f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}"]
    if protoc.main(["protoc", f"-I{PROTO}", f"-I{well_known}", *to, *files]) != 0:
        sys.exit("the compiler refused the protocol")


if __name__ == "__main__":
    generate()
