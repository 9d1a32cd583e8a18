"""Writes small files with the PyPI package gguf, and gguf.json: what is in them.

    make.py

little.gguf holds every type of metadata value and every tensor type that the engine reads;
big.gguf is big-endian, which the engine refuses.
"""

import json
import pathlib

import gguf
import numpy

HERE = pathlib.Path(__file__).resolve().parent
Type = gguf.GGUFValueType

# Range ends, and what a wrong width or sign would change.
SCALARS = {
    "u8": (Type.UINT8, 255), "i8": (Type.INT8, -128), "u16": (Type.UINT16, 65535), "i16": (Type.INT16, -32768),
    "u32": (Type.UINT32, 2**32 - 1), "i32": (Type.INT32, -(2**31)), "u64": (Type.UINT64, 2**64 - 1),
    "i64": (Type.INT64, -(2**63)), "f32": (Type.FLOAT32, 0.15625), "f64": (Type.FLOAT64, -1e300),
    "yes": (Type.BOOL, True), "no": (Type.BOOL, False), "text": (Type.STRING, "naïve\n\0'漢字' 😀"),
    "empty": (Type.STRING, ""),
}  # fmt: skip
ARRAYS = {
    "u8s": (Type.UINT8, [0, 1, 255]), "i8s": (Type.INT8, [-128, -1, 127]), "u16s": (Type.UINT16, [65535]),
    "i16s": (Type.INT16, [-32768, 5]), "u32s": (Type.UINT32, [7, 2**32 - 1]), "i32s": (Type.INT32, [-(2**31), 1]),
    "u64s": (Type.UINT64, [2**64 - 1, 2**63]), "i64s": (Type.INT64, [-(2**63), 2**63 - 1]),
    "f32s": (Type.FLOAT32, [0.5, -3.0, 2.0**-140]), "f64s": (Type.FLOAT64, [1e-300, 0.1]),
    "bools": (Type.BOOL, [True, False, True]), "texts": (Type.STRING, ["", "a", "ü b"]),
}  # fmt: skip
TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]


def write_little(path):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(64)
    for key, (kind, value) in SCALARS.items():
        writer.add_key_value(f"test.{key}", value, kind)
    for key, (kind, value) in ARRAYS.items():
        writer.add_key_value(f"test.{key}", value, Type.ARRAY, sub_type=kind)
    tensors = []
    random = numpy.random.default_rng(5)
    for index, name in enumerate(TYPES):
        kind = gguf.GGMLQuantizationType[name]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        # One to four dimensions; sizes that differ, so that their order shows.
        slow = [[], [3], [1, 2], [2, 1, 3]][index % 4]
        columns = elements * (1 + index % 2) if elements > 1 else 5
        data = random.integers(0, 256, (*slow, columns // elements * size), dtype=numpy.uint8)
        writer.add_tensor(f"t.{name}", data, raw_dtype=kind)
        tensors.append({"name": f"t.{name}", "type": int(kind), "shape": [*slow, columns], "data": data.tobytes().hex()})
    write(writer)
    return tensors


def write_big(path):
    writer = gguf.GGUFWriter(path, "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_uint32("test.u32", 1)
    write(writer)


def write(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    tensors = write_little(HERE / "little.gguf")
    write_big(HERE / "big.gguf")
    values = {key: value for key, (_, value) in {**SCALARS, **ARRAYS}.items()}
    text = json.dumps({"values": values, "tensors": tensors}, indent=1)
    (HERE / "gguf.json").write_text(text + "\n")


main()
