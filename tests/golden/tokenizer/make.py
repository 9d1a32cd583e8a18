"""Trains the tiny tokenizers of this folder and writes goldens.json: texts, and the ids and texts that
PyPI tokenizers, sentencepiece and llama-cpp-python make of them.

    make.py [--model=PATH.gguf]      also goldens of that model, which its tests find in NSA_TEST_MODEL

The comparison of megabytes is tests/oracles/tokenizer_oracle.py, whose helpers this uses.
"""

import argparse
import base64
import json
import pathlib
import random
import sys
import tempfile

import gguf
import sentencepiece

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "oracles"))
import tokenizer_oracle as oracle  # noqa: E402

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
USER_DEFINED = ["<think>", "<thinking>"]

TEXTS = [
    "", " ", "  ", "   \n", "\n\n\n", "\t\tx", "a", "Hello, world!", " Hello  world ", "it's IT'S I'LL we've",
    "12345 6 78,901.23 \u0663\u0664\u0665 \u2167 \u00bd", "snake_case camelCase HTMLParser x+=1; // note",
    "def f(x):\n    return x ** 2\n\n\n", "\r\n\r\n  a\r\n", "tab\tand\u00a0nbsp\u3000wide\u2028line\x85next",
    "mongolian\u180evowel zero\u200bwidth\ufeffbom", "na\u00efve caf\u00e9 cafe\u0301 \u1e9e\u00df \u017fs '\u017f",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0393\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5",
    "\u6f22\u5b57\u304b\u306a\u4ea4\u3058\u308a\u6587 \ud55c\uad6d\uc5b4 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd \u0928\u092e\u0938\u094d\u0924\u0947",
    "\U0001F600\U0001F468\u200d\U0001F469\u200d\U0001F467 \u2764\ufe0f \U0001F1E9\U0001F1EA \U0001D4D0\U0001D7D8",
    "<|im_start|>user\nhi<|im_end|>\n", "<|im_start|", "<<|im_end|>>", "<|im_end|><|im_end|>",
    "a <|endoftext|> b", "<think>x</think><thinking>y", "<thinkin", "<s>x</s><unk><0x41>", "\u2581a \u2581 b",
    "path/to/\n//x\r\n/y", "(word)\n\n[two]\n", "MixedCASEWords DONEdone \u01c5x \u02b0a \u0301b", "!important @name #1a",
    "'Tis o'clock y'all'd've", "3.14159 1,000,000 0x1F 2024-01-02", "\u30ab\u30bf\u30ab\u30ca\u3072\u3089 \uff21\uff22\uff11",
    "a" * 300, " " * 70 + "x", "1" * 50, "?!" * 60, "\n" * 40 + "y", "\0null\0", "ends with space ",
]
INVALID = [b"\x80", b"a\xffb", b"\xc0\x80", b"\xe2\x82", b"\xe2\x82x", b"\xed\xa0\x80", b"\xf0\x9f\x98",
           b"\xf4\x90\x80\x80", b"ok \xf0\x9f\x98\x80 \xf0\x9f bad <|im_end|>\xc3", bytes(range(128, 256))]


def training_text():
    lines = []
    for data in oracle.read_texts(60_000):
        lines += [line for line in data.decode(errors="ignore").splitlines() if 10 < len(line) < 400]
    random.Random(3).shuffle(lines)
    return lines[:3000] + [t for t in TEXTS if t.strip() and len(t) < 200] * 60


def train_byte_bpe(lines, path):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE())
    # Trained without a split pattern, so that merges cross every kind of boundary and a wrong split
    # shows in the ids.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=1200, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=SPECIAL + USER_DEFINED, show_progress=False))
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if t in SPECIAL else 4 if t in USER_DEFINED else 1 for t in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    oracle.finish(writer)


def byte_bpe_cases(path, pre, documents):
    tokens, types, merges, _ = oracle.read_vocabulary(path)
    tokenizer = oracle.hugging_face(tokens, types, merges, pre)
    return [tokenizer.encode(oracle.replaced(d), add_special_tokens=False).ids for d in documents]


def train_sentencepiece(lines, folder, kind):
    text = folder / "lines.txt"
    text.write_text("\n".join(lines))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / kind), model_type=kind, vocab_size=900,
        byte_fallback=True, user_defined_symbols=["<user>", "<tool call>"],
        normalization_rule_name="identity", remove_extra_whitespaces=False,
        character_coverage=0.99, num_threads=1, minloglevel=2)
    return str(folder / f"{kind}.model")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    args = parser.parse_args()
    documents = [t.encode() for t in TEXTS] + INVALID
    valid = [d for d in documents if oracle.is_valid(d)]
    lines = training_text()
    goldens = {"texts": [base64.b64encode(d).decode() for d in documents], "byte_bpe": {}}

    tiny_bpe = str(HERE / "tiny_bpe.gguf")
    train_byte_bpe(lines, tiny_bpe)
    for pre in oracle.HUGGING_FACE_PATTERNS:
        goldens["byte_bpe"][pre] = byte_bpe_cases(tiny_bpe, pre, documents)
    if args.model:
        goldens["smollm2"] = byte_bpe_cases(args.model, "smollm", documents)

    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        unigram = train_sentencepiece(lines, folder, "unigram")
        (HERE / "tiny_unigram.model").write_bytes(pathlib.Path(unigram).read_bytes())
        bpe = train_sentencepiece(lines, folder, "bpe")
        oracle.to_gguf(bpe, str(HERE / "tiny_spm.gguf"), True)
        processor = sentencepiece.SentencePieceProcessor(model_file=unigram)
        goldens["unigram"] = [processor.encode(d) for d in documents]
        goldens["unigram_decoded"] = [processor.decode(processor.encode(d)) for d in documents]
        processor = sentencepiece.SentencePieceProcessor(model_file=bpe)
        plain = [i for i, d in enumerate(documents) if b"<" not in d]
        goldens["spm_gguf_plain"] = {i: processor.encode(documents[i]) for i in plain}
    reference = oracle.llama(str(HERE / "tiny_spm.gguf"))
    goldens["spm_gguf"] = [reference.tokenize(d, add_bos=True, special=True) for d in valid]
    goldens["num_valid"] = len(valid)
    (HERE / "goldens.json").write_text(json.dumps(goldens, separators=(",", ":"), ensure_ascii=True) + "\n")


if __name__ == "__main__":
    main()
