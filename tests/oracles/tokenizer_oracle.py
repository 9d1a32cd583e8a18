"""Compares nsa_tokenize token for token with PyPI tokenizers, sentencepiece and llama-cpp-python.

    tokenizer_oracle.py --binary=PATH/nsa_tokenize --model=PATH.gguf [--megabytes=6] [--keep=FOLDER]

The corpus is what ships with Debian and Python, and text made here; it needs no network. Prints one
line for each comparison and exits with 1 if any has a mismatch that is not explained below.

Where the references disagree among themselves:
- Invalid UTF-8. tokenizers takes strings only, so for byte-level BPE the reference is its result for
  bytes.decode(errors="replace"). llama.cpp puts U+FFFD for every invalid byte, lets surrogates and
  overlong forms through and fails over U+10FFFF; it is compared on valid text only. SentencePiece
  puts U+FFFD for every byte, and llama.cpp's own "llama" code emits byte tokens; the first is
  followed, as it is the library that such checkpoints were trained with.
- Characters newer than Unicode 14. Each library has its own tables (PCRE2 10.42 has 14.0). The
  corpus has the characters that Python's table, up to 14.0, calls assigned.
- Bytes that the vocabulary lacks (SmolLM2 has no token for some control characters). Both drop them;
  with tokenizers their neighbours then meet and may merge, with llama.cpp they may not. tokenizers is
  followed, and llama.cpp is compared on text without such bytes.
- Special tokens with parse_special off. tokenizers has no such switch, so llama.cpp is followed.
- After a special token, llama.cpp begins a "llama" text anew, with its leading space; SentencePiece
  has no special tokens in text. llama.cpp is followed.
"""

import argparse
import gzip
import pathlib
import random
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
import unicodedata

import gguf
import llama_cpp
import numpy as np
import sentencepiece
import tokenizers

DOCUMENT_BYTES = 8000


def files(folder, patterns):
    for pattern in patterns:
        yield from sorted(pathlib.Path(folder).rglob(pattern))


def read_texts(limit):
    """Prose, code and translations of this machine, in a fixed order, about `limit` bytes of each."""
    stdlib = sysconfig.get_paths()["stdlib"]
    for folder, patterns in [("/usr/share/doc", ["copyright", "*.gz", "README*"]),
                             (stdlib, ["*.py"]),
                             ("/usr/include", ["*.h", "*.hpp"]),
                             (stdlib + "/test", ["cjkencodings/*", "*.txt", "*.xml"]),
                             ("/usr/share/perl", ["*.pm", "*.pl", "*.pod"]),
                             ("/usr/share/i18n/locales", ["*"])]:
        total = 0
        for path in files(folder, patterns):
            if not path.is_file() or total > limit:
                continue
            data = path.read_bytes()
            if path.suffix == ".gz":
                try:
                    data = gzip.decompress(data)
                except OSError:
                    continue
            data = data[:60000]
            total += len(data)
            yield data


def unicode_texts(rng):
    """Every assigned character, alone, in words and among spaces and digits of all scripts."""
    characters = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs")
                  and not 0xE000 <= c <= 0xF8FF and not c >= 0xF0000]
    for start in range(0, len(characters), 1500):
        chunk = characters[start:start + 1500]
        yield "".join(chunk).encode()
        yield " ".join(chunk).encode()
    spaces = [c for c in characters if c.isspace() or unicodedata.category(c).startswith("Z")]
    spaces += ["\u180e", "\u200b", "\ufeff", "\x85", "\x00"]
    alphabets = [spaces, [c for c in characters if unicodedata.category(c).startswith("N")],
                 [c for c in characters if unicodedata.category(c).startswith("L")],
                 [c for c in characters if unicodedata.category(c).startswith("M")],
                 [c for c in characters if unicodedata.category(c)[0] in "PS"],
                 list("'sStTrReEvVmMlLdD\u017f"), list(" \n\r\t"), list("0123456789"),
                 ["\u200d", "\ufe0f", "\U0001F468", "\U0001F3FD", "\U0001F9D1", "\u2764"], characters]
    for _ in range(600):
        parts = []
        for _ in range(300):
            parts += rng.choices(rng.choice(alphabets), k=rng.choice([1, 1, 1, 2, 3, 7]))
        yield "".join(parts).encode()


def special_texts(rng, tokens):
    """Special tokens whole, cut, nested and next to everything."""
    pieces = tokens + [t[:-1] for t in tokens] + [t[1:] for t in tokens]
    pieces += ["<", "<|", "|>", " ", "\n", "hello", " world", "\u00e9", "\u6f22", "<<|", "a", ""]
    for _ in range(400):
        yield "".join(rng.choices(pieces, k=60)).encode()


