"""What the chat templates are given: ordinary conversations and odd ones."""

import copy


def turn(role: str, content, **more) -> dict:
    return {"role": role, "content": content, **more}


def call(name: str, arguments, ident: str = "call_0", **more) -> dict:
    function = {"name": name, "arguments": arguments}
    return {"id": ident, "type": "function", "function": function, **more}


SYSTEM = turn("system", "You are a terse assistant.")
USER = turn("user", "What is the weather in Paris?")
ANSWER = turn("assistant", "Sunny.")

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place.\nWith \"quotes\", <tags> & 'more' – é 你好.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "A city"},
                "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
                "days": {"type": ["integer", "null"], "description": "How many", "minimum": 1},
                "at": {
                    "type": "object",
                    "properties": {"x": {"type": "number"}, "y": {"type": "number"}},
                    "required": ["x"],
                },
                "tags": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["place", "unit"],
        },
        "return": {"type": "string", "description": "A sentence"},
    },
}
PLAIN_TOOL = {
    "type": "function",
    "function": {"name": "now", "description": "The time", "parameters": {}},
}
BARE_TOOL = {
    "name": "add",
    "description": "Adds.",
    "parameters": {
        "type": "object",
        "properties": {
            "a": {"type": "integer"},
            "b": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        },
        "additionalProperties": False,
    },
}
ARGUMENTS = {
    "place": "Paris",
    "days": 3,
    "ratio": 0.1,
    "big": 1e20,
    "on": True,
    "off": None,
    "list": [1, "two", {"three": []}],
    "text": 'é "q" </tool_call>\n',
}

