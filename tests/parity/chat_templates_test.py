"""Published chat templates as transformers renders them, and as we do: equal byte for byte, and
where a template raises an exception the same message."""

import datetime
import json
import subprocess

import pytest

from tests.parity import chat_inputs
from tests.support import chat_templates, model_files

pytestmark = pytest.mark.oracle

INPUTS = chat_inputs.inputs()
REFUSAL = "the template refuses the messages: "


# At least so many templates are there: fewer would pass unseen.
NUM_TEMPLATES = {"axolotl==0.19.0": 30, "trl==1.16.0": 60, "llama-cpp-python==0.3.36": 90, "gguf": 1}


def theirs(source: str, given: dict) -> dict:
    """{"text"}, {"raised": what raise_exception was given}, or {} for any other error."""
    import jinja2
    from transformers.utils.chat_template_utils import render_jinja_template

    given = dict(given)
    messages = given.pop("messages")
    try:
        (text,), _ = render_jinja_template(conversations=[messages], chat_template=source, **given)
    except jinja2.TemplateError as error:
        return {"raised": error.message} if type(error) is jinja2.TemplateError else {}
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError):
        return {}
    return {"text": text}


def ours(source: str, given: list[dict]) -> list[dict]:
    task = json.dumps({"template": source, "inputs": given}) + "\n"
    done = subprocess.run(
        [model_files.tool("nsa_render_chat")], input=task.encode(), capture_output=True, check=True
    )
    return json.loads(done.stdout)


def both(source: str) -> list[tuple[str, dict, dict]]:
    """(name, theirs, ours) for each input, all of one day: templates print the date."""
    while True:
        today = datetime.date.today()
        expected = [theirs(source, given) for given in INPUTS.values()]
        actual = ours(source, list(INPUTS.values()))
        if datetime.date.today() == today:
            return list(zip(INPUTS, expected, actual, strict=True))


def difference(expected: dict, actual: dict) -> str:
    """Empty where both say the same."""
    if "text" in expected:
        if actual == expected:
            return ""
        if "error" in actual:
            return f"ours: {actual['error'][-300:]}"
        pairs = zip(expected["text"], actual["text"])
        lengths = min(len(expected["text"]), len(actual["text"]))
        at = next((i for i, (a, b) in enumerate(pairs) if a != b), lengths)
        window = slice(max(0, at - 40), at + 80)
        return f"at {at}: theirs {expected['text'][window]!r}, ours {actual['text'][window]!r}"
    if "text" in actual:
        return f"theirs is an error ({expected.get('raised')!r}), ours {actual['text'][:200]!r}"
    if "raised" in expected and not actual["error"].endswith(REFUSAL + expected["raised"]):
        return f"theirs raises {expected['raised']!r}, ours: {actual['error']!r}"
    return ""


@pytest.fixture(scope="module", params=chat_templates.SOURCES)
def templates(request) -> dict[str, str]:
    """Those of one source."""
    try:
        found = chat_templates.published(request.param)
    except RuntimeError as error:
        pytest.skip(str(error))
    if request.param == "gguf" and not found:
        pytest.skip("no GGUF file in the cache")
    assert len(found) >= NUM_TEMPLATES[request.param]
    return found


def findings(name: str, source: str) -> list[str]:
    """What is not equal, told by the first few inputs."""
    results = both(source)
    if not any("text" in expected for _, expected, _ in results):
        return [f"{name}: nothing is printed for any input"]
    differences = [f"{case}: {d}" for case, a, b in results if (d := difference(a, b))]
    if not differences:
        return []
    return [f"{name}: {len(differences)} of {len(results)} inputs", *differences[:3]]


@pytest.mark.timeout(1200)
def test_equal(templates):
    told = [line for name, source in templates.items() for line in findings(name, source)]
    assert not told, "\n".join(told)


def test_a_difference_is_seen():
    source = "{{ messages[0].content | upper }}"
    given = [{"messages": [{"role": "user", "content": "a"}]}]
    assert ours(source, given) == [{"text": "A"}] == [theirs(source, given[0])]
    assert not difference({"text": "A"}, {"text": "A"})
    assert difference({"text": "A"}, {"text": "a"})
    assert difference({"text": "A"}, {"error": "x"})
    assert difference({}, {"text": "A"})
    assert difference({"raised": "no"}, {"error": REFUSAL + "yes"})
    assert not difference({"raised": "no"}, {"error": "chat template, line 1: " + REFUSAL + "no"})
