import pytest

from tests.server.serving import serving


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server over the playing upstream, with the defaults."""
    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running
