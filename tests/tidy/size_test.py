"""A function fits on a screen, a file in a head, a line in 100 columns."""

import ast
import re

from tests.tidy import files

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 75  # "about 70"
MAX_COLUMNS = 100

# clang-format puts a body's closing brace two columns left of the body's first line, so that this
# line's indentation finds it. Heads of these hold declarations, not code.
# A brace that no space precedes begins an initialiser.
CPP_SCOPE = re.compile(r"^\s*(namespace|class|struct|enum|union|extern|typedef)\b|=\s*\{$|\w\{$")
CPP_HEAD = re.compile(r"[)\w>]\s*\{$")


def cpp_functions(text: str):
    """(line, length) of each body that begins at namespace scope or in a class there. A heuristic:
    deeper heads are parts of a body that is counted already. A body that is one table is no code."""
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        head = lines[number]
        if not CPP_HEAD.search(head) or CPP_SCOPE.search(head) or head.lstrip().startswith("//"):
            number += 1
            continue
        body = next((line for line in lines[number + 1 :] if line.strip()), "")
        indentation = len(body) - len(body.lstrip()) - (0 if body.lstrip().startswith("}") else 2)
        closing = re.compile(rf" {{{max(indentation, 0)}}}\}}[;,)]*\s*(//.*)?$")
        end = number + 1
        while end < len(lines) and not closing.match(lines[end]):
            end += 1
        if body.strip() != "return {":
            yield number + 1, end - number + 1
        number = end + 1


def python_functions(text: str):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.lineno, node.end_lineno - node.lineno + 1


def shell_functions(text: str):
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"^\w+\(\) \{$", line):
            yield number + 1, lines.index("}", number) - number + 1


FINDERS = {".cc": cpp_functions, ".h": cpp_functions, ".cu": cpp_functions,
           ".py": python_functions, ".sh": shell_functions}  # fmt: skip


def test_function_length():
    findings = []
    for suffix, finder in FINDERS.items():
        for path in files.with_suffix(suffix):
            findings += [
                f"{path}:{line}: {length} lines"
                for line, length in finder(files.read(path))
                if length > MAX_FUNCTION_LINES
            ]
    files.expect_none(findings, f"a function has at most {MAX_FUNCTION_LINES} lines")


def test_file_length():
    lengths = {path: files.read(path).count("\n") for path in files.with_suffix(*files.SOURCES)}
    findings = [f"{path}: {n} lines" for path, n in lengths.items() if n > MAX_FILE_LINES]
    files.expect_none(findings, f"a file has at most {MAX_FILE_LINES} lines; split it by purpose")


def test_columns():
    """clang-format cannot break a long string or comment, and knows no Python or shell."""
    findings = []
    for path in files.with_suffix(".cc", ".h", ".cu", ".proto"):
        findings += [
            f"{path}:{number}: {len(line)} columns"
            for number, line in enumerate(files.read(path).splitlines(), 1)
            if len(line) > MAX_COLUMNS and not line.lstrip().startswith(("#include", "// http"))
        ]
    files.expect_none(findings, f"a line has at most {MAX_COLUMNS} columns")


def test_the_checks_see_what_they_look_for():
    body = "  x();\n" * 80
    for head in ("void F(int a) {", "int C::F() const noexcept {", "C::C() : a_(1) {",
                 "auto F(int a) -> int {", "C::C(int a,\n     int b)\n    : a_(1) {"):  # fmt: skip
        text = f"namespace nsa {{\n{head}\n{body}}}\n}}  // namespace nsa\n"
        assert list(cpp_functions(text)) == [(2 + head.count("\n"), 82)], head
    inside = f"class C {{\n public:\n  void F() {{\n{'    x();' + chr(10)}  }}\n}};\n"
    assert list(cpp_functions(inside)) == [(3, 3)]
    assert list(cpp_functions("struct A {\n" + "  int x;\n" * 90 + "};\n")) == []
    assert list(python_functions("def f():\n" + "    x\n" * 80)) == [(1, 81)]
    assert list(shell_functions("f() {\n  x\n}\n")) == [(1, 3)]
