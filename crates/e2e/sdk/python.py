"""The libraries of PyPI: prints a line of JSON for each call. Started by run.py."""

import json
import os

import anthropic
import openai
from google import genai
from google.genai import types

CLAUDE = os.environ.get("SDK_CLAUDE", "claude-sonnet-4-5")
GPT = os.environ.get("SDK_GPT", "gpt-5.5")
GEMINI = os.environ.get("SDK_GEMINI", "gemini-2.5-flash")
EMBEDDING = os.environ.get("SDK_EMBEDDING", "text-embedding-3-small")
SCHEMA = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
LOOK = {"name": "look", "description": "Looks at a place."}
PROMPT = "Say hello."


def say(sdk, call, text, tool, usage):
    print(json.dumps({"sdk": f"python {sdk}", "call": call, "text": text, "tool": tool, "usage": usage}), flush=True)


def with_openai():
    client = openai.OpenAI(max_retries=0)
    asked = {"model": GPT, "messages": [{"role": "user", "content": PROMPT}]}
    used = lambda usage: [usage.prompt_tokens, usage.completion_tokens]

    answer = client.chat.completions.create(**asked)
    say("openai", "chat", answer.choices[0].message.content, None, used(answer.usage))

    text, usage = "", None
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        usage = chunk.usage or usage
    say("openai", "chat stream", text, None, used(usage))

    tools = [{"type": "function", "function": {**LOOK, "parameters": SCHEMA}}]
    with client.chat.completions.stream(**asked, tools=tools, stream_options={"include_usage": True}) as stream:
        answer = stream.get_final_completion()
    message = answer.choices[0].message
    function = message.tool_calls[0].function
    say("openai", "chat tool", message.content or "", [function.name, json.loads(function.arguments)], used(answer.usage))

    asked = {"model": GPT, "input": PROMPT}
    used = lambda usage: [usage.input_tokens, usage.output_tokens]
    answer = client.responses.create(**asked)
    say("openai", "responses", answer.output_text, None, used(answer.usage))

    text = ""
    with client.responses.stream(**asked) as stream:
        for event in stream:
            text += event.delta if event.type == "response.output_text.delta" else ""
        answer = stream.get_final_response()
    assert text == answer.output_text, (text, answer)
    say("openai", "responses stream", text, None, used(answer.usage))

    answer = client.responses.create(**asked, tools=[{"type": "function", **LOOK, "parameters": SCHEMA}])
    call = answer.output[0]
    say("openai", "responses tool", answer.output_text, [call.name, json.loads(call.arguments)], used(answer.usage))

    answer = client.embeddings.create(model=EMBEDDING, input=["one"])
    assert answer.data[0].embedding == [0.25, 0.5, -0.25], answer
    say("openai", "embeddings", "", None, [answer.usage.prompt_tokens, 0])


def with_anthropic():
    client = anthropic.Anthropic(max_retries=0)
    asked = {"model": CLAUDE, "max_tokens": 100, "messages": [{"role": "user", "content": PROMPT}]}
    used = lambda answer: [answer.usage.input_tokens, answer.usage.output_tokens]

    answer = client.messages.create(**asked)
    say("anthropic", "messages", answer.content[0].text, None, used(answer))

    with client.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
        answer = stream.get_final_message()
    say("anthropic", "messages stream", text, None, used(answer))

    with client.messages.stream(**asked, tools=[{**LOOK, "input_schema": SCHEMA}]) as stream:
        answer = stream.get_final_message()
    call = answer.content[0]
    say("anthropic", "messages tool", "", [call.name, call.input], used(answer))


def with_gemini():
    client = genai.Client()
    asked = {"model": GEMINI, "contents": PROMPT}
    used = lambda usage: [usage.prompt_token_count, usage.candidates_token_count]

    answer = client.models.generate_content(**asked)
    say("google-genai", "content", answer.text, None, used(answer.usage_metadata))

    text, usage = "", None
    for chunk in client.models.generate_content_stream(**asked):
        text += chunk.text or ""
        usage = chunk.usage_metadata or usage
    say("google-genai", "content stream", text, None, used(usage))

    declaration = types.FunctionDeclaration(**LOOK, parameters_json_schema=SCHEMA)
    config = types.GenerateContentConfig(tools=[types.Tool(function_declarations=[declaration])])
    answer = client.models.generate_content(**asked, config=config)
    call = answer.function_calls[0]
    say("google-genai", "content tool", "", [call.name, call.args], used(answer.usage_metadata))


with_openai()
with_anthropic()
with_gemini()
