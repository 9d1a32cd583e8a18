"""tokenizer.json files of the kinds that our families publish, beside PyPI `tokenizers`."""

import struct
import subprocess

import pytest

from tests.support import model_files

pytestmark = pytest.mark.oracle

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = [
    "",
    " ",
    "Hello",
    " Hello  world\n\n  indented\t\ttabs \r\n",
    "I'll don't WE'RE 12345 3.14159 ½ ² Ⅷ",
    "e\u0301 caf\u00e9 \u1112\u1161\u11ab \ufb01 \u0130 ǅ",
    "日本語のテキスト、漢字。 ไทย العربية",
    "🙂👩‍👩‍👧 \u200b \u00a0\u2003 \u180e x",
    "▁ ▁▁ a▁b <0x41> <s> </s>",
    "<|sep|>a<|sep|> b <|sep|>  c<mask> d  <mask>e<|sep|>",
    "\x00\x01\x7f\u0085 \u2028",
    "a" * 500 + "   " * 50,
]


def texts() -> list[str]:
    manual = model_files.manual_text()
    return TEXTS + [manual[i : i + 3000] for i in range(0, 60_000, 15_000)]


def train(tokenizer, sample: int = 300_000, **options) -> None:
    from tokenizers import trainers

    trainer = trainers.BpeTrainer(
        vocab_size=1500, show_progress=False, special_tokens=["<s>", "</s>", "<unk>"], **options
    )
    manual = model_files.manual_text()[:sample]
    tokenizer.train_from_iterator(manual.splitlines() + TEXTS, trainer)


def add_tokens(tokenizer) -> None:
    from tokenizers import AddedToken

    tokenizer.add_special_tokens([AddedToken("<|sep|>", normalized=False)])
    tokenizer.add_tokens([AddedToken("<mask>", lstrip=True, rstrip=True, normalized=False)])


def byte_level(split: str | None, *, nfc=False, digits=False, prefix=False, ignore_merges=False):
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    level = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=split is None)
    before = []
    if digits:
        before.append(pre_tokenizers.Digits(individual_digits=True))
    if split is not None:
        before.append(pre_tokenizers.Split(Regex(split), "isolated"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(before + [level]) if before else level
    tokenizer.decoder = decoders.ByteLevel()
    train(tokenizer, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    add_tokens(tokenizer)
    return tokenizer


def with_bytes(tokenizer):
    """The same with a token for each byte, as a SentencePiece vocabulary has them."""
    import json

    from tokenizers import Tokenizer

    document = json.loads(tokenizer.to_str())
    vocabulary = document["model"]["vocab"]
    shifted = {token: i + 256 if i > 2 else i for token, i in vocabulary.items()}
    for byte in range(256):
        shifted[f"<0x{byte:02X}>"] = 3 + byte
    document["model"].update(vocab=shifted, byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    return Tokenizer.from_str(json.dumps(document))


def characters(normalizer, pre_tokenizer, decoder, *, strip: bool):
    from tokenizers import Tokenizer, decoders, models

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    # Without a split the trainer takes a text for one word, so short ones.
    train(tokenizer, sample=20_000, max_token_length=12)
    tokenizer = with_bytes(tokenizer)
    steps = [decoder, decoders.ByteFallback(), decoders.Fuse()]
    if strip:
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(steps)
    add_tokens(tokenizer)
    return tokenizer


def llama2():
    from tokenizers import decoders, normalizers

    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return characters(normalizer, None, decoders.Replace("▁", " "), strip=True)


def gemma():
    from tokenizers import decoders, normalizers, pre_tokenizers

    split = pre_tokenizers.Split(" ", "merged_with_previous")
    return characters(
        normalizers.Replace(" ", "▁"), split, decoders.Replace("▁", " "), strip=False
    )


def metaspace(scheme: str, split: bool):
    from tokenizers import decoders, pre_tokenizers

    space = pre_tokenizers.Metaspace("▁", prepend_scheme=scheme, split=split)
    return characters(None, space, decoders.Replace("▁", " "), strip=scheme != "never")


def with_template(tokenizer):
    from tokenizers import processors

    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B",
        special_tokens=[("<s>", tokenizer.token_to_id("<s>")), ("</s>", tokenizer.token_to_id("</s>"))],
    )
    return tokenizer


KINDS = {
    "gpt2": lambda: byte_level(None),
    "gpt2-prefix": lambda: byte_level(None, prefix=True),
    "smollm": lambda: byte_level(None, digits=True),
    "llama3": lambda: byte_level(LLAMA3, ignore_merges=True),
    "qwen2": lambda: byte_level(LLAMA3.replace("{1,3}", ""), nfc=True),
    "template": lambda: with_template(byte_level(None)),
    "llama2": llama2,
    "gemma": gemma,
    "metaspace-first": lambda: metaspace("first", False),
    "metaspace-always": lambda: metaspace("always", True),
    "metaspace-never": lambda: metaspace("never", True),
}


@pytest.fixture(scope="module", params=KINDS, ids=str)
def kind(request, tmp_path_factory):
    tokenizer = KINDS[request.param]()
    path = tmp_path_factory.mktemp(request.param) / "tokenizer.json"
    tokenizer.save(str(path))
    return tokenizer, path


def run(mode: str, path, flags: str, records: list[bytes]) -> list[bytes]:
    packed = b"".join(records)
    done = subprocess.run(
        [model_files.tool("nsa_tokenize"), mode, path, flags], input=packed, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    out, offset, width = [], 0, 4 if mode == "encode" else 1
    while offset < len(done.stdout):
        (count,) = struct.unpack_from("<I", done.stdout, offset)
        out.append(done.stdout[offset + 4 : offset + 4 + count * width])
        offset += 4 + count * width
    return out


def test_encode(kind):
    tokenizer, path = kind
    records = [struct.pack("<I", len(raw)) + raw for raw in (t.encode() for t in texts())]
    ours = run("encode", path, "sp", records)
    assert len(ours) == len(records)
    for text, ids in zip(texts(), ours):
        expected = tokenizer.encode(text).ids
        assert list(struct.unpack(f"<{len(ids) // 4}i", ids)) == expected, text[:80]


def test_decode(kind):
    tokenizer, path = kind
    sequences = [tokenizer.encode(text).ids for text in texts()]
    records = [struct.pack(f"<I{len(ids)}i", len(ids), *ids) for ids in sequences]
    ours = run("decode", path, "k", records)
    for ids, text in zip(sequences, ours):
        assert text.decode() == tokenizer.decode(ids), ids[:20]
