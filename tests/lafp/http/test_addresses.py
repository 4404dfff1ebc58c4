"""Addresses and redirects into the own network are refused, by what they resolve to."""

import socket

import pytest

from lafp.http.addresses import PrivateAddressError, connect_publicly, is_public
from lafp.http.answers import DownloadError
from lafp.http.download import HttpConfig, download
from lafp.http.host_gate import HostGate
from tests.http_server import answer, serving

CFG = HttpConfig(requests_per_s_per_host=1000.0, timeout_s=10.0, retries=0)


@pytest.fixture
def host():
    with serving() as host:
        host.files["/x.mp4"] = b"inside"
        yield host


def refused(url, folder) -> DownloadError:
    with pytest.raises(DownloadError) as caught:
        download(url, folder / "file", CFG, HostGate())
    assert (folder / "file").read_bytes() == b""
    return caught.value


@pytest.mark.parametrize(
    "name", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0.0.0.0", "[::1]"]
)
def test_every_way_to_write_this_machine_is_refused(host, tmp_path, name):
    port = host.server.server_address[1]
    error = refused(f"http://{name}:{port}/x.mp4", tmp_path)
    assert error.reason == "private_address"
    assert "http.allow_private_addresses permits it, in a new run" in error.detail
    assert host.hits == []


def test_a_redirect_into_the_own_network_is_refused(host, tmp_path, monkeypatch):
    # The host stands for the web as a proxy, so that the first address counts as public.
    monkeypatch.setenv("http_proxy", host.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1,169.254.169.254,metadata.google.internal")
    for target in (host.url, "http://169.254.169.254", "http://metadata.google.internal"):
        away = f"{target}/x.mp4"
        host.answers["http://h.example/x.mp4"] = lambda h, _, to=away: answer(h, 302, Location=to)
        host.hits.clear()
        assert refused("http://h.example/x.mp4", tmp_path).reason == "private_address"
        assert [path for _, path, _ in host.hits] == ["http://h.example/x.mp4"]


def test_a_proxy_is_asked_for_public_names_only(host, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", host.url)
    host.files["http://h.example/x.mp4"] = b"outside"
    download("http://h.example/x.mp4", tmp_path / "file", CFG, HostGate())
    assert (tmp_path / "file").read_bytes() == b"outside"
    assert refused("http://10.0.0.1/x.mp4", tmp_path).reason == "private_address"


def test_the_address_that_was_checked_is_connected_to(host, monkeypatch):
    port = host.server.server_address[1]
    answers = iter([["203.0.114.1", "127.0.0.1"], ["127.0.0.1"]])
    asked = []
    resolve = socket.getaddrinfo

    def rebinding(name, *args, **kwargs):
        asked.append(name)
        if name != "h.example":
            return resolve(name, *args, **kwargs)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in next(answers)]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    with pytest.raises(OSError) as caught:  # nobody answers at the public address
        connect_publicly(("h.example", port), 0.2)
    assert not isinstance(caught.value, PrivateAddressError)
    assert asked == ["h.example", "203.0.114.1"]
    with pytest.raises(PrivateAddressError, match=r"h\.example has the address 127\.0\.0\.1"):
        connect_publicly(("h.example", port), 0.2)
    assert host.hits == []


def test_public_addresses_are_told_from_others():
    public = ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
    private = ["10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.100.100.200"]
    private += ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "168.63.129.16"]
    private += ["::1", "::", "fe80::1%eth0", "fd00:ec2::254", "fc00::1", "::ffff:10.0.0.1"]
    private += ["2002:7f00:1::", "64:ff9b::7f00:1", "ff02::1"]
    assert [ip for ip in public if not is_public(ip)] == []
    assert [ip for ip in private if is_public(ip)] == []
