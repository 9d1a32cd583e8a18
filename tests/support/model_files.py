"""Where the tests' model, tools and text are."""

import functools
import gzip
import os
import pathlib
import struct
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "training" / "models"
MANUAL = pathlib.Path("/usr/share/doc/debian-policy/policy.txt.gz")


def build_dir() -> pathlib.Path:
    """The folder with the built programs: NSA_BUILD_DIR, by default build/release."""
    return pathlib.Path(os.environ.get("NSA_BUILD_DIR", ROOT / "build" / "release"))


def tool(name: str) -> pathlib.Path:
    path = build_dir() / name
    if not path.exists():
        raise FileNotFoundError(f"{path} is not built: cmake --build --preset release --target {name}")
    return path


@functools.cache
def model_path() -> pathlib.Path:
    """NSA_TEST_MODEL, by default the default model, fetched where it is not there."""
    given = os.environ.get("NSA_TEST_MODEL")
    if given:
        return pathlib.Path(given)
    fetched = subprocess.run(
        [ROOT / "deploy" / "fetch_model.sh"], check=True, capture_output=True, text=True
    )
    return pathlib.Path(fetched.stdout.strip())


@functools.cache
def manual_text() -> str:
    """The text of the Debian policy manual: about 117,000 tokens of real prose."""
    if MANUAL.exists():
        return gzip.decompress(MANUAL.read_bytes()).decode()
    # An image without documentation; deploy/lib.sh then takes it from the package itself.
    script = f"set -euo pipefail; . {ROOT}/deploy/lib.sh; manual_text"
    return subprocess.run(["bash", "-c", script], check=True, capture_output=True).stdout.decode()


def encode(
    texts: list[str], model: pathlib.Path, special_tokens: bool = False, *, begin: bool = False
) -> list[list[int]]:
    """Token ids of each text, by nsa_tokenize. `begin`: with the token that the model's prompts begin with,
    if they do."""
    flags = ("p" if special_tokens else "") + ("s" if begin else "")
    records = b"".join(struct.pack("<I", len(raw)) + raw for raw in (t.encode() for t in texts))
    run = subprocess.run(
        [tool("nsa_tokenize"), "encode", model, flags or "-"],
        input=records,
        capture_output=True,
        check=True,
    )
    ids, offset = [], 0
    while offset < len(run.stdout):
        (count,) = struct.unpack_from("<I", run.stdout, offset)
        ids.append(list(struct.unpack_from(f"<{count}i", run.stdout, offset + 4)))
        offset += 4 + 4 * count
    return ids


def decode(ids: list[int], model: pathlib.Path) -> str:
    """The text of token ids, by nsa_tokenize."""
    record = struct.pack(f"<I{len(ids)}i", len(ids), *ids)
    run = subprocess.run(
        [tool("nsa_tokenize"), "decode", model, "-"], input=record, capture_output=True, check=True
    )
    return run.stdout[4:].decode(errors="replace")
