#!/usr/bin/env python3
"""The vendors' own libraries, as they come from PyPI and npm, against whatever the usual variables point to.

    run.py [--packages DIR] [--direct URL]

Each library asks for a text whole, for one in a stream, and for a call of a tool. Every answer has to be the one of the
`sdk` script of `fake-model`, with its usage. The variables (`OPENAI_BASE_URL`, `OPENAI_API_KEY` and so on) are read by
the libraries themselves: an agent's environment does as it is. `--direct URL` sets them for a `fake-model` at this URL.
The packages are installed into DIR, unless they are there already.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
PYPI = ["openai", "anthropic", "google-genai"]
NPM = ["openai", "@anthropic-ai/sdk", "@google/genai", "ai", "@ai-sdk/openai", "@ai-sdk/anthropic", "@ai-sdk/google", "zod"]
TEXT = {"text": "Hello, world.", "tool": None, "usage": [100, 10]}
TOOL = {"text": "", "tool": ["look", {"place": "Paris"}], "usage": [100, 10]}
# One vector: a call of its own kind, without an answer in tokens.
EMBEDDING = {"text": "", "tool": None, "usage": [100, 0]}
LIMIT_SECONDS = 120


def install(packages):
    """The interpreters that find the packages, after they were installed."""
    python, modules = packages / "venv/bin/python", packages / "node_modules"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", packages / "venv"], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PYPI], check=True)
    if not modules.exists():
        subprocess.run(["npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", packages, *NPM], check=True)
    # Programs in JavaScript find packages beside themselves only.
    copy = packages / "javascript.mjs"
    copy.write_text((HERE / "javascript.mjs").read_text())
    return [[python, HERE / "python.py"], ["node", copy]]


def direct(url):
    """The variables for a fake model at this URL."""
    return {
        "ANTHROPIC_BASE_URL": url,
        "OPENAI_BASE_URL": f"{url}/v1",
        "GOOGLE_GEMINI_BASE_URL": url,
        "ANTHROPIC_API_KEY": "key",
        "OPENAI_API_KEY": "key",
        "GEMINI_API_KEY": "key",
    }


def expected(call):
    if call.endswith("tool"):
        return TOOL
    return EMBEDDING if call == "embeddings" else TEXT


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--packages", type=pathlib.Path, default=pathlib.Path("target/sdk"))
    arguments.add_argument("--direct", metavar="URL")
    arguments = arguments.parse_args()
    arguments.packages.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ, **(direct(arguments.direct) if arguments.direct else {}))
    failed = done = 0
    for program in install(arguments.packages.resolve()):
        ran = subprocess.run(program, env=environment, stdout=subprocess.PIPE, text=True, timeout=LIMIT_SECONDS)
        for line in ran.stdout.splitlines():
            said = json.loads(line)
            sdk, call = said.pop("sdk"), said.pop("call")
            good = said == expected(call)
            done, failed = done + 1, failed + (not good)
            print(f"{'ok' if good else 'FAILED'}  {sdk} {call}" + ("" if good else f": {json.dumps(said)}"))
        if ran.returncode != 0:
            failed += 1
            print(f"FAILED  {program[-1].name} ended with {ran.returncode}")
    print(f"{done} calls, {failed} failures")
    sys.exit(1 if failed or done == 0 else 0)


if __name__ == "__main__":
    main()
