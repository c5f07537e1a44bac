"""What models write, format by format, and what it means: the data of the parsers' tests."""

from __future__ import annotations

from typing import Any, NamedTuple

TOOLS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "metric": {"type": "boolean"},
            "where": {"type": "object"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "note": {"type": ["string", "null"]},
            "factor": {"anyOf": [{"type": "number"}, {"type": "null"}]},
            "place": {"$ref": "#/$defs/place"},
        },
        "$defs": {"place": {"type": "object", "properties": {"x": {"type": "number"}}}},
    },
    "get_time": {"type": "object", "properties": {}},
    "run": {"type": "object", "properties": {"code": {"type": "string"}}},
}


class Transcript(NamedTuple):
    text: str
    content: str | None = None
    calls: tuple[tuple[str, str], ...] = ()  # name, arguments as JSON text
    reasoning: str | None = None


_ROME = ("get_weather", '{"city": "Rome"}')
_TIME = ("get_time", "{}")
_NESTED = ("get_weather", '{"where": {"a": [1, {"b": null}], "c": "}{\\"]["}, "days": -3}')
_UNICODE = ("get_weather", '{"city": "Z\\u00fcrich \\ud83d\\ude00 日本", "note": "a\\nb\\\\"}')
_SAYS = "The answer {is} [42] < 43, and <tool is no tag."


def _json_call(call: tuple[str, str], key: str = "arguments") -> str:
    return f'{{"name": "{call[0]}", "{key}": {call[1]}}}'


def _tagged(opening: str, closing: str) -> list[Transcript]:
    def wrap(call: tuple[str, str]) -> str:
        return f"{opening}\n{_json_call(call)}\n{closing}"

    return [
        Transcript(_SAYS, _SAYS),
        Transcript(wrap(_ROME), None, (_ROME,)),
        Transcript(f"{wrap(_ROME)}\n{wrap(_TIME)}", None, (_ROME, _TIME)),
        Transcript(f"Let me see.\n\n{wrap(_NESTED)}\n", "Let me see.", (_NESTED,)),
        Transcript(f"Before {wrap(_ROME)} after.", "Before\nafter.", (_ROME,)),
        Transcript(wrap(_UNICODE), None, (_UNICODE,)),
        Transcript(f"{opening}{_json_call(_ROME)}", None, (_ROME,)),
        Transcript(f'{opening}{{"name": "get_time"}}{closing}', None, (_TIME,)),
        Transcript(f'{opening}{{"name": "get_time", "arguments": null}}{closing}', None, (_TIME,)),
        Transcript(f'{opening}{{"arguments": {{"city": "Rome"}}, "name": "get_weather"}}{closing}', None, (_ROME,)),
        Transcript(
            f'{opening}{{"name": "get_weather", "arguments": "{{\\"city\\": \\"Rome\\"}}"}}{closing}', None, (_ROME,)
        ),
        Transcript(
            f'{opening}{{"name": "run", "arguments": {{"code": "a\n\tb"}}}}{closing}',
            None,
            (("run", '{"code": "a\\n\\tb"}'),),
        ),
        Transcript(f"{opening}no JSON{closing}", "no JSON"),
        Transcript(f'{opening}{{"nam": 1}}{closing}', '{"nam": 1}'),
        Transcript(f'{opening}{{"name": 1, "arguments": {{}}}}{closing}', '{"name": 1, "arguments": {}}'),
        Transcript(f'{opening}{{"name": "get_w', '{"name": "get_w'),
        Transcript(f'{opening}{{"name": "run", "arguments": {{"code": "x', None, (("run", '{"code": "x'),)),
        Transcript(f'{opening}{{"name": "get_time", "arguments": {{}} what{closing} so', "so", (_TIME,)),
        Transcript(f"{closing}", None),
        Transcript(f"{opening}", None),
    ]


_GRANITE = [
    Transcript(f"<|tool_call|>[{_json_call(_ROME)}]", None, (_ROME,)),
    Transcript(f"<|tool_call|>[{_json_call(_ROME)}, {_json_call(_TIME)}]", None, (_ROME, _TIME)),
    Transcript(f"Well <tool_call>[{_json_call(_NESTED)}]", "Well", (_NESTED,)),
    Transcript("<|tool_call|>[1, 2]", "[1, 2]"),
    Transcript("<|tool_call|>[]", "[]"),
]


