"""Model files that cannot be served, and machines that cannot hold them: the server says what is wrong
and ends, at once and without a crash."""

import re
import subprocess

import gguf
import pytest

from tests.support import model_files, server, tiny_model


def start_fails(model, *words: str, code: int = 1, **flags) -> str:
    """nsa_server ends with `code` and says each of `words`. Its output."""
    flags = {"listen": "127.0.0.1:0", "metrics_listen": "127.0.0.1:0"} | flags
    run = subprocess.run(
        [model_files.tool("nsa_server"), f"--model={model}"]
        + [f"--{name}={value}" for name, value in flags.items()],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
    )
    output = run.stdout + run.stderr
    assert run.returncode == code, f"ended with {run.returncode}: {output}"
    assert "ready on" not in output
    for word in words:
        assert word in output, output
    return output


def test_missing(tmp_path):
    start_fails(tmp_path / "nothing.gguf", "nothing.gguf", "No such file")


def test_no_model_is_a_usage_error():
    start_fails("", "--model", code=2)


def test_a_folder(tmp_path):
    start_fails(tmp_path, str(tmp_path))


def test_empty(tmp_path):
    path = tmp_path / "empty.gguf"
    path.write_bytes(b"")
    start_fails(path, "empty.gguf")


@pytest.mark.parametrize(
    "content",
    [b"GGUF", b"\x00" * 4096, b"PK\x03\x04" + b"\x00" * 4096, b'{"a": 1}' * 100, b"GGML" + b"\x01" * 4096],
    ids=["magic alone", "zeros", "zip", "json", "another format"],
)
def test_other_files(tmp_path, content):
    path = tmp_path / "other.gguf"
    path.write_bytes(content)
    start_fails(path, "other.gguf")


@pytest.mark.parametrize("version", [0, 1, 4, 0x03000000])
def test_other_versions(tmp_path, tiny_path, version):
    """The last is a big-endian file's 3."""
    raw = bytearray(tiny_path.read_bytes())
    raw[4:8] = version.to_bytes(4, "little")
    path = tmp_path / "version.gguf"
    path.write_bytes(raw)
    start_fails(path, "version")


def test_truncated_anywhere(tmp_path, tiny_path):
    raw = tiny_path.read_bytes()
    path = tmp_path / "cut.gguf"
    for size in [5, 12, 23, 24, 25, 100, 1000, 5000, len(raw) // 2, len(raw) - 1]:
        path.write_bytes(raw[:size])
        start_fails(path, "cut.gguf")


def test_truncated_download_of_the_default_model(tmp_path):
    path = tmp_path / "half.gguf"
    with open(model_files.model_path(), "rb") as whole:
        path.write_bytes(whole.read(40_000_000))
    start_fails(path, "half.gguf")


@pytest.mark.parametrize("offset", [8, 16], ids=["tensor count", "key count"])
@pytest.mark.parametrize("value", [2**64 - 1, 2**63, 2**40, 2**32 + 1])
def test_absurd_counts(tmp_path, tiny_path, offset, value):
    raw = bytearray(tiny_path.read_bytes())
    raw[offset : offset + 8] = value.to_bytes(8, "little")
    path = tmp_path / "counts.gguf"
    path.write_bytes(raw)
    start_fails(path, "counts.gguf")


def test_corrupted_anywhere_never_crashes(tmp_path, tiny_path):
    """Header bytes set to 0xff one region at a time: an error or a server that starts, no signal."""
    raw = tiny_path.read_bytes()
    path = tmp_path / "corrupted.gguf"
    for begin in range(0, 6000, 311):
        path.write_bytes(raw[:begin] + b"\xff" * 8 + raw[begin + 8 :])
        running = server.Server(path, max_context=512)
        try:
            running.wait_ready()
        except RuntimeError as error:
            code = running.process.returncode
            assert code == 1, f"offset {begin}: {error}"
            assert "nsa_server:" in str(error)
        finally:
            running.close()


def test_unknown_architecture_is_named_with_those_known(tmp_path):
    path = tiny_model.write(tmp_path / "mamba.gguf", architecture="mamba")
    start_fails(path, "'mamba'", "llama")


def test_missing_tensor(tmp_path):
    path = tiny_model.write(tmp_path / "x.gguf", skip_tensor="blk.1.ffn_down.weight")
    start_fails(path, "blk.1.ffn_down.weight")


def test_wrong_shape(tmp_path):
    path = tiny_model.write(tmp_path / "x.gguf", wrong_shape="blk.1.attn_k.weight")
    start_fails(path, "blk.1.attn_k.weight")


def test_unsupported_weight_type(tmp_path):
    path = tiny_model.write(tmp_path / "x.gguf", tensor_type=gguf.GGMLQuantizationType.Q2_K)
    start_fails(path, "attn_q.weight")


def test_too_little_memory_is_said_before_loading(tiny_path):
    output = start_fails(tiny_path, "memory", kv_cache_gib=100_000)
    assert re.search(r"\d", output)


def test_a_context_that_the_pool_cannot_hold(tiny_path):
    """A pool of 0.001 GiB has too few pages for a million tokens; said at the start, not to a request."""
    start_fails(tiny_path, "max_context", kv_cache_gib=0.001, max_context=1_000_000)


@pytest.mark.parametrize(
    "flag,value",
    [
        ("attention", "sparse"),
        ("device", "tpu"),
        ("kv_cache_dtype", "fp4"),
        ("num_threads", "-1"),
        ("num_threads", "many"),
        ("max_context", "-5"),
        ("kv_cache_gib", "nan"),
        ("max_step_tokens", "0"),
        ("listen", "nowhere"),
        ("listen", "127.0.0.1:70000"),
        ("log_format", "xml"),
        ("no_such_flag", "1"),
    ],
)
def test_bad_flags_are_usage_errors(tiny_path, flag, value):
    start_fails(tiny_path, flag, code=2, **{flag: value})


def test_port_in_use(tiny_path):
    with server.running(tiny_path, max_context=1024) as first:
        start_fails(tiny_path, first.address, "listen", listen=first.address)
        taken = first.metrics_url.split("/")[2]
        start_fails(tiny_path, taken, "metrics_listen", metrics_listen=taken)
        assert server.generate(first, server.request("x", 2)).token_ids
