"""Includes point downward only, and are written from the root of the repository."""

import re

from tests.tidy import files

INCLUDE = re.compile(r'^\s*#\s*include\s*["<]([^">]+)[">]', re.MULTILINE)
RPC = ("grpc/", "grpcpp/", "google/protobuf/", "nsa/v1/", "vllm/")
# Layer → what its files may not include. client → proto ← server → engine → kernels.
FORBIDDEN = {
    "kernels/": RPC + ("absl/", "nlohmann/", "prometheus/", "torch/", "engine/", "server/", "client/"),
    "kernels/reference/": ("hwy/", "kernels/cpu/", "kernels/cuda/"),
    "kernels/grad/reference/": ("hwy/", "kernels/cpu/", "kernels/cuda/", "kernels/grad/cpu/"),
    "kernels/ops/": ("hwy/", "kernels/cpu/", "kernels/cuda/", "kernels/reference/"),
    "kernels/cuda/": ("hwy/", "kernels/cpu/", "kernels/reference/", "tests/"),
    "engine/": RPC + ("hwy/", "prometheus/", "torch/", "server/", "client/", "kernels/cpu/", "kernels/cuda/"),
    "server/": ("client/", "kernels/", "hwy/", "torch/"),
    "client/": ("server/", "engine/", "kernels/", "hwy/", "prometheus/", "torch/"),
    "server/command_line/": RPC + ("server/", "client/", "engine/", "kernels/"),
    "tests/client/": ("server/", "engine/", "kernels/"),
    "tests/kernels/": RPC + ("absl/", "engine/", "server/", "client/"),
    "tests/cuda_host/": RPC + ("absl/", "engine/", "server/", "client/"),
    "tests/gpu/": RPC + ("absl/", "engine/", "server/", "client/"),
    "tests/cuda_engine/": RPC + ("server/", "client/"),
    "tests/engine/": RPC + ("server/", "client/"),
    "tests/tools/": RPC + ("server/", "client/"),
}
# What quotes may also bring: libraries, generated code, and Highway's own per-target includes.
LIBRARIES = RPC + (
    "absl/", "benchmark/", "gmock/", "gtest/", "hwy/", "nlohmann/", "prometheus/",
)
# SentencePiece has a protobuf and an Abseil stand-in of its own; its wrapper is compiled apart.
APART = ("engine/tokenizer/sentencepiece/",)


# How flags are read: what server and client share, and all that they share.
SHARED = "server/command_line/"


def upward(path: str, text: str) -> list[str]:
    found = []
    for layer, forbidden in FORBIDDEN.items():
        if not path.startswith(layer):
            continue
        found += [
            f"{path} includes {name}, which {layer} may not"
            for name in INCLUDE.findall(text)
            if name.startswith(forbidden) and not name.startswith(SHARED)
        ]
    return found


def unrooted(path: str, text: str) -> list[str]:
    quoted = re.findall(r'^\s*#\s*include\s*"([^"]+)"', text, re.MULTILINE)
    return [
        f'{path} includes "{name}", which is no path from the root'
        for name in quoted
        if not name.startswith(LIBRARIES) and not (files.ROOT / name).is_file()
    ]


def test_includes_point_downward():
    findings = []
    for path in files.with_suffix(*files.CPP):
        findings += upward(path, files.read(path))
    files.expect_none(findings, "links go downward only (README.md, layers)")


def test_includes_are_rooted():
    findings = []
    for path in files.with_suffix(*files.CPP):
        if not path.startswith(APART):
            findings += unrooted(path, files.read(path))
    files.expect_none(findings, 'write includes as "kernels/ops/gemm.h"')


def test_the_checks_see_what_they_look_for():
    assert upward("kernels/x.cc", '#include "absl/status/status.h"\n')
    assert upward("kernels/reference/x.cc", "#  include <hwy/highway.h>\n")
    assert upward("engine/x.h", '#include "nsa/v1/inference.pb.h"\n')
    assert upward("client/x.cc", '#include "engine/engine.h"\n')
    assert not upward("server/x.cc", '#include "engine/engine.h"\n#include "grpcpp/server.h"\n')
    assert unrooted("kernels/x.cc", '#include "tensor.h"\n')
    assert not unrooted("kernels/x.cc", '#include "kernels/tensor.h"\n#include <vector>\n')
