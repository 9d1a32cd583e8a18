"""clang-format changes nothing, and shellcheck finds nothing."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests.tidy import files


def clang_format() -> str:
    """The pinned one, beside this interpreter; another version formats otherwise."""
    beside = pathlib.Path(sys.executable).with_name("clang-format")
    return str(beside) if beside.exists() else "clang-format"


def test_clang_format_is_the_pinned_version():
    run = subprocess.run([clang_format(), "--version"], check=True, capture_output=True, text=True)
    assert " version 19." in run.stdout, f"{run.stdout}: install tests/requirements.txt"


def test_cpp_is_formatted():
    paths = files.with_suffix(*files.CPP)
    run = subprocess.run(
        [clang_format(), "--dry-run", "-Werror", "--ferror-limit=1", *paths],
        cwd=files.ROOT,
        capture_output=True,
        text=True,
    )
    findings = [line for line in run.stderr.splitlines() if ": error:" in line]
    files.expect_none(findings, "run clang-format -i on these")
    assert run.returncode == 0, run.stderr


def test_clang_format_sees_a_wrong_file(tmp_path):
    (tmp_path / "x.cc").write_text("int  main( ){return 0 ;}\n")
    shutil.copy(files.ROOT / ".clang-format", tmp_path)
    run = subprocess.run([clang_format(), "--dry-run", "-Werror", tmp_path / "x.cc"])
    assert run.returncode != 0


def test_shell_scripts():
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.fail("shellcheck is missing: deploy/apt-packages.txt lists it")
    scripts = [path for path in files.tracked() if path.endswith(".sh") or path == ".ci/run"]
    run = subprocess.run(
        [shellcheck, "--external-sources", *scripts], cwd=files.ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout


def test_scripts_are_executable():
    """All but what is only sourced."""
    findings = [
        path
        for path in files.tracked()
        if files.read_head(path, 2) == b"#!" and not os.access(files.ROOT / path, os.X_OK)
    ]
    files.expect_none(findings, "begins with #! but is not executable")