def invalid_texts(rng):
    """Bytes that are not UTF-8: random ones, and text that is cut, overlong or has surrogates."""
    bad = [b"\xc0\x80", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf0\x9f\x98", b"\xe2\x82",
           b"\xff", b"\x80", b"\xc3", b"\xf8\x88\x80\x80\x80", b"\xed\xa0\xbd\xed\xb8\x80"]
    good = ["word", " the", "\u00e9", "\u6f22", "\U0001F600", " ", "\n", "7", "<|im_end|>"]
    for _ in range(300):
        parts = []
        for _ in range(200):
            parts.append(rng.choice(bad) if rng.random() < 0.3 else rng.choice(good).encode())
        yield b"".join(parts)
    for _ in range(60):
        yield rng.randbytes(2000)


def cut(data, size=DOCUMENT_BYTES):
    """Documents of about `size` bytes that do not end within a character."""
    start = 0
    while start < len(data):
        end = min(start + size, len(data))
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end += 1
        yield data[start:end]
        start = end


def corpus(megabytes, special):
    rng = random.Random(1)
    groups = {"text": [], "unicode": [], "special": [], "invalid": []}
    for data in read_texts(megabytes * 1_000_000 // 4):
        for document in cut(data):
            try:
                document.decode()
                groups["text"].append(document)
            except UnicodeDecodeError:
                groups["invalid"].append(document)
    groups["unicode"] = list(unicode_texts(rng))
    groups["special"] = list(special_texts(rng, special))
    groups["invalid"] += list(invalid_texts(rng))
    groups["edge"] = [b"", b" ", b"  ", b"\n", b"\0", b"a", b"'", b"'s", b" \xe2\x96\x81 \xe2\x96\x81",
                      b"<", b"a" * 8000, b" " * 8000, b"1" * 8000, b"\n" * 500 + b"x"]
    return groups


def run(binary, mode, model, flags, records, dtype):
    """Sends records to nsa_tokenize and reads as many back."""
    payload = b"".join(struct.pack("<I", len(r)) + (r if isinstance(r, bytes) else
                                                     np.asarray(r, np.int32).tobytes())
                       for r in records)
    result = subprocess.run([binary, mode, model, flags], input=payload, capture_output=True, check=False)
    if result.returncode != 0:
        sys.exit(f"nsa_tokenize {mode} {model}: exit {result.returncode}: {result.stderr.decode()}")
    out, offset, data = [], 0, result.stdout
    width = np.dtype(dtype).itemsize
    while offset < len(data):
        count, = struct.unpack_from("<I", data, offset)
        out.append(data[offset + 4:offset + 4 + count * width])
        offset += 4 + count * width
    assert len(out) == len(records)
    return out if dtype == np.uint8 else [np.frombuffer(o, dtype).tolist() for o in out]


class Report:
    failed = False

    def compare(self, name, documents, ours, theirs):
        bad = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
        size = sum(map(len, documents)) / 1e6
        unit = "characters" if isinstance(theirs[0], str) else "tokens"
        print(f"{name}: {len(documents)} documents, {size:.2f} MB, {sum(map(len, theirs))} {unit}, "
              f"{len(bad)} mismatches", flush=True)
        for i in bad[:3]:
            at = next((k for k, (a, b) in enumerate(zip(ours[i], theirs[i])) if a != b),
                      min(len(ours[i]), len(theirs[i])))
            print(f"  document {i} {documents[i][:40]!r} at {at}: ours {ours[i][at:at + 8]!r}, "
                  f"theirs {theirs[i][at:at + 8]!r}")
        self.failed |= bool(bad)


def read_vocabulary(model):
    fields = gguf.GGUFReader(model).fields
    get = lambda key: fields["tokenizer.ggml." + key].contents()
    return get("tokens"), get("token_type"), get("merges"), get("pre")


def hugging_face(tokens, types, merges, pre, with_special=True):
    """The tokenizer.json that the GGUF came from, as far as the GGUF knows it."""
    from tokenizers import Regex, decoders, models, pre_tokenizers
    model = models.BPE(vocab={t: i for i, t in enumerate(tokens)},
                       merges=[tuple(m.split(" ")) for m in merges],
                       ignore_merges=pre in ("llama-bpe", "tekken"))
    tokenizer = tokenizers.Tokenizer(model)
    stages = [pre_tokenizers.Split(Regex(p), "isolated") for p in HUGGING_FACE_PATTERNS[pre]]
    if pre == "smollm":
        stages = [pre_tokenizers.Digits(individual_digits=True)]
    by_regex = pre in ("smollm", "gpt-2")
    stages.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=by_regex))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(stages)
    tokenizer.decoder = decoders.ByteLevel()
    if with_special:
        special = [t for t, kind in zip(tokens, types) if kind == 3]
        tokenizer.add_special_tokens([tokenizers.AddedToken(t, special=True, normalized=False)
                                      for t in special])
        tokenizer.add_tokens([tokenizers.AddedToken(t, normalized=False)
                              for t, kind in zip(tokens, types) if kind == 4])
    return tokenizer


