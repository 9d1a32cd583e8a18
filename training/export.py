"""Writes a run's model as a folder that the server loads as it is.

    .venv-training/bin/python -m training.export build/training/smoke build/models/smoke [--dtype float32|bfloat16]
    build/release/nsa_server --model=build/models/smoke

config.json of the family nsa_paper (llama for the full-attention twin), model.safetensors, tokenizer.model, and what
says which tokens begin and end a text. The newest checkpoint counts, or the one of --step.
"""

import argparse
import json
import pathlib
import sys

import torch

from training import checkpoint, tokenizer
from training import config as configuration
from training.config import Model as ModelConfig
from training.model import Decoder
from training.optimizer import DTYPES


# Fields of config.json (engine/models/README.md) and what training.config calls them; those of its section `nsa`.
FIELDS = {
    "hidden_size": "hidden_size",
    "intermediate_size": "ffn_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_q_heads",
    "num_key_value_heads": "num_kv_heads",
    "head_dim": "head_dim",
    "rms_norm_eps": "rms_norm_eps",
    "rope_theta": "rope_theta",
}
NSA_FIELDS = {
    "compression_length": "compression_length",
    "compression_stride": "compression_stride",
    "compression_hidden_size": "compression_hidden_size",
    "selection_block_size": "sel_block_size",
    "num_selected_blocks": "num_selected_blocks",
    "num_initial_blocks": "num_initial_blocks",
    "num_local_blocks": "num_local_blocks",
    "window_size": "window_size",
    "gate_hidden_size": "gate_hidden_size",
}


def model_json(config: ModelConfig, vocabulary_size: int, trained_context: int) -> dict:
    """config.json."""
    document = {name: getattr(config, field) for name, field in FIELDS.items()} | dict(
        model_type="nsa_paper" if config.attention == "nsa" else "llama",
        hidden_act="silu",
        max_position_embeddings=trained_context,
        vocab_size=vocabulary_size,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.BOS,
        eos_token_id=tokenizer.EOS,
    )
    if config.attention == "full":
        return document | dict(attention_bias=config.qkv_bias)
    sparse = {name: getattr(config, field) for name, field in NSA_FIELDS.items()}
    return document | dict(nsa=sparse | dict(rope_cmp=False, rope_slc=False, rope_win=True))


def write(model: Decoder, tokens: bytes, folder: pathlib.Path, trained_context: int, dtype="float32") -> None:
    """`tokens`: tokenizer.model's bytes. The folder is made; files in it are written over."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    rows = model.output_matrix.shape[0]

    def write_json(name: str, document: dict) -> None:
        (folder / name).write_text(json.dumps(document, indent=2) + "\n")

    # Norms and biases are few and stay exact.
    state = {
        name: tensor.detach().to(DTYPES[dtype] if tensor.dim() == 2 else torch.float32).contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # the library writes for the owner alone
    write_json("config.json", model_json(model.config, rows, trained_context))
    write_json("generation_config.json", dict(bos_token_id=tokenizer.BOS, eos_token_id=tokenizer.EOS))
    names = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>", tokenizer_class="LlamaTokenizer")
    write_json("tokenizer_config.json", names | dict(add_bos_token=True, add_eos_token=False))
    (folder / "tokenizer.model").write_bytes(tokens)


def read(folder: pathlib.Path) -> Decoder:
    """The model of a folder that `write` has made, its matrices as they were rounded."""
    from safetensors.torch import load_file

    document = json.loads((folder / "config.json").read_text())
    state = load_file(folder / "model.safetensors")
    sparse = document.get("nsa")
    fields = {field: document[name] for name, field in FIELDS.items()}
    fields |= {field: sparse[name] for name, field in NSA_FIELDS.items()} if sparse else {}
    fields |= dict(attention="nsa" if sparse else "full", qkv_bias="model.layers.0.self_attn.q_proj.bias" in state)
    config = ModelConfig(**fields)
    model = Decoder(config, document["vocab_size"], seed=0)
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return model


def load_run(run: pathlib.Path, step: int | None = None) -> tuple[Decoder, bytes, int]:
    """(model, tokenizer.model's bytes, trained context) of a run's folder. CheckpointError where it has none."""
    paths = checkpoint.all_in(run)
    if step is not None:
        paths = [path for path in paths if path == checkpoint.path_of(run, step)]
    if not paths:
        raise checkpoint.CheckpointError(f"{run}: no checkpoint" + ("" if step is None else f" of step {step}"))
    saved = checkpoint.load(paths[-1])
    config = configuration.from_document(json.loads(saved["config"]))
    rows = saved["model"]["model.embed_tokens.weight"].shape[0]
    model = Decoder(config.model, rows, config.seed)
    model.load_state_dict(saved["model"])
    # Without positions NSA goes on behind what it was trained for; a rotated model does not.
    longest = max(length for phase in config.run_phases() for length in phase.lengths)
    context = config.model.max_context if config.model.attention == "nsa" else longest
    return model, (run / "tokenizer.model").read_bytes(), context


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=pathlib.Path, help="a training run's output folder")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--step", type=int)
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of matrices")
    options = parser.parse_args()
    try:
        model, tokens, context = load_run(options.run, options.step)
    except (checkpoint.CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write(model, tokens, options.folder, context, options.dtype)
    print(f"{options.folder}: {model.num_parameters() / 1e6:.2f} M parameters, {options.dtype}, {context} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main())
