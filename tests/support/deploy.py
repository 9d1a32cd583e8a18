"""deploy/grafana's Python, which is no package."""

import sys

from tests.support import model_files

sys.path.insert(0, str(model_files.ROOT / "deploy/grafana"))

import generate  # noqa: E402, F401
import panels  # noqa: E402, F401
