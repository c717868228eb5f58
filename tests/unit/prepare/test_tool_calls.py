from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from support.dataset_files import dataset
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.conversations import Conversation
from tunesmith_stages.prepare.recognition import reader_of
from tunesmith_stages.prepare.row import Row
from tunesmith_stages.program import StageError


def conversation(data: Mapping[str, Any], **changes: Any) -> Conversation:
    row = Row("calls.jsonl, line 1", data)
    return reader_of(dataset(**changes), [row]).read(row)


LOOK = {"name": "look", "arguments": {"where": "here", "deep": {"é": [1, None]}}}
WAIT = {"name": "wait", "arguments": {}}
BARE = {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": BARE}
ASK, SAY = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}


def wrapped(call: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": call}


def as_text(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call as OpenAI's API gives it: the arguments are a text."""
    return {"name": call["name"], "arguments": json.dumps(call["arguments"])}


def openai(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {"messages": [ASK, {"role": "assistant", **answer}]}


def sharegpt(value: str) -> dict[str, Any]:
    return {"conversations": [{"from": "human", "value": "Hi"}, {"from": "function_call", "value": value}]}


CALLS: dict[str, tuple[dict[str, Any], str, list[dict[str, Any]]]] = {
    "OpenAI": (openai({"content": None, "tool_calls": [{"type": "function", "function": as_text(LOOK)}]}), "", [LOOK]),
    "with words before": (openai({"content": "So:", "tool_calls": [wrapped(LOOK)]}), "So:", [LOOK]),
    "arguments under the name that Llama gives them": (
        openai({"content": "", "tool_calls": [{"name": "look", "parameters": LOOK["arguments"]}]}),
        "",
        [LOOK],
    ),
    "several": (openai({"content": "", "tool_calls": [wrapped(LOOK), wrapped(as_text(WAIT))]}), "", [LOOK, WAIT]),
    "bare": (openai({"content": "", "tool_calls": [LOOK]}), "", [LOOK]),
    "no content": (openai({"tool_calls": [LOOK]}), "", [LOOK]),
    "a list in a text": (openai({"content": "", "tool_calls": json.dumps([LOOK])}), "", [LOOK]),
    "the older way": (openai({"content": None, "function_call": as_text(LOOK)}), "", [LOOK]),
    "without arguments": (
        openai({"content": "", "tool_calls": [{"function": {"name": "wait", "arguments": ""}}]}),
        "",
        [WAIT],
    ),
    "with thoughts": (
        openai({"content": None, "reasoning_content": "Hm.", "tool_calls": [LOOK]}),
        "<think>\nHm.\n</think>\n\n",
        [LOOK],
    ),
    "LLaMA-Factory's parts": (
        openai({"content": [{"type": "reasoning", "value": "Hm."}, {"type": "tool_call", "value": json.dumps(LOOK)}]}),
        "<think>\nHm.\n</think>\n\n",
        [LOOK],
    ),
    "ShareGPT": (sharegpt(json.dumps(LOOK)), "", [LOOK]),
    "ShareGPT with several": (sharegpt(json.dumps([LOOK, as_text(WAIT)])), "", [LOOK, WAIT]),
    "ShareGPT with thoughts": (
        sharegpt(f"<think>\nHm.\n</think>\n\n{json.dumps(LOOK)}"),
        "<think>\nHm.\n</think>\n\n",
        [LOOK],
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls(name: str) -> None:
    """However a call is written, it becomes one of OpenAI's form, with the arguments as an object in their order."""
    data, content, calls = CALLS[name]
    answer = conversation(data).messages[-1]
    assert (answer["role"], answer["content"]) == ("assistant", content)
    assert json.dumps(answer["tool_calls"]) == json.dumps([wrapped(call) for call in calls])


def test_ids_and_names_are_kept() -> None:
    """Some templates write the ids of calls and the names of tools."""
    data = {
        "messages": [
            ASK,
            {"role": "assistant", "content": "", "tool_calls": [{"id": "a1", **wrapped(LOOK)}]},
            {"role": "tool", "content": "5", "tool_call_id": "a1", "name": "look", "other": 1},
            SAY,
        ]
    }
    call, result = conversation(data).messages[1:3]
    assert call["tool_calls"] == [{"id": "a1", **wrapped(LOOK)}]
    assert result == {"role": "tool", "content": "5", "tool_call_id": "a1", "name": "look"}


@pytest.mark.parametrize("role", ["observation", "tool"])
def test_observations(role: str) -> None:
    """What a tool returned is a message of the role `tool`."""
    turns = [
        *sharegpt(json.dumps(LOOK))["conversations"],
        {"from": role, "value": "5"},
        {"from": "gpt", "value": "Five"},
    ]
    assert [message["role"] for message in conversation({"conversations": turns}).messages] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]


def test_tags_of_calls() -> None:
    """The words for calls and observations can be a dataset's own."""
    turns = [{"from": who, "value": what} for who, what in (("human", "Hi"), ("act", json.dumps(LOOK)), ("see", "5"))]
    data = {"conversations": [*turns, {"from": "gpt", "value": "Five"}]}
    found = conversation(data, tags={"function": "act", "observation": "see"})
    assert [message["role"] for message in found.messages] == ["user", "assistant", "tool", "assistant"]


TOOLS: dict[str, tuple[object, object]] = {
    "a list": ([TOOL], [TOOL]),
    "bare functions": ([BARE], [TOOL]),
    "a text": (json.dumps([BARE]), [TOOL]),
    "a list of texts": ([json.dumps(TOOL)], [TOOL]),
    "an empty list": ([], None),
    "an empty list in a text": ("[]", None),
    "an empty text": ("", None),
    "null": (None, None),
}


@pytest.mark.parametrize("name", TOOLS)
@pytest.mark.parametrize(
    "data",
    [
        {"messages": [ASK, SAY]},
        sharegpt(json.dumps(LOOK)),
        {"prompt": [ASK], "completion": [SAY]},
        {"prompt": "Hi", "completion": "Hello"},
    ],
)
def test_tools(name: str, data: Mapping[str, Any]) -> None:
    """Tools are a list of objects of the type function, however they are written."""
    given, tools = TOOLS[name]
    assert conversation({**data, "tools": given}).tools == tools


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a call that is no JSON": (sharegpt('{"name": "look"'), "`conversations[1].value` is a text that is not JSON"),
    "a call in words": (sharegpt("look here"), "`conversations[1].value` must be a call of a tool, {name, arguments}"),
    "no call": (sharegpt("[]"), "`conversations[1].value` holds no call"),
    "a call without a name": (sharegpt('{"arguments": {}}'), "must be a call of a tool, {name, arguments}"),
    "arguments that are a list": (
        sharegpt('{"name": "look", "arguments": [1]}'),
        "the arguments of `conversations[1].value` must be an object, got [1]",
    ),
    "arguments that are no JSON": (
        openai({"content": "", "tool_calls": [wrapped({"name": "look", "arguments": "{where}"})]}),
        "`messages[1].tool_calls[0].arguments` is a text that is not JSON",
    ),
    "calls that are an object": (
        openai({"content": "", "tool_calls": LOOK}),
        "`messages[1].tool_calls` must be a list of calls",
    ),
    "no calls and no words": (openai({"content": "", "tool_calls": []}), "`messages[1].content` is empty"),
    "null and no calls": (
        openai({"content": None, "tool_calls": []}),
        "`messages[1].content` must be a text, got null",
    ),
    "tools that are an object": ({**openai(SAY), "tools": TOOL}, "`tools` must be a list of tools"),
    "tools in words": ({**openai(SAY), "tools": "look"}, '`tools` must be a list of tools, got "look"'),
    "a tool that is a name": ({**openai(SAY), "tools": ["look"]}, "`tools[0]` must be a tool"),
    "a tool without a name": (
        {**openai(SAY), "tools": [{"type": "function", "function": {}}]},
        "`tools[0]` has no `name`",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_calls(name: str) -> None:
    """What is no call and no tool is refused with the place where it stands."""
    data, words = BAD[name]
    with pytest.raises(StageError) as caught:
        conversation(data)
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_DATA, "BadRow")
    assert caught.value.message.startswith("calls.jsonl, line 1: ")
    assert words in caught.value.message
