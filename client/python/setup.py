"""Adds what pyproject.toml cannot say: the version of the tree, and the code made of its proto file."""

import pathlib
import re

import setuptools
from setuptools.command.build_py import build_py

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PROTO = "nsa/v1/inference.proto"


class BuildWithProto(build_py):
    """nsa.v1 stands beside the package under its own name, so that two users of it can share it."""

    def run(self):
        super().run()
        from grpc_tools import protoc

        status = protoc.main(
            [
                "protoc",
                f"--proto_path={ROOT / 'proto'}",
                f"--python_out={self.build_lib}",
                f"--pyi_out={self.build_lib}",
                f"--grpc_python_out={self.build_lib}",
                PROTO,
            ]
        )
        if status != 0:
            raise RuntimeError(f"protoc failed on {PROTO}")


def version() -> str:
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    return re.search(r"project\(nsa_serve VERSION (\S+)", text).group(1)


setuptools.setup(version=version(), cmdclass={"build_py": BuildWithProto})
