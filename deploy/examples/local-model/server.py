"""llama_cpp.server, as it is but for one thing: a request with tools is answered by a call of `complete_task`.

The server of PyPI parses no calls of tools out of what a model says, and a model this small chooses none by itself. So it is
shown that one tool, and its answer is bound to the tool's form by a grammar; what the answer says is the model's. Streams of
the server have no usage; this one's has what the model used.
"""

import llama_cpp.server.__main__ as server
from llama_cpp import llama_chat_format as formats

TOOL = "complete_task"
# Characters of a result, so that it ends before the tokens do.
LONGEST = 200
TOKENS = 128


def offer(tools):
    """The tool, with nothing in it that the model could lose its way in."""
    description = next(tool["function"]["description"] for tool in tools if tool["function"]["name"] == TOOL)
    result = {"type": "string", "maxLength": LONGEST}
    parameters = {"type": "object", "properties": {"result": result}, "required": ["result"]}
    return {"type": "function", "function": {"name": TOOL, "description": description, "parameters": parameters}}


def pieces(answer, usage):
    """A whole answer as a stream has it."""
    [choice] = answer["choices"]
    calls = [dict(call, index=index) for index, call in enumerate(choice["message"]["tool_calls"])]
    same = {"id": answer["id"], "object": "chat.completion.chunk", "created": answer["created"], "model": answer["model"]}
    delta = {"role": "assistant", "tool_calls": calls}
    yield dict(same, choices=[{"index": 0, "delta": delta, "finish_reason": None}])
    yield dict(same, choices=[{"index": 0, "delta": {}, "finish_reason": "tool_calls"}])
    yield dict(same, choices=[], usage=usage)


@formats.register_chat_completion_handler("one-tool")
def one_tool(*, llama, messages, tools=None, tool_choice=None, stream=False, max_tokens=None, **rest):
    if not tools:
        return formats.get_chat_completion_handler("chatml")(
            llama=llama, messages=messages, stream=stream, max_tokens=max_tokens, **rest
        )
    answer = formats.get_chat_completion_handler("chatml-function-calling")(
        llama=llama,
        messages=messages,
        tools=[offer(tools)],
        tool_choice={"type": "function", "function": {"name": TOOL}},
        stream=False,
        max_tokens=min(max_tokens or TOKENS, TOKENS),
        **rest,
    )
    return pieces(answer, answer["usage"]) if stream else answer


if __name__ == "__main__":
    server.main()
