"""What no file may say: work without an owner, hosts, and paths of somebody's machine."""

import re

from tests.tidy import files

TEXT = files.SOURCES + (".md", ".txt", ".json", ".ini", ".yaml", ".yml", ".toml")
THIS = "tests/tidy/words_test.py"
ANSWERS = "docs/quality/results.json"  # a model's words, not ours

RULES = {
    "a TODO names its owner, as in TODO(name)": re.compile(r"\b(TODO(?!\(\w+\))|FIXME|XXX|HACK)\b"),
    "no path of one machine": re.compile(r"(?<![\w.$}/])/(home|root|work|mnt|Users|opt|tmp)/[\w.]"),
    "no address of a package registry": re.compile(
        r"\b(pypi\.org|pythonhosted|deb\.debian\.org|npmjs|crates\.io|huggingface\.co)\b"
    ),
    # NAME.svc: a service of the cluster that the manifests are for.
    "no host but this machine's": re.compile(
        r"\bhttps?://(?!(localhost|127\.0\.0\.1|\[::1\]|\$|\{|%|HOST|[\w.]+\.svc:|www\.apache\.org/licenses))"
    ),
    "no control character or trailing blank": re.compile(r"[\x00-\x08\x0b-\x1f]|[ \t]$"),
}


def findings(path: str, text: str, rule: str) -> list[str]:
    return [
        f"{path}:{number}: {line.strip()}"
        for number, line in enumerate(text.split("\n"), 1)
        if RULES[rule].search(line)
    ]


def texts():
    for path in files.tracked():
        if path.endswith(TEXT) and path not in (THIS, ANSWERS):
            yield path, files.read(path)


def pytest_generate_tests(metafunc):
    if "rule" in metafunc.fixturenames:
        metafunc.parametrize("rule", RULES)


def test_words(rule):
    found = [line for path, text in texts() for line in findings(path, text, rule)]
    files.expect_none(found, rule)


def test_files_end_with_a_newline():
    found = [path for path, text in texts() if text and not text.endswith("\n")]
    files.expect_none(found, "a text file ends with a newline")


def test_the_checks_see_what_they_look_for():
    seen = {
        "a TODO names its owner, as in TODO(name)": "// TODO: later",
        "no path of one machine": 'open("/home/me/x")',
        "no address of a package registry": "pip install -i pypi.org",
        "no host but this machine's": "https://example.com",
        "no control character or trailing blank": "x ",
    }
    for rule, line in seen.items():
        assert findings("x.cc", line, rule), rule
    for line in ("// TODO(ann): later", "/usr/share/doc", "a/tmp/b", "http://127.0.0.1:9090/metrics",
                 "http://prometheus.monitoring.svc:9090"):  # fmt: skip
        assert not any(findings("x.cc", line, rule) for rule in RULES), line