def _llama(call: tuple[str, str]) -> str:
    return _json_call(call, "parameters")


_LLAMA = [
    Transcript(_SAYS, _SAYS),
    Transcript(_llama(_ROME), None, (_ROME,)),
    Transcript(f"<|python_tag|>{_llama(_ROME)}", None, (_ROME,)),
    Transcript(f"{_llama(_ROME)}; {_llama(_TIME)}", None, (_ROME, _TIME)),
    Transcript(f"[{_llama(_ROME)}, {_llama(_TIME)}]", None, (_ROME, _TIME)),
    Transcript(f"Sure:\n{_llama(_NESTED)}\nDone", "Sure:\nDone", (_NESTED,)),
    Transcript(_llama(_UNICODE), None, (_UNICODE,)),
    Transcript('{"type": "function", "name": "get_time", "parameters": {}}', None, (_TIME,)),
    Transcript('{"name": "get_time"}', None, (_TIME,)),
    Transcript('{"name": "Bob", "age": 3}', '{"name": "Bob", "age": 3}'),
    Transcript('{"name": "get_time", "age": 3}', '{"name": "get_time", "age": 3}'),
    Transcript('{"x": [1]}\n', '{"x": [1]}\n'),
    Transcript('  [1, 2]', "  [1, 2]"),
    Transcript('{"name": "run", "parameters": {"code": "x', None, (("run", '{"code": "x'),)),
    Transcript("{", "{"),
]  # fmt: skip

_PYTHONIC = [
    Transcript(_SAYS, _SAYS),
    Transcript("[get_weather(city='Rome')]", None, (_ROME,)),
    Transcript("<|python_start|>[get_weather(city='Rome')]<|python_end|>", None, (_ROME,)),
    Transcript('[get_weather(city="Rome"), get_time()]', None, (_ROME, _TIME)),
    Transcript('See:\n[get_time()]\nthen', "See:\nthen", (_TIME,)),
    Transcript('[get_weather("Rome", 3)]', None, (("get_weather", '{"city": "Rome", "days": 3}'),)),
    Transcript(
        "[get_weather(where={'a': [1, (2, None), {}], \"b\": True}, tags=[], days=-3, factor=1_000.5,)]",
        None,
        (("get_weather", '{"where": {"a": [1, [2, null], {}], "b": true}, "tags": [], "days": -3, "factor": 1000.5}'),),
    ),
    Transcript(
        "[run(code='it\\'s \\x41\\u00e9\\U0001f600\\n\"q\" \\d \\ud83d\\ude00')]",
        None,
        (("run", '{"code": "it\'s \\u0041\\u00e9😀\\n\\"q\\" \\\\d \\ud83d\\ude00"}'),),
    ),
    Transcript("[run(code='''a\n'b' ''')]", None, (("run", '{"code": "a\\n\'b\' "}'),)),
    Transcript("[run(code='')]", None, (("run", '{"code": ""}'),)),
    Transcript("[get_weather(days=0x10, factor=.5, note=word)]", None,
               (("get_weather", '{"days": 16, "factor": 0.5, "note": "word"}'),)),
    Transcript("[print('x')]", "[print('x')]"),
    Transcript("[1, 2, 3]", "[1, 2, 3]"),
    Transcript("[get_time]", "[get_time]"),
    Transcript("[get_time(), 7]", "7]", (_TIME,)),
    Transcript("[get_weather(city=?)] so", "?)] so", (("get_weather", "{}"),)),
    Transcript("[get_weather(days=1, tags=[2, {'a': ?", "?", (("get_weather", '{"days": 1, "tags": [2, {}]}'),)),
    Transcript("[get_weather(days=1, city='Ro", None, (("get_weather", '{"days": 1, "city": "Ro'),)),
    Transcript("[", "["),
]  # fmt: skip