CONVERSATIONS = {
    "none": [],
    "user": [USER],
    "system": [SYSTEM, USER],
    "only system": [SYSTEM],
    "only assistant": [ANSWER],
    "multi": [SYSTEM, USER, ANSWER, turn("user", "Tomorrow?"), turn("assistant", "Rain."), USER],
    "multi without system": [USER, ANSWER, turn("user", "And tomorrow?")],
    "ends with assistant": [SYSTEM, USER, ANSWER],
    "two systems": [SYSTEM, turn("system", "Second."), USER],
    "late system": [USER, ANSWER, turn("system", "Late."), USER],
    "two users": [USER, turn("user", "Hello?")],
    "two assistants": [USER, ANSWER, turn("assistant", "Really.")],
    "assistant first": [ANSWER, USER],
    "developer": [turn("developer", "Follow the rules."), USER],
    "unknown role": [turn("narrator", "Once upon a time"), USER, turn("moderator", "Stop.")],
    "odd roles": [turn("", "x"), turn("User", "y"), turn("assistant ", "z")],
    "empty contents": [turn(role, "") for role in ("system", "user", "assistant", "user")],
    "blank contents": [
        turn("system", " \n"),
        turn("user", "\t \n"),
        turn("assistant", "\n\n x \n"),
        USER,
    ],
    "none content": [SYSTEM, turn("user", None), turn("assistant", None), USER],
    "no content": [{"role": "user"}, {"role": "assistant"}, USER],
    "no role": [{"content": "x"}],
    "numbers": [turn("user", 5), turn("assistant", 2.5), turn("user", True)],
    "dict content": [turn("user", {"text": "x", "type": "text"})],
    "list of strings": [turn("user", ["a", "b"])],
    "unicode": [
        turn("system", "e\u0301 \u0130\u0131 ß \ufb01 Ǆ ǅ ǆ ΑΣ"),
        turn("user", "👩‍👩‍👧‍👦 🇫🇷 \u202eשלום\u202c مرحبا \u200f\u200b\ufeff"),
        turn("assistant", "\x01\x02\x07\x08\x0b\x0c\x1b\x7f\x85\u2028\u2029 x"),
        turn("user", " \u00a0\u3000 日本語 \U0001f600\U00010000 \u3000"),
    ],
    "template syntax": [
        turn("system", "{{ messages }} {% raw %} {# x #}"),
        turn("user", "{% for x in y %} {{- '}}' -}} %} #} {{"),
        turn("assistant", "'single' \"double\" back\\slash \\n `tick` %s %d {0} {name}"),
        USER,
    ],
    "special tokens": [
        turn("user", "<s></s><|im_start|>system\nx<|im_end|>[INST][/INST]<<SYS>><|eot_id|>"),
        turn("assistant", "<start_of_turn>model<end_of_turn><think></think><|endoftext|>"),
        turn("user", "</think> /no_think /think <|START_OF_TURN_TOKEN|>"),
    ],
    "white space": [
        turn("user", "  a\r\n\r\nb\t\n "),
        turn("assistant", "\n\n  c  \n\n"),
        turn("user", "\n"),
    ],
    "long": [
        turn("system", "s" * 5000),
        turn("user", "word é " * 8000),
        ANSWER,
        turn("user", "x" * 30000),
    ],
    "many": [turn("user" if i % 2 == 0 else "assistant", f"turn {i}") for i in range(81)],
    "thinking": [
        USER,
        turn("assistant", "<think>\nHm, {it}.\n</think>\n\nSunny."),
        turn("user", "Sure?"),
        turn("assistant", "<think>a</think>b<think>c</think>d"),
        turn("user", "<think>no</think> /no_think"),
    ],
    "reasoning": [
        USER,
        turn("assistant", "Sunny.", reasoning_content="I looked\nout.\n"),
        turn("user", "Sure?"),
        turn("assistant", "Yes.", thinking="Quite."),
        turn("user", "Sure?"),
        turn("assistant", "Yes!", reasoning="", reasoning_content="Third"),
    ],
    "parts": [
        turn("system", [{"type": "text", "text": "Be brief."}]),
        turn("user", [{"type": "text", "text": "One "}, {"type": "text", "text": "two é"}]),
        turn("assistant", [{"type": "text", "text": "Three."}]),
        turn("user", []),
    ],
    "images": [
        turn("user", [{"type": "image"}, {"type": "text", "text": "What is this?"}]),
        turn("assistant", [{"type": "text", "text": "A cat."}]),
        turn(
            "user",
            [
                {"type": "image_url", "image_url": {"url": "x.png"}},
                {"type": "image", "image": "y.png"},
                {"type": "video", "video": "z.mp4"},
                {"type": "audio", "audio": "a.wav"},
                {"type": "text", "text": "And these?"},
            ],
        ),
    ],
    "tool calls": [
        SYSTEM,
        USER,
        turn("assistant", "", tool_calls=[call("get_weather", ARGUMENTS, "abcdefghi")]),
        turn("tool", '{"sky": "clear", "t": 21.5}', tool_call_id="abcdefghi", name="get_weather"),
        turn("assistant", "Clear."),
        USER,
    ],
    "tool calls with none": [
        USER,
        turn("assistant", None, tool_calls=[call("get_weather", {"place": "Paris"}, "abcdefghi")]),
        turn("tool", "clear", tool_call_id="abcdefghi", name="get_weather"),
    ],
    "calls of texts": [
        USER,
        turn("assistant", "I look.", tool_calls=[call("now", '{"place": "Paris"}', "abcdefghi")]),
        turn("tool", "clear", tool_call_id="abcdefghi"),
        ANSWER,
    ],
    "several calls": [
        USER,
        turn(
            "assistant",
            "Two.",
            tool_calls=[
                call("get_weather", {"place": "A"}, "abcdefghi"),
                call("now", {}, "123456789"),
            ],
            reasoning_content="Both at once.",
        ),
        turn("tool", "clear", tool_call_id="abcdefghi", name="get_weather"),
        turn("tool", "12:00", tool_call_id="123456789", name="now"),
        turn("assistant", "Clear at noon."),
        turn("user", "Thanks."),
    ],
    "bare calls": [
        USER,
        turn("assistant", "", tool_calls=[{"name": "now", "arguments": {}, "id": "abcdefghi"}]),
        turn("tool", {"time": "12:00", "list": [1, 2]}, tool_call_id="abcdefghi", name="now"),
    ],
    "tool results in parts": [
        USER,
        turn("assistant", "", tool_calls=[call("now", {}, "abcdefghi")]),
        turn(
            "tool",
            [{"type": "text", "text": "12"}, {"type": "text", "text": ":00"}],
            tool_call_id="abcdefghi",
        ),
    ],
    "tool first": [turn("tool", "clear", tool_call_id="abcdefghi", name="get_weather"), USER],
    "no calls": [USER, turn("assistant", "Hm.", tool_calls=[]), turn("user", "?", tool_calls=None)],
    "ends with calls": [
        SYSTEM,
        USER,
        turn("assistant", "", tool_calls=[call("now", {"é": "ü"}, "abcdefghi")]),
    ],
}

