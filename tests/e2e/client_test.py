"""nsa_client, as a person or a script uses it."""

import json
import subprocess

import pytest

from tests.support import model_files


def client(server, *arguments: str, stdin: bytes = b"", timeout: float = 120):
    return subprocess.run(
        [model_files.tool("nsa_client"), *arguments, f"--server={server.address}"],
        input=stdin,
        capture_output=True,
        timeout=timeout,
    )


def test_complete_streams_json_messages(tiny_server):
    run = client(
        tiny_server, "complete", "--prompt=the sky", "--max_tokens=20", "--temperature=0",
        "--ignore_eos", "--json",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    messages = [json.loads(line) for line in run.stdout.splitlines()]
    assert "finished" in messages[-1] and sum("finished" in m for m in messages) == 1
    ids = [i for m in messages if "delta" in m for i in m["delta"].get("token_ids", [])]
    assert len(ids) == 20
    assert sum("delta" in m for m in messages) > 3, "tokens come as they are made"


def test_prompt_from_file_and_standard_input(tiny_server, tmp_path):
    path = tmp_path / "prompt"
    path.write_bytes("the ünïcode 漢字 \xff".encode("latin-1", "ignore") + b"\xff\xfe the")
    common = ["complete", "--max_tokens=8", "--temperature=0", "--ignore_eos"]
    by_file = client(tiny_server, *common, f"--prompt_file={path}")
    by_stdin = client(tiny_server, *common, "--prompt_file=-", stdin=path.read_bytes())
    assert by_file.returncode == 0, by_file.stderr
    assert by_file.stdout == by_stdin.stdout != b""


def test_chat_answers_a_question(real_server):
    run = client(
        real_server, "chat", "--prompt=What is the capital of France?", "--temperature=0",
        "--max_tokens=20",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert b"Paris" in run.stdout


def test_tokenize_and_back(tiny_server):
    text = "the end: 123 漢字"
    run = client(tiny_server, "tokenize", f"--prompt={text}")
    assert run.returncode == 0, run.stderr
    ids = run.stdout.decode().split()
    back = client(tiny_server, "detokenize", *ids)
    assert back.stdout.decode().rstrip("\n") == text


def test_info(tiny_server):
    run = client(tiny_server, "info", "--json")
    assert run.returncode == 0, run.stderr
    messages = [json.loads(line) for line in run.stdout.splitlines()]
    assert messages[0]["architecture"] == "llama" and messages[0]["name"] == "tiny"


def test_abort_of_an_unknown_request_is_no_error(tiny_server):
    assert client(tiny_server, "abort", "--request_id=nothing").returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["sing"],
        ["complete", "--prompt=x", "--temperature=warm"],
        ["complete", "--prompt=x", "--no_such_flag=1"],
        ["complete", "--prompt_file=no/such/file"],
        ["detokenize", "x"],
    ],
)
def test_usage_errors_end_with_2(tiny_server, arguments):
    run = client(tiny_server, *arguments)
    assert run.returncode == 2, run.stderr
    assert run.stderr


def test_statuses_are_exit_codes(tiny_server):
    run = client(tiny_server, "complete", "--prompt=x", "--temperature=1000")
    assert run.returncode == 10 + 3, run.stderr
    assert b"temperature" in run.stderr
    gone = subprocess.run(
        [model_files.tool("nsa_client"), "info", "--server=127.0.0.1:1", "--timeout_s=3"],
        capture_output=True,
        timeout=60,
    )
    assert gone.returncode in (10 + 14, 10 + 4), gone.stderr