_QWEN_CODER = [
    Transcript(_SAYS, _SAYS),
    Transcript(
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>",
        None,
        (_ROME,),
    ),
    Transcript(
        "Hm.\n<tool_call>\n<function=get_weather>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>\n"
        "<tool_call>\n<function=get_time>\n</function>\n</tool_call>",
        "Hm.",
        (_ROME, _TIME),
    ),
    Transcript(
        "<function=get_weather><parameter=days>\n3\n</parameter><parameter=metric>True</parameter>"
        '<parameter=where>{"a": [1]}</parameter><parameter=tags>[\'x\', "y"]</parameter>'
        "<parameter=note>null</parameter>"
        "<parameter=factor>1.5</parameter><parameter=place>{'x': 1}</parameter><parameter=other>[7]</parameter>"
        "<parameter=more>some text</parameter></function>",
        None,
        ((
            "get_weather",
            '{"days": 3, "metric": true, "where": {"a": [1]}, "tags": ["x", "y"], "note": null, "factor": 1.5, '
            '"place": {"x": 1}, "other": [7], "more": "some text"}',
        ),),
    ),
    Transcript(
        '<tool_call><function=run>\n<parameter=code>\n\n  if "a" < b:\n\tc = "\\n</p>" # é\n\n</parameter>\n</function>'
        "</tool_call> done",
        "done",
        (("run", '{"code": "\\n  if \\"a\\" < b:\\n\\tc = \\"\\\\n</p>\\" # é\\n"}'),),
    ),
    Transcript(
        "<function=get_weather>\n<parameter=city>\nRome\n<parameter=days>\nmany\n</function>",
        None,
        (("get_weather", '{"city": "Rome", "days": "many"}'),),
    ),
    Transcript("<function=run>\n<parameter=code>\nx = ", None, (("run", '{"code": "x = '),)),
    Transcript("<function=get_weather>\n<parameter=days>\n3", None, (("get_weather", ""),)),
    Transcript("<function=get_we", "get_we"),
    Transcript("<tool_call>\nwell</tool_call>", "well"),
]  # fmt: skip

_GLM = [
    Transcript(_SAYS, _SAYS),
    Transcript(
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n</tool_call>", None, (_ROME,)
    ),
    Transcript(
        "So <tool_call>get_weather<arg_key>city</arg_key><arg_value>Rome</arg_value></tool_call>"
        "<tool_call>get_time</tool_call>",
        "So",
        (_ROME, _TIME),
    ),
    Transcript(
        "<tool_call>get_weather\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n<arg_key>where</arg_key>\n"
        '<arg_value>{"a": "é\\u00e9"}</arg_value>\n<arg_key>city</arg_key>\n<arg_value>a\n"b" <c></arg_value>\n'
        "</tool_call>",
        None,
        (("get_weather", '{"days": 3, "where": {"a": "é\\u00e9"}, "city": "a\\n\\"b\\" <c>"}'),),
    ),
    Transcript("<tool_call>\nget_time\n</tool_call>\nafter", "after", (_TIME,)),
    Transcript("<tool_call>no name</tool_call>", "no name"),
    Transcript("<tool_call>get_weather\n<arg_key>city</arg_key>\n</tool_call>", None, (("get_weather", "{}"),)),
    Transcript("<tool_call>run\n<arg_key>code</arg_key>\n<arg_value>x", None, (("run", '{"code": "x'),)),
    Transcript("<tool_call>get_t", "get_t"),
]  # fmt: skip

_DS_BEGIN, _DS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"


def _deepseek(call: tuple[str, str]) -> str:
    return f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{call[0]}\n```json\n{call[1]}\n```<｜tool▁call▁end｜>"


def _deepseek31(call: tuple[str, str]) -> str:
    return f"<｜tool▁call▁begin｜>{call[0]}<｜tool▁sep｜>{call[1]}<｜tool▁call▁end｜>"


