"""A real S3 API (moto) on loopback."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pytest import MonkeyPatch

from lafp.storage.clients import s3
from lafp.storage.remote import PerProcess

_ACCOUNT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@contextmanager
def running_s3() -> Iterator[dict[str, str]]:
    """Yields the environment that points boto3 to the server, which runs in the block."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with MonkeyPatch.context() as patch:
        _compare_and_write_in_one_step(patch)
        server.start()
        host, port = server.get_host_and_port()
        yield {"AWS_ENDPOINT_URL": f"http://{host}:{port}", **_ACCOUNT}
        server.stop()


def point_to_s3(patch: MonkeyPatch, endpoint_url: str) -> None:
    """Points this process, and those that it starts, to another S3.

    A process keeps its client, so that a client of an earlier test would go on to ask the S3 of
    that test.
    """
    for key, value in {"AWS_ENDPOINT_URL": endpoint_url, **_ACCOUNT}.items():
        patch.setenv(key, value)
    patch.setattr(s3, "client", PerProcess(s3.new_client))


def _compare_and_write_in_one_step(patch: MonkeyPatch) -> None:
    """S3 does so for ``If-Match`` and ``If-None-Match``; moto's threads come between the two."""
    from moto.s3.responses import S3Response

    put_object, lock = S3Response.put_object, threading.Lock()

    def put_alone(response):
        with lock:
            return put_object(response)

    patch.setattr(S3Response, "put_object", put_alone)
