"""What is special of Google Cloud Storage and Azure: credentials, errors, pages, missing extras."""

import subprocess
import sys
import threading

import pytest

from lafp import storage
from lafp.storage.clients import az, gs
from tests.cable import Cable
from tests.http_server import answer, serving
from tests.test_install import CORE_ONLY

CLIENTS = {"gs": gs, "az": az}
AZURITE = "DefaultEndpointsProtocol=http;AccountName=a;AccountKey={key};BlobEndpoint=http://{at}/a"


@pytest.fixture(params=CLIENTS)
def name(request):
    pytest.importorskip({"gs": "google.cloud.storage", "az": "azure.storage.blob"}[request.param])
    return request.param


@pytest.fixture
def bucket(request, name):
    return request.getfixturevalue(f"{name}_bucket")


def point_to(monkeypatch, name, port, key="a2V5"):
    """Points the client of a store to a port of this machine, as a user would."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    settings = AZURITE.format(key=key, at=f"127.0.0.1:{port}")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", settings)
    renew(monkeypatch, name)


def renew(monkeypatch, name):
    made = CLIENTS[name]
    monkeypatch.setattr(made, "client", type(made.client)(made.new_client))


@pytest.mark.parametrize("scheme", ["gs", "az", "hf"])
def test_a_store_without_its_extra_says_what_to_install(scheme):
    text = CORE_ONLY.replace("{blocked}", repr({"google", "azure", "huggingface_hub"}))
    text += f"from lafp import storage\nstorage.read_bytes('{scheme}://bucket/key/file')\n"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    extra = {"gs": "gcs", "az": "azure", "hf": "hub"}[scheme]
    last = done.stderr.splitlines()[-1]
    assert f"Could not read {scheme}://bucket/key/file: " in last or "look up" in last
    assert f"pip install 'lafp[{extra}]'" in last


def test_a_bucket_that_is_missing_is_said_in_one_line(bucket):
    missing = f"{bucket}-gone"
    for ask in (
        lambda: list(storage.list_files(missing)),
        lambda: storage.write_bytes(f"{missing}/x", b"1"),
    ):
        with pytest.raises(storage.StorageError, match="there is no such") as error:
            ask()
        assert missing in str(error.value) and "\n" not in str(error.value)


def test_a_store_that_is_away_is_waited_for_or_said(name, monkeypatch):
    monkeypatch.setattr(storage.gs, "_RETRY_S", 0.5)
    monkeypatch.setattr(az, "_NUM_RETRIES", 1)
    point_to(monkeypatch, name, 9)
    assert not storage.is_reachable(f"{name}://bucket")
    for ask in (storage.read_bytes, storage.is_file, storage.list_folders):
        with pytest.raises(storage.UnreachableError, match=f"{name}://bucket/key"):
            ask(f"{name}://bucket/key")


def test_a_patient_process_waits_until_the_store_is_back(bucket, name, request, monkeypatch):
    server = request.getfixturevalue(f"{name}_server")
    uri = f"{bucket}/file"
    storage.write_bytes(uri, b"old")
    monkeypatch.setattr(storage.gs, "_RETRY_S", 0.2)
    monkeypatch.setattr(az, "_NUM_RETRIES", 0)
    port = int(server.rstrip("/").removesuffix("/devstoreaccount1").rpartition(":")[2])
    cable = Cable(port)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{cable.port}")
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING", server.replace(f":{port}/", f":{cable.port}/")
    )
    renew(monkeypatch, name)
    cable.pull()
    storage.be_patient(60)
    try:
        threading.Timer(1.0, lambda: setattr(cable, "is_plugged", True)).start()
        assert storage.read_bytes(uri) == b"old"
    finally:
        storage.be_patient(0)


@pytest.mark.parametrize(("status", "kind"), [(401, "CredentialsError"), (403, "AccessDenied")])
def test_refusals_are_told_apart(name, status, kind, monkeypatch):
    with serving() as host:
        host.serve = lambda handler, _: answer(handler, status, b"")
        point_to(monkeypatch, name, int(host.url.rpartition(":")[2]))
        with pytest.raises(storage.StorageError, match=f"Could not read {name}://bucket/key") as e:
            storage.read_bytes(f"{name}://bucket/key")
    assert type(e.value).__name__.startswith(kind) and "\n" not in str(e.value)


def test_a_wrong_key_of_azure_is_said_and_not_shown(az_server, az_bucket, monkeypatch):
    wrong = "d3JvbmcgYW5kIHNlY3JldA=="
    right = az_server.partition("AccountKey=")[2].partition(";")[0]
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", az_server.replace(right, wrong))
    renew(monkeypatch, "az")
    with pytest.raises(storage.CredentialsError, match="AZURE_STORAGE_ACCOUNT_KEY") as error:
        storage.read_bytes(f"{az_bucket}/x")
    assert wrong not in str(error.value)
    for name in ("CONNECTION_STRING", "ACCOUNT_NAME", "ACCOUNT"):
        monkeypatch.delenv(f"AZURE_STORAGE_{name}", raising=False)
    renew(monkeypatch, "az")
    with pytest.raises(storage.CredentialsError, match="No Azure storage account is named"):
        storage.is_file(f"{az_bucket}/x")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "nonsense")
    with pytest.raises(storage.CredentialsError, match="do not parse"):
        storage.is_file(f"{az_bucket}/x")


def test_folders_that_azure_marks_by_empty_blobs_are_no_files(az_server, az_bucket):
    from azure.storage.blob import BlobServiceClient

    container = BlobServiceClient.from_connection_string(az_server).get_container_client(
        az_bucket.removeprefix("az://")
    )
    container.upload_blob("videos", b"", metadata={"hdi_isfolder": "true"})
    storage.write_bytes(f"{az_bucket}/videos/a.mp4", b"1")
    assert [file.uri for file in storage.list_files(az_bucket)] == [f"{az_bucket}/videos/a.mp4"]
    assert not storage.is_file(f"{az_bucket}/videos")
    assert storage.exists(f"{az_bucket}/videos")