_DEEPSEEK = [
    Transcript(_SAYS, _SAYS),
    Transcript(f"{_DS_BEGIN}{_deepseek(_ROME)}{_DS_END}", None, (_ROME,)),
    Transcript(f"Now {_DS_BEGIN}{_deepseek(_NESTED)}\n{_deepseek(_TIME)}{_DS_END}", "Now", (_NESTED, _TIME)),
    Transcript(f"{_DS_BEGIN}{_deepseek31(_UNICODE)}{_deepseek31(_ROME)}{_DS_END}", None, (_UNICODE, _ROME)),
    Transcript(f"{_DS_BEGIN}{_deepseek31(('function', '{}'))}{_DS_END}", None, (("function", "{}"),)),
    Transcript(f"{_DS_BEGIN}{_deepseek31(('get_time', ''))}{_DS_END}", None, (_TIME,)),
    Transcript(f"{_DS_BEGIN}{_deepseek31(('get_time', 'now'))}{_DS_END}", None, (("get_time", "now"),)),
    Transcript(f"{_DS_BEGIN}<｜tool▁call▁begin｜>what<｜tool▁call▁end｜>{_DS_END}", "what"),
    Transcript(f'{_DS_BEGIN}<｜tool▁call▁begin｜>run<｜tool▁sep｜>{{"code": "', None, (("run", '{"code": "'),)),
    Transcript(f"{_DS_BEGIN}<｜tool▁call▁begin｜>ru", "ru"),
]


def _kimi(call: tuple[str, str], number: int = 0) -> str:
    return f"<|tool_call_begin|>functions.{call[0]}:{number}<|tool_call_argument_begin|>{call[1]}<|tool_call_end|>"


_KIMI = [
    Transcript(_SAYS, _SAYS),
    Transcript(f"<|tool_calls_section_begin|>{_kimi(_ROME)}<|tool_calls_section_end|>", None, (_ROME,)),
    Transcript(
        f"Hm <|tool_calls_section_begin|>{_kimi(_NESTED)}{_kimi(_TIME, 1)}<|tool_calls_section_end|> ok",
        "Hm\nok",
        (_NESTED, _TIME),
    ),
    Transcript(f"{_kimi(_UNICODE)}", None, (_UNICODE,)),
    Transcript(_kimi(("get_time", " ")), None, (_TIME,)),
    Transcript("<|tool_call_begin|>what<|tool_call_end|>", "what"),
    Transcript('<|tool_call_begin|>functions.run:0<|tool_call_argument_begin|>{"code"', None, (("run", '{"code"'),)),
    Transcript("<|tool_calls_section_begin|><|tool_calls_section_end|>", None),
]

_MISTRAL = [
    Transcript(_SAYS, _SAYS),
    Transcript(f"[TOOL_CALLS][{_json_call(_ROME)}]", None, (_ROME,)),
    Transcript(f"[TOOL_CALLS] [{_json_call(_ROME)}, {_json_call(_TIME)}]", None, (_ROME, _TIME)),
    Transcript(f"Hm. [TOOL_CALLS]get_weather{_NESTED[1]}[TOOL_CALLS]get_time{{}}", "Hm.", (_NESTED, _TIME)),
    Transcript(f"[TOOL_CALLS]get_weather[CALL_ID]a1B2c3D4e[ARGS]{_UNICODE[1]}", None, (_UNICODE,)),
    Transcript("[TOOL_CALLS]get_weather[ARGS] what", "get_weather[ARGS] what"),
    Transcript("[TOOL_CALLS]", None),
    Transcript("[TOOL_CALLS][1]", "[1]"),
    Transcript('[TOOL_CALLS]run[ARGS]{"code": "a', None, (("run", '{"code": "a'),)),
]  # fmt: skip

