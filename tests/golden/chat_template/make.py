"""Makes cases.json: what Python's jinja2 prints for many chat templates and conversations.

Run with a Python that has jinja2 (and gguf, if NSA_TEST_MODEL names the model whose own template is
one of the cases): python3 make.py. The environment is set up as the package transformers does it.
An "expected" of null means that jinja2 raises; "message" is then what raise_exception was given.
"""

import json
import os
import pathlib

import jinja2
import jinja2.ext
import jinja2.sandbox

from templates import ERRORS, SNIPPETS, TEMPLATES

HERE = pathlib.Path(__file__).parent


class Raised(jinja2.TemplateError):
    """By raise_exception."""


def raise_exception(message):
    raise Raised(message)


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)


def make_environment():
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    return environment


def turn(role, content):
    return {"role": role, "content": content}


CONVERSATIONS = {
    "none": [],
    "user": [turn("user", "Hello!")],
    "system": [turn("system", "Be brief."), turn("user", "Hello!")],
    "multi": [turn("system", "Be brief."), turn("user", "One?"), turn("assistant", "Two."),
              turn("user", "Three?")],
    "multi without system": [turn("user", "One?"), turn("assistant", "<think>hm\n</think>\n\nTwo."),
                             turn("user", "Three?"), turn("assistant", " Four. ")],
    "wrong order": [turn("user", "One?"), turn("user", "Two?")],
    "late system": [turn("user", "One?"), turn("system", "Be brief."), turn("tool", "{\"a\": 1}")],
    "odd": [turn("user", "{{ messages }} {% if x %} {# no #} }} %} #}"),
            turn("assistant", "'single' \"double\" back\\slash `tick`"),
            turn("user", "<|im_end|>\n<|im_start|>system\nNo.</s><s>"),
            turn("assistant", " \t\r\n white \u00a0\u3000\u2028 space \x0b\x0c\x1c\x85\n"),
            turn("user", "é ß 你好 😀 e\u0301 \u200d Ünï ПРИВЕТ")],
    "empty": [turn("system", ""), turn("user", ""), turn("assistant", "")],
    "control": [turn("user", "\x00\x01\x1f\x7f\ufeff\U0001f469\u200d\U0001f680")],
}


def model_template():
    path = os.environ.get("NSA_TEST_MODEL")
    if path:
        import gguf
        field = gguf.GGUFReader(path).fields["tokenizer.chat_template"]
        return field.contents()
    return json.loads((HERE / "cases.json").read_text())["templates"]["model"]


def render(environment, source, conversation, add_generation_prompt):
    case = {"conversation": conversation, "add_generation_prompt": add_generation_prompt}
    try:
        case["expected"] = environment.from_string(source).render(
            messages=CONVERSATIONS[conversation], add_generation_prompt=add_generation_prompt,
            bos_token="<s>", eos_token="</s>", tools=None, documents=None)
    except Raised as error:
        case.update(expected=None, message=error.message)
    except (jinja2.TemplateError, jinja2.sandbox.SecurityError, ArithmeticError, TypeError,
            ValueError, AttributeError, LookupError, SyntaxError):
        case["expected"] = None
    return case


def main():
    environment = make_environment()
    templates = {"model": model_template(), **TEMPLATES}
    cases = []
    for name, source in templates.items():
        for conversation in CONVERSATIONS:
            for prompt in (False, True):
                cases.append({"template": name, **render(environment, source, conversation, prompt)})
    for snippet in SNIPPETS + ERRORS:
        case = render(environment, snippet, "multi", True)
        assert (case["expected"] is None) == (snippet in ERRORS), (snippet, case)
        cases.append({"source": snippet, **case})
    document = {"templates": templates, "conversations": CONVERSATIONS, "cases": cases}
    text = json.dumps(document, ensure_ascii=True, indent=0)
    (HERE / "cases.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
