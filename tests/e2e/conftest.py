import pytest

from tests.support import server, tiny_model


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory):
    return tiny_model.write(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(scope="module")
def real_server():
    """The default model. Each module has its own, so that one's faults stay there."""
    with server.running(max_context=16384) as running:
        yield running


@pytest.fixture(scope="module")
def tiny_server(tiny_path):
    """A random model that answers at once; 4,096 pages."""
    with server.running(tiny_path, max_context=16384) as running:
        yield running
