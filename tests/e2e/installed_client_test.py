"""The C++ client library as its users have it: installed elsewhere, found by CMake, built against, run."""

import os
import pathlib
import subprocess

import pytest

from tests.e2e.security_test import KEY, key_line
from tests.support import model_files, server
from tests.support.certificates import Authority

ROOT = model_files.ROOT
EXAMPLE = ROOT / "client/library/example"


def run(*command, **options) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=500, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def prefix(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("prefix")
    build = pathlib.Path(os.environ.get("NSA_BUILD_DIR", ROOT / "build/release"))
    run("cmake", "--install", build, f"--prefix={folder}", "--component=client")
    return folder


@pytest.fixture(scope="module")
def chat(prefix, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("example")
    run("cmake", "-S", EXAMPLE, "-B", folder, f"-DCMAKE_PREFIX_PATH={prefix}",
        "-DCMAKE_CXX_FLAGS=-O0 -Wall -Wextra -Werror", "-DCMAKE_CXX_COMPILER_LAUNCHER=")  # fmt: skip
    run("cmake", "--build", folder)
    return folder / "chat"


def test_what_is_installed(prefix):
    found = {path.relative_to(prefix).as_posix() for path in prefix.rglob("*") if path.is_file()}
    assert {name for name in found if name.startswith("include/")} == {
        "include/nsa_serve/client.h",
        "include/nsa/v1/inference.grpc.pb.h",
        "include/nsa/v1/inference.pb.h",
        "include/nsa/v1/status.grpc.pb.h",
        "include/nsa/v1/status.pb.h",
    }
    assert sum(name.endswith(".a") for name in found) == 3
    text = "".join(p.read_text() for p in prefix.rglob("*.cmake"))
    assert str(ROOT) not in text and "nsa_options" not in text, "nothing points to where it was built"


@pytest.mark.slow
def test_the_example_answers(chat, real_server):
    done = run(chat, real_server.address, "Say hello.")
    assert done.stdout.strip().endswith("tokens") and len(done.stdout) > 15


@pytest.mark.slow
def test_the_example_with_tls_and_a_key(chat, tmp_path):
    authority = Authority(tmp_path)
    cert, key = authority.issue("server")
    keys = tmp_path / "keys"
    keys.write_text(key_line(KEY))
    flags = {"tls_cert": cert, "tls_key": key, "api_keys_file": keys, "max_context": 2048}
    with server.running(**flags) as running:
        environment = os.environ | {"NSA_API_KEY": KEY}
        run(chat, running.address, "Say hello.", authority.cert, env=environment)
        refused = subprocess.run([chat, running.address, "Say hello.", authority.cert],
                                 capture_output=True, text=True, timeout=60)  # fmt: skip
        assert refused.returncode == 1 and "API key" in refused.stderr
