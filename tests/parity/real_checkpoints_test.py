"""Real checkpoints end to end: greedy text beside llama.cpp's, token for token.

llama.cpp rounds activations to 8 bits before it multiplies quantised weights, which moves logits by a few
tenths: more than what lies between the best two tokens many a time. Ours keep 16 bits. So llama.cpp is
given the same weights in float32, where it does not round.
"""

import pathlib

import numpy as np
import pytest

from tests.support import model_files, nsa_eval, optional_models

pytestmark = pytest.mark.oracle

NUM_TOKENS = 64
# Two tokens whose logits are closer than this are equal: either may be chosen.
MARGIN = 0.05
PROMPTS = [
    "The capital of France is",
    "Once upon a time, there was a little girl who",
    "Water boils at 100 degrees",
    "def fibonacci(n):\n    ",
    "The three primary colours are red,",
    "In 1969, the first humans",
    "A list of fruits:\n- apple\n- banana\n-",
    "To be, or not to be,",
    "Der schnelle braune Fuchs",
    "Q: What is the largest planet?\nA:",
]


def models():
    yield "smollm2", model_files.model_path
    yield "gemma3", optional_models.gemma


def in_float32(source: pathlib.Path, target: pathlib.Path) -> None:
    """The same checkpoint with all weights dequantised."""
    import gguf

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.get_field("general.architecture").contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind = field.types[0]
        sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=sub)
    for tensor in reader.tensors:
        weights = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module", params=models(), ids=lambda param: param[0])
def checkpoint(request, tmp_path_factory):
    """Our file, and llama.cpp with the file's weights in float32."""
    import llama_cpp

    try:
        path = request.param[1]()
    except RuntimeError as error:
        pytest.skip(str(error))
    exact = tmp_path_factory.mktemp("float32") / path.name
    in_float32(path, exact)
    llm = llama_cpp.Llama(
        model_path=str(exact), n_ctx=256, n_threads=2, n_threads_batch=2, verbose=False, logits_all=True
    )
    yield path, llm
    llm.close()
    exact.unlink()


def last_logits(llm) -> np.ndarray:
    return np.array(llm.scores[llm.n_tokens - 1])


@pytest.mark.parametrize("prompt", PROMPTS, ids=range(len(PROMPTS)))
def test_greedy_text(checkpoint, prompt):
    path, llm = checkpoint
    ids = llm.tokenize(prompt.encode(), add_bos=True)
    bos = [llm.token_bos()] if ids[0] == llm.token_bos() else []
    assert ids == bos + model_files.encode([prompt], path)[0]
    end = len(ids) + NUM_TOKENS
    llm.reset()
    llm.eval(ids)
    while len(ids) < end:
        ours = nsa_eval.evaluate(ids, nsa_eval.FULL, generate=end - len(ids), model=path).generated
        for token in ours:
            logits = last_logits(llm)
            best = int(logits.argmax())
            if token != best:
                margin = float(logits[best] - logits[token])
                print(f"token {len(ids)}: {token} for {best}, whose logit is {margin:.4f} above")
                assert margin < MARGIN
            # Where they differ both go on from llama.cpp's token.
            ids = ids + [best]
            llm.eval([best])
            if token != best:
                break