# The split patterns of the checkpoints' own tokenizer.json files.
HUGGING_FACE_PATTERNS = {
    "smollm": [],
    "gpt-2": [],
    "llama-bpe": [r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
                  r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "qwen2": [r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
              r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "gpt-4o": [r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
               r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
               r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}|"
               r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "deepseek-v3": [r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
                    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
                    r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
}


def replaced(document):
    return document.decode(errors="replace")


def with_pre(model, pre, folder):
    """A copy of the vocabulary alone under another split pattern."""
    tokens, types, merges, _ = read_vocabulary(model)
    path = str(folder / f"{pre}.gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    finish(writer)
    return path


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama(model):
    return llama_cpp.Llama(model, vocab_only=True, verbose=False)


def check_byte_bpe(report, binary, model, groups, folder):
    tokens, types, merges, pre = read_vocabulary(model)
    valid = [d for name in ("text", "unicode", "special", "edge") for d in groups[name]]
    everything = valid + groups["invalid"]
    strings = [replaced(d) for d in everything]

    ours = run(binary, "encode", model, "p", everything, np.int32)
    oracle = hugging_face(tokens, types, merges, pre)
    theirs = [e.ids for e in oracle.encode_batch_fast(strings, add_special_tokens=False)]
    report.compare(f"{pre}, tokenizers", everything, ours, theirs)
    decoded = [d.decode() for d in run(binary, "decode", model, "", ours, np.uint8)]
    report.compare(f"{pre}, tokenizers, decode", everything, decoded,
                   oracle.decode_batch(theirs, skip_special_tokens=False))
    rng = random.Random(2)
    shuffled = [rng.choices(range(len(tokens)), k=200) for _ in range(2000)]
    decoded = [d.decode() for d in run(binary, "decode", model, "k", shuffled, np.uint8)]
    report.compare(f"{pre}, tokenizers, decode of random ids", shuffled, decoded,
                   oracle.decode_batch(shuffled, skip_special_tokens=True))

    names = set(tokens)
    lacking = {byte for byte in range(0x21) if chr(256 + byte) not in names}
    print(f"control characters that the vocabulary lacks: {sorted(lacking)}")
    kept = [i for i, d in enumerate(valid) if not lacking & set(d)]
    whole = [valid[i] for i in kept]
    reference = llama(model)
    report.compare(f"{pre}, llama.cpp", whole, [ours[i] for i in kept],
                   [reference.tokenize(d, add_bos=False, special=True) for d in whole])
    plain = run(binary, "encode", model, "", valid, np.int32)
    report.compare(f"{pre}, llama.cpp, special tokens as text", whole, [plain[i] for i in kept],
                   [reference.tokenize(d, add_bos=False, special=False) for d in whole])
    oracle = hugging_face(tokens, types, merges, pre, with_special=False)
    report.compare(f"{pre}, tokenizers, special tokens as text", valid, plain,
                   [e.ids for e in oracle.encode_batch_fast(strings[:len(valid)])])

    # A small vocabulary whose merges cross every boundary, so that each wrong split shows.
    model = str(pathlib.Path(__file__).resolve().parents[1] / "golden/tokenizer/tiny_bpe.gguf")
    tokens, types, merges, _ = read_vocabulary(model)
    for other in HUGGING_FACE_PATTERNS:
        path = with_pre(model, other, folder)
        ours = run(binary, "encode", path, "p", everything, np.int32)
        oracle = hugging_face(tokens, types, merges, other)
        theirs = [e.ids for e in oracle.encode_batch_fast(strings, add_special_tokens=False)]
        report.compare(f"{other}, tokenizers", everything, ours, theirs)
    # Old patterns that llama.cpp defines by itself; std::regex recurses, so in short documents only.
    for other in ("default", "falcon", "deepseek-llm", "deepseek-coder", "qwen2", "llama-bpe"):
        path = with_pre(model, other, folder)
        short = [p for d in groups["text"][::7] for p in cut(d, 1000)] + groups["edge"][:10]
        ours = run(binary, "encode", path, "p", short, np.int32)
        reference = llama(path)
        report.compare(f"{other}, llama.cpp", short, ours,
                       [reference.tokenize(d, add_bos=False, special=True) for d in short])


def train(folder, kind, documents):
    text = folder / "train.txt"
    text.write_bytes(b"\n".join(documents))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / kind), model_type=kind, vocab_size=4000,
        byte_fallback=True, user_defined_symbols=["<user>", "<tool call>"], normalization_rule_name=
        "identity" if kind == "bpe" else "nmt_nfkc", remove_extra_whitespaces=kind != "bpe",
        character_coverage=0.999, max_sentence_length=10000, num_threads=1, minloglevel=2)
    return str(folder / f"{kind}.model")


def to_gguf(model_file, path, add_space_prefix):
    """What llama.cpp's converter makes of a .model file."""
    processor = sentencepiece.SentencePieceProcessor(model_file=model_file)
    tokens, scores, types = [], [], []
    for i in range(processor.vocab_size()):
        tokens.append(processor.id_to_piece(i).encode())
        scores.append(processor.get_score(i))
        types.append(2 if processor.is_unknown(i) else 3 if processor.is_control(i) else
                     6 if processor.is_byte(i) else 4 if tokens[-1] in (b"<user>", b"<tool call>") or
                     tokens[-1] == "<tool\u2581call>".encode() else 1)
    tokens = [t.replace("\u2581".encode(), b" ") if k == 4 else t for t, k in zip(tokens, types)]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(processor.bos_id())
    writer.add_eos_token_id(processor.eos_id())
    writer.add_unk_token_id(processor.unk_id())
    writer.add_add_space_prefix(add_space_prefix)
    finish(writer)


def check_sentencepiece(report, binary, groups, folder):
    everything = [d for group in groups.values() for d in group]
    sample = groups["text"][::5]
    for kind in ("unigram", "bpe"):
        model = train(folder, kind, sample)
        processor = sentencepiece.SentencePieceProcessor(model_file=model)
        ours = run(binary, "encode", model, "", everything, np.int32)
        report.compare(f"{kind}.model, sentencepiece", everything, ours,
                       [processor.encode(d) for d in everything])
        valid = [i for i, d in enumerate(everything) if is_valid(d)]
        decoded = [d.decode() for d in run(binary, "decode", model, "", ours, np.uint8)]
        report.compare(f"{kind}.model, sentencepiece, decode", [everything[i] for i in valid],
                       [decoded[i] for i in valid], [processor.decode(ours[i]) for i in valid])

    for prefix in (True, False):
        path = str(folder / f"spm-{prefix}.gguf")
        to_gguf(str(folder / "bpe.model"), path, prefix)
        reference = llama(path)
        valid = [d for d in everything if is_valid(d)]
        ours = run(binary, "encode", path, "p", valid, np.int32)
        report.compare(f"gguf llama, space prefix {prefix}, llama.cpp", valid, ours,
                       [reference.tokenize(d, add_bos=False, special=True) for d in valid])
        ours = run(binary, "encode", path, "s", valid, np.int32)
        report.compare(f"gguf llama, space prefix {prefix}, llama.cpp, special tokens as text", valid,
                       ours, [reference.tokenize(d, add_bos=True, special=False) for d in valid])
        if prefix:
            plain = [d for d in everything if b"<" not in d]
            ours = run(binary, "encode", path, "p", plain, np.int32)
            report.compare("gguf llama, sentencepiece", plain, ours,
                           [processor.encode(d) for d in plain])


def is_valid(document):
    try:
        document.decode()
        return True
    except UnicodeDecodeError:
        return False


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--megabytes", type=int, default=6)
    parser.add_argument("--only", choices=["bpe", "sentencepiece"])
    parser.add_argument("--keep", help="folder for the files that are made")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(args.keep or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        tokens, types, _, _ = read_vocabulary(args.model)
        special = [t for t, kind in zip(tokens, types) if kind in (3, 4)]
        groups = corpus(args.megabytes, special + ["<s>", "</s>", "<user>", "<tool call>", "<0x41>"])
        for name, documents in groups.items():
            print(f"corpus {name}: {len(documents)} documents, {sum(map(len, documents)) / 1e6:.2f} MB")
        report = Report()
        start = time.time()
        if args.only != "sentencepiece":
            check_byte_bpe(report, args.binary, args.model, groups, folder)
        if args.only != "bpe":
            check_sentencepiece(report, args.binary, groups, folder)
        print(f"{time.time() - start:.0f} s; {'MISMATCHES' if report.failed else 'all the same'}")
        sys.exit(report.failed)


if __name__ == "__main__":
    main()
