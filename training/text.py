"""The texts that a model is trained on: read, split, tokenized once, and sampled by random place.

A document is a file; equal ones count once. The policy manual and about one in 32 others are held out for
validation, chosen by the hash of their names, so that the choice stays when documents are added.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
import subprocess

import numpy as np

HELD_OUT = "debian-policy,policy.txt"  # the haystack of tests/bench and of the evaluation
ONE_IN = 32
MIN_CHARS = 200  # a shorter file is an index or a stub


class TextError(RuntimeError):
    """Texts that cannot be had, or are too few."""


def cache() -> pathlib.Path:
    """As deploy/lib.sh has it."""
    given = os.environ.get("NSA_CACHE_DIR")
    if given:
        return pathlib.Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "nsa-serve"


def fetched() -> pathlib.Path:
    """The folder of texts that fetch_text.sh fetches. TextError with its words where it cannot."""
    script = pathlib.Path(__file__).with_name("fetch_text.sh")
    run = subprocess.run([script], capture_output=True, text=True)
    if run.returncode != 0:
        raise TextError(f"{script.name}: {run.stderr.strip()}")
    return pathlib.Path(run.stdout.strip())


def _held_out(name: str) -> bool:
    return name == HELD_OUT or hashlib.sha256(name.encode()).digest()[0] % ONE_IN == 0


@dataclasses.dataclass(frozen=True)
class Documents:
    """Texts in the order of their names; `digest` is the hash of all of them."""

    training: tuple[str, ...]
    validation: tuple[str, ...]
    digest: str


def read(folder: pathlib.Path) -> Documents:
    """All files below `folder`. TextError where there is too little to train on and to hold out."""
    parts, seen, digest = ([], []), set(), hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        raw = path.read_bytes()
        key = hashlib.sha256(raw).digest()
        text = raw.decode("utf-8", errors="replace").replace("\r", "").replace("\0", "")
        if key in seen or len(text) < MIN_CHARS or path.name.startswith("."):
            continue
        seen.add(key)
        digest.update(path.name.encode() + key)
        parts[_held_out(path.name)].append(text)
    for kind, texts in zip(("training", "validation"), parts):
        if sum(map(len, texts)) < 10 * MIN_CHARS:
            raise TextError(f"{folder}: {len(texts)} documents of {kind}, which is too little text")
    return Documents(tuple(parts[0]), tuple(parts[1]), digest.hexdigest())


class Corpus:
    """One split as a text and as a stream of tokens: <s> document </s> <s> document </s> …"""

    def __init__(self, texts: tuple[str, ...], tokens: np.ndarray):
        self.text = "\n\n".join(texts)
        self.tokens = tokens  # uint16 [tokens]

    def sample_tokens(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """int64 [at most count]: a stretch of the stream, wherever it begins."""
        begin = int(rng.integers(0, max(1, len(self.tokens) - count)))
        return self.tokens[begin : begin + count].astype(np.int64)

    def sample_text(self, rng: np.random.Generator, num_chars: int) -> str:
        """Whole lines, of `num_chars` characters at least; the text goes round where it is too short."""
        begin = int(rng.integers(0, len(self.text)))
        begin = self.text.find("\n", begin) + 1
        found = self.text[begin : begin + num_chars]
        while len(found) < num_chars:
            found += "\n" + self.text[: num_chars - len(found)]
        return found


def _tokenize(texts: tuple[str, ...], tokenizer) -> np.ndarray:
    stream = []
    for text in texts:
        stream += [tokenizer.bos, *tokenizer.encode(text), tokenizer.eos]
    return np.array(stream, np.uint16)


def corpora(documents: Documents, tokenizer) -> tuple[Corpus, Corpus]:
    """Training and validation, whose tokens are kept in the cache by the hash of texts and tokenizer."""
    key = hashlib.sha256((documents.digest + tokenizer.digest).encode()).hexdigest()[:16]
    folder = cache() / "training"
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for kind, texts in (("training", documents.training), ("validation", documents.validation)):
        path = folder / f"{kind}-{key}.npy"
        if not path.exists():
            unfinished = folder / f"{kind}-{key}.{os.getpid()}.tmp.npy"
            np.save(unfinished, _tokenize(texts, tokenizer))
            os.replace(unfinished, path)
        made.append(Corpus(texts, np.load(path, mmap_mode="r")))
    return made[0], made[1]


@functools.cache
def documents(folder: str) -> Documents:
    """Those of a configuration's `text`: a folder, or what is fetched where it is empty."""
    return read(pathlib.Path(folder) if folder else fetched())
