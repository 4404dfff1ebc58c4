"""The shard set that the toy runs of these tests train on."""

import pytest

from tests.synthetic_shards import write_shard_set


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    return write_shard_set(tmp_path_factory.mktemp("shards"), num_clips=20)
