"""One server and one Prometheus for all tests that only look."""

import pytest

from tests.support import prometheus, tiny_model


@pytest.fixture(scope="session")
def scraped(tmp_path_factory):
    """(server, Prometheus) under a light load, after enough scrapes for every rule."""
    with prometheus.scraped_server(tmp_path_factory.mktemp("prometheus")) as pair:
        yield pair


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory):
    return tiny_model.write(tmp_path_factory.mktemp("models") / "tiny.gguf")
