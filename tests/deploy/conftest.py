"""A server and a Prometheus for all tests of a module that only look. Not of the session: the load would go on
beside the tests of other folders."""

import pytest

from tests.support import prometheus, tiny_model


@pytest.fixture(scope="module")
def scraped(tmp_path_factory):
    """(server, Prometheus) under a light load, after enough scrapes for every rule."""
    with prometheus.scraped_server(tmp_path_factory.mktemp("prometheus")) as pair:
        yield pair


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory):
    return tiny_model.write(tmp_path_factory.mktemp("models") / "tiny.gguf")
