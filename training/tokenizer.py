"""A SentencePiece tokenizer, trained on the run's own text.

Byte-pair merges, since they are deterministic whatever the number of threads; bytes stand in for what has no piece, so
that every text can be written; digits are pieces of their own, so that a key of five digits is five tokens wherever it
stands; no normalisation, so that decoding gives the text back.
"""

import functools
import hashlib
import os
import pathlib
import re

import numpy as np

from training import text
from training.config import Tokenizer as TokenizerConfig

UNKNOWN, BOS, EOS = 0, 1, 2
MAX_LINE_CHARS = 4000  # SentencePiece leaves longer lines out


class Tokenizer:
    """Text to ids and back. Immutable."""

    def __init__(self, model: bytes):
        """`model`: a tokenizer.model's bytes."""
        import sentencepiece

        self.model = model
        self.digest = hashlib.sha256(model).hexdigest()
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.bos, self.eos = self._processor.bos_id(), self._processor.eos_id()
        self.vocabulary_size = self._processor.vocab_size()

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(text)

    def encode_with_ends(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """int64 [tokens] twice: ids, and the characters of `text` up to each token's end."""
        pieces = self._processor.encode(text, out_type="immutable_proto").pieces
        ids = np.fromiter((piece.id for piece in pieces), np.int64, len(pieces))
        return ids, np.fromiter((piece.end for piece in pieces), np.int64, len(pieces))

    def decode(self, ids) -> str:
        return self._processor.decode([int(i) for i in ids])

    @functools.cached_property
    def words(self) -> tuple[str, ...]:
        """Words and stems of four to eight letters that are one token each, by ids: frequent ones first."""
        pieces = (self._processor.id_to_piece(i) for i in range(self.vocabulary_size))
        return tuple(piece[1:] for piece in pieces if re.fullmatch("\u2581[a-z]{4,8}", piece))


def _lines(documents: text.Documents, sample_bytes: int):
    """Lines of training documents, taken in an order that the documents' hash gives, up to `sample_bytes`."""
    order = np.random.default_rng(int(documents.digest[:16], 16)).permutation(len(documents.training))
    left = sample_bytes
    for index in order:
        for line in documents.training[index].split("\n"):
            if line.strip():
                yield line[:MAX_LINE_CHARS]
                left -= len(line)
        if left <= 0:
            return


def train(documents: text.Documents, config: TokenizerConfig) -> bytes:
    """A tokenizer.model's bytes, the same for the same texts and configuration."""
    import io

    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_lines(documents, config.sample_bytes),
        model_writer=out,
        model_type="bpe",
        vocab_size=config.vocabulary_size,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        character_coverage=0.9995,
        max_sentence_length=4 * MAX_LINE_CHARS,
        unk_id=UNKNOWN,
        bos_id=BOS,
        eos_id=EOS,
        pad_id=-1,
        minloglevel=2,
    )
    return out.getvalue()


def load(documents: text.Documents, config: TokenizerConfig) -> Tokenizer:
    """Trained where the cache has none of these texts and this configuration."""
    import sentencepiece

    inputs = f"{documents.digest} {config} {sentencepiece.__version__}"
    key = hashlib.sha256(inputs.encode()).hexdigest()[:16]
    path = text.cache() / "training" / f"tokenizer-{key}.model"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        unfinished.write_bytes(train(documents, config))
        os.replace(unfinished, path)
    return Tokenizer(path.read_bytes())


def read(path: pathlib.Path) -> Tokenizer:
    return Tokenizer(path.read_bytes())