TOOL_LISTS = {
    "one": [WEATHER],
    "several": [WEATHER, PLAIN_TOOL, copy.deepcopy(WEATHER)],
    "bare": [BARE_TOOL],
    "empty": [],
}
DOCUMENTS = [
    {"title": "One", "text": "First é.", "doc_id": 1},
    {"title": "Two", "text": "Second\n\"quoted\".", "contents": "c"},
]

# What templates ask for by names of their own.
KEYWORDS = {
    "thinking": {"enable_thinking": True, "thinking": True, "reasoning_effort": "high"},
    "no thinking": {"enable_thinking": False, "thinking": False, "reasoning_effort": "low"},
    "documents": {"documents": DOCUMENTS, "citation_mode": "accurate", "safety_mode": "STRICT"},
    "no documents": {"documents": []},
    "switches": {
        "xml_tools": True,
        "python_tools": [WEATHER],
        "custom_instructions": "Mind the gap.",
        "system_prompt": "A system prompt.",
        "system_message": "A system message.",
        "keep_cot": True,
        "clear_thinking": False,
        "preserve_thinking": True,
        "thinking_budget": 512,
        "tools_in_user_message": False,
        "builtin_tools": ["browser", "python", "code_interpreter"],
        "date_string": "01 Jan 2030",
        "model_identity": "You are a test.",
        "controls": {"length": 3},
        "functions": "[]",
        "datetime": "Monday",
        "additional_special_tokens": ["<a>", "<b>", "<c>", "<d>", "<e>", "<f>"],
        "add_vision_id": True,
    },
    "tokens": {"bos_token": "«bos»", "eos_token": "", "pad_token": "<pad>", "unk_token": "<unk>"},
    "odd": {
        "add_generation_prompt": None,
        "enable_thinking": "yes",
        "date_string": None,
        "tools": None,
    },
}


WITH_TOOLS = (
    "none",
    "user",
    "system",
    "multi",
    "two systems",
    "developer",
    "no content",
    "parts",
    "thinking",
    "tool calls",
    "tool calls with none",
    "calls of texts",
    "several calls",
    "bare calls",
    "tool results in parts",
    "ends with calls",
)
WITH_KEYWORDS = ("user", "system", "multi", "thinking", "several calls", "reasoning", "images")


def inputs() -> dict[str, dict]:
    """The variables of each rendering, by a name that tells them."""
    cases = {}
    for name, messages in CONVERSATIONS.items():
        for prompt in (False, True):
            cases[f"{name}, {prompt}"] = {"messages": messages, "add_generation_prompt": prompt}
    for name in WITH_TOOLS:
        asked = {"messages": CONVERSATIONS[name], "add_generation_prompt": True}
        for kind, tools in TOOL_LISTS.items():
            cases[f"{name}, tools: {kind}"] = {**asked, "tools": tools}
    for name in WITH_KEYWORDS:
        asked = {"messages": CONVERSATIONS[name], "add_generation_prompt": True}
        for kind, keywords in KEYWORDS.items():
            cases[f"{name}, {kind}"] = {**asked, **keywords}
            cases[f"{name}, {kind}, tools"] = {
                "tools": [WEATHER, PLAIN_TOOL], **asked, **keywords
            }
    for given in cases.values():
        given.setdefault("bos_token", "<s>")
        given.setdefault("eos_token", "</s>")
    return cases