_GEMMA = [
    Transcript(_SAYS, _SAYS),
    Transcript(
        "<start_function_call>call:get_weather{city:<escape>Rome<escape>}<end_function_call>", None, (_ROME,)
    ),
    Transcript(
        '<|tool_call>call:get_weather{city:<|"|>Rome<|"|>}<tool_call|><|tool_call>call:get_time{}<tool_call|>',
        None,
        (_ROME, _TIME),
    ),
    Transcript(
        'Hm <|tool_call>call:get_weather{city:<|"|>a "b" \\ {é}\n<|"|>,days:-3,metric:true,note:null,'
        'where:{a:[1,{b:<|"|>x<|"|>}],c:{}},tags:[<|"|>p<|"|>,"q"]}<tool_call|>',
        "Hm",
        ((
            "get_weather",
            '{"city": "a \\"b\\" \\\\ {é}\\n", "days": -3, "metric": true, "note": null, '
            '"where": {"a": [1, {"b": "x"}], "c": {}}, "tags": ["p", "q"]}',
        ),),
    ),
    Transcript("```tool_code\nget_weather(city='Rome')\nget_time()\n```\nafter", "after", (_ROME, _TIME)),
    Transcript("```tool_code\nprint(1)\n```", "print(1)"),
    Transcript("<start_function_call>what<end_function_call>", "what"),
    Transcript("<|tool_call>call:get_weather{days:?}<tool_call|> x", "x", (("get_weather", '{"days": "?"}'),)),
    Transcript("<|tool_call>call:get_weather{days}<tool_call|> x", "x", (("get_weather", "{}"),)),
    Transcript("<|tool_call>call:run{code:<|\"|>a", None, (("run", '{"code": "a'),)),
]  # fmt: skip

_HARMONY = [
    Transcript("The plain answer.", "The plain answer."),
    Transcript("<|channel|>final<|message|>" + _SAYS, _SAYS),
    Transcript(
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>",
        "Yes.",
        (),
        "Hm.",
    ),
    Transcript(
        "<|channel|>analysis<|message|>Look.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather "
        f"<|constrain|>json<|message|>{_ROME[1]}<|call|>",
        None,
        (_ROME,),
        "Look.",
    ),
    Transcript(
        f"<|start|>assistant to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>{_NESTED[1]}"
        f"<|call|><|start|>assistant to=functions.get_time<|channel|>commentary<|message|>{{}}",
        None,
        (_NESTED, _TIME),
    ),
    Transcript(
        "<|channel|>commentary<|message|>First this.<|end|><|start|>assistant<|channel|>analysis<|message|>Hm<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Then that.",
        "First this.\nThen that.",
        (),
        "Hm",
    ),
    Transcript(f"<|channel|>commentary to=functions.get_weather<|message|>{_UNICODE[1]}<|call|>", None, (_UNICODE,)),
    Transcript("<|channel|>commentary to=functions.get_time<|message|>now<|call|>", None, (("get_time", "now"),)),
    Transcript("<|channel|>commentary to=functions.get_time<|message|><|call|>", None, (_TIME,)),
    Transcript('<|channel|>commentary to=functions.run<|message|>{"code', None, (("run", '{"code'),)),
    Transcript("<|channel|>analysis<|message|>Hm", None, (), "Hm"),
    Transcript("<|channel|>analy", None),
]

TOOL_TRANSCRIPTS = {
    "hermes": _tagged("<tool_call>", "</tool_call>"),
    "granite": _tagged("<|tool_call|>", "</tool_call>") + _GRANITE,
    "llama3_json": _LLAMA,
    "llama4_pythonic": _PYTHONIC,
    "pythonic": _PYTHONIC,
    "qwen3_coder": _QWEN_CODER,
    "glm45": _GLM,
    "deepseek_v3": _DEEPSEEK,
    "kimi_k2": _KIMI,
    "mistral": _MISTRAL,
    "gemma": _GEMMA,
    "openai": _HARMONY,
}

THINK_TRANSCRIPTS = [
    Transcript("The answer.", "The answer."),
    Transcript("<think>\nHm, let me see.\n</think>\n\nThe answer.\n", "The answer.\n", (), "Hm, let me see."),
    Transcript("  <think>a < b </thin k></think>c", "c", (), "a < b </thin k>"),
    Transcript("<think></think>c", "c"),
    Transcript("<think>\n\n</think>\n\nc", "c"),
    Transcript("<think>never ends <tool_call>\n", None, (), "never ends <tool_call>"),
    Transcript("no beginning</think> c", "no beginningc"),
    Transcript("<think>a</think>b <think>c</think>", "b <think>c</think>", (), "a"),
    Transcript("  plain", "  plain"),
    Transcript("<thi", "<thi"),
    Transcript("", None),
]
