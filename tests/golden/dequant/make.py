"""Makes dequant.bin and quantise.bin: random blocks of every weight format and what the package `gguf` makes of them.

Run with a Python that has gguf and numpy: python3 make.py. Little-endian layout, one record a
format: uint32 type, uint32 number of elements, the blocks' bytes, the elements as float32.
"""

import pathlib
import struct

import gguf
import numpy as np

NUM_ELEMENTS = 3072
# Byte offsets of the float16 fields of each block; random bits there would be NaN or infinite.
F16_FIELDS = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}
# Largest, smallest normal, largest and smallest subnormal, both zeros, one.
EXTREME_F16 = [0x7BFF, 0xFBFF, 0x0400, 0x8400, 0x03FF, 0x83FF, 0x0001, 0x8001, 0x0000, 0x8000, 0x3C00]


def random_finite_f16(rng, count):
    bits = rng.integers(0, 1 << 16, count, dtype=np.uint16)
    return np.where((bits & 0x7C00) == 0x7C00, bits & 0x83FF, bits).astype("<u2")


def make_blocks(rng, name, block_bytes, count):
    blocks = rng.integers(0, 256, (count, block_bytes), dtype=np.uint8)
    for field, offset in enumerate(F16_FIELDS.get(name, [])):
        values = random_finite_f16(rng, count)
        for i in range(0, count, 2):
            values[i] = EXTREME_F16[(i // 2 + 3 * field) % len(EXTREME_F16)]
        blocks[:, offset : offset + 2] = values.view(np.uint8).reshape(count, 2)
    return blocks


def main():
    rng = np.random.default_rng(20240607)
    out = bytearray()
    for name in ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]:
        kind = gguf.GGMLQuantizationType[name]
        elements, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        num_elements = NUM_ELEMENTS if elements > 1 else NUM_ELEMENTS // 4
        blocks = make_blocks(rng, name, block_bytes, num_elements // elements)
        weights = gguf.dequantize(blocks.reshape(1, -1), kind).astype("<f4").reshape(-1)
        out += struct.pack("<II", kind.value, weights.size) + blocks.tobytes() + weights.tobytes()
    pathlib.Path(__file__).with_name("dequant.bin").write_bytes(out)
    write_quantised(rng)


def write_quantised(rng):
    """quantise.bin: uint32 number of elements, float32 values, then for each type its number and bytes."""
    values = rng.standard_normal((1, 2048)).astype("<f4") * rng.choice([1e-6, 0.1, 1, 300], (1, 2048))
    values = values.astype("<f4")
    values[0, :32] = 0
    values[0, 32:64] = np.linspace(-8, 7.75, 32)  # halves, which round away from zero
    values[0, 64:96] = [-2.0, 2.0] * 16  # the first of equal magnitudes counts
    out = struct.pack("<I", values.size) + values.tobytes()
    for name in ["F16", "BF16", "Q8_0", "Q4_0"]:
        kind = gguf.GGMLQuantizationType[name]
        out += struct.pack("<I", kind.value) + gguf.quantize(values, kind).tobytes()
    pathlib.Path(__file__).with_name("quantise.bin").write_bytes(out)


if __name__ == "__main__":
    main()
