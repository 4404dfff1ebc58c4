import pytest

from tests.synthetic_dinov2 import write_dinov2


@pytest.fixture(scope="session")
def tiny_dinov2(tmp_path_factory):
    return write_dinov2(tmp_path_factory.mktemp("dinov2"))
