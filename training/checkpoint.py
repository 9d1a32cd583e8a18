"""Checkpoints: written at once or not at all, and refused where a bit of them is not as it was written.

A file is the magic text, the SHA-256 of the rest, and the rest: what torch.save makes of a dictionary.
"""

import hashlib
import io
import os
import pathlib
import re

import torch

MAGIC = b"nsa-training-checkpoint-1\n"
HASH_BYTES = 32


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used. The message names the file, what is wrong and the way out."""


def path_of(folder: pathlib.Path, step: int) -> pathlib.Path:
    return folder / f"step-{step:07}.checkpoint"


def all_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """By step, the last one last."""
    return sorted(path for path in folder.glob("step-*.checkpoint") if re.fullmatch(r"step-\d{7}", path.stem))


def save(folder: pathlib.Path, step: int, content: dict, keep: int) -> pathlib.Path:
    """Writes beside, flushes to the disk, renames; then leaves the `keep` last ones."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    payload = buffer.getvalue()
    path = path_of(folder, step)
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    with unfinished.open("wb") as file:
        file.write(MAGIC + hashlib.sha256(payload).digest() + payload)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
    for old in all_in(folder)[:-keep]:
        old.unlink()
    return path


def load(path: pathlib.Path) -> dict:
    """What was saved. CheckpointError where the file is cut, changed, or something else."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None
    if not raw.startswith(MAGIC):
        raise CheckpointError(f"{path}: no checkpoint of this program: it does not begin with {MAGIC[:-1].decode()!r}")
    head = len(MAGIC) + HASH_BYTES
    if hashlib.sha256(raw[head:]).digest() != raw[len(MAGIC) : head]:
        raise CheckpointError(
            f"{path}: corrupted: {len(raw)} bytes that do not have the SHA-256 that was written with them; "
            "delete the file, and the run goes on from the checkpoint before it"
        )
    return torch.load(io.BytesIO(raw[head:]), map_location="cpu", weights_only=True)


def check_run(path: pathlib.Path, content: dict, fingerprint: str) -> None:
    """CheckpointError where the checkpoint is of another configuration."""
    if content["fingerprint"] != fingerprint:
        raise CheckpointError(
            f"{path}: of a run with another configuration (model, data, optimizer, phases or seed differ): "
            "give another --output, or the configuration that it was made with"
        )
