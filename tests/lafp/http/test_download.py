"""Downloads from a real server on loopback that does what hosts on the web do."""

import datetime
import gzip
import resource
import ssl
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lafp.http import answers
from lafp.http import download as module
from lafp.http.answers import DownloadError
from lafp.http.download import HttpConfig, download
from lafp.http.host_gate import HostGate
from tests.http_server import answer, serving

CFG = HttpConfig(
    requests_per_s_per_host=1000.0, timeout_s=10.0, retries=3, allow_private_addresses=True
)
DATA = np.random.default_rng(0).bytes(700_000)


@pytest.fixture
def host(monkeypatch):
    monkeypatch.setattr(module, "_FIRST_BACKOFF_S", 0.02)
    with serving() as host:
        host.files["/x.mp4"] = DATA
        yield host


def fetch(host, path, tmp_path, cfg=CFG, gate=None):
    download(host.url + path, tmp_path / "file", cfg, gate or HostGate())
    return (tmp_path / "file").read_bytes()


def fails(host, path, tmp_path, cfg=CFG):
    with pytest.raises(DownloadError) as caught:
        fetch(host, path, tmp_path, cfg)
    return caught.value


def test_a_file_arrives_whole(host, tmp_path):
    assert fetch(host, "/x.mp4", tmp_path) == DATA
    host.files["/a%20b.mp4?with=query&and=%C3%BC"] = b"z"
    assert fetch(host, "/a b.mp4?with=query&and=ü", tmp_path) == b"z"


def test_a_busy_host_is_asked_again(host, tmp_path):
    def busy(handler, before):
        answer(handler, 503) if before < 2 else host.serve(handler, before)

    host.answers["/x.mp4"] = busy
    assert fetch(host, "/x.mp4", tmp_path) == DATA
    assert len(host.hits) == 3
    host.answers["/x.mp4"] = lambda handler, before: answer(handler, 500)
    error = fails(host, "/x.mp4", tmp_path)
    assert error.reason == "unreadable"
    assert "HTTP 500" in error.detail and "4 attempts" in error.detail


def test_the_wait_that_a_host_asks_for_is_kept_by_all_downloads_from_it(host, tmp_path):
    def busy(handler, before):
        answer(handler, 429, Retry_After="1") if before < 1 else host.serve(handler, before)

    host.answers["/x.mp4"] = busy
    host.files["/other.mp4"] = b"y"
    gate = HostGate()
    with ThreadPoolExecutor(1) as pool:
        (tmp_path / "a").mkdir()
        first = pool.submit(fetch, host, "/x.mp4", tmp_path / "a", CFG, gate)
        while not host.hits:
            time.sleep(0.01)
        time.sleep(0.2)
        assert fetch(host, "/other.mp4", tmp_path, CFG, gate) == b"y"
        assert first.result() == DATA
    begin_s = host.hits[0][0]
    assert all(at_s - begin_s > 0.95 for at_s, _, _ in host.hits[1:])


def test_a_wait_beyond_the_time_limit_is_not_waited(host, tmp_path):
    host.answers["/x.mp4"] = lambda handler, _: answer(handler, 429, Retry_After="3600")
    assert fails(host, "/x.mp4", tmp_path).reason == "timeout"
    assert len(host.hits) == 1


def test_a_missing_or_forbidden_file_is_asked_for_once(host, tmp_path):
    assert fails(host, "/missing.mp4", tmp_path).reason == "not_found"
    host.answers["/x.mp4"] = lambda handler, _: answer(handler, 403)
    error = fails(host, "/x.mp4", tmp_path)
    assert (error.reason, error.detail) == ("unreadable", "HTTP 403 Forbidden")
    assert len(host.hits) == 2


def test_an_expired_signature_is_told_from_a_file_that_is_forbidden(host, tmp_path):
    for number, body in enumerate((b"<Message>Request has expired</Message>", b"Access denied")):
        host.answers[f"/{number}.mp4"] = partial(refuses, body)
        host.answers[f"/{number}.mp4?Expires=1500000000&Signature=x"] = partial(refuses, body)
        host.answers[f"/{number}.mp4?Expires=9500000000&Signature=x"] = partial(refuses, body)
    ends = "", "?Expires=1500000000&Signature=x", "?Expires=9500000000&Signature=x"
    reasons = [[fails(host, f"/{n}.mp4{end}", tmp_path).reason for end in ends] for n in (0, 1)]
    assert reasons == [["expired"] * 3, ["unreadable", "expired", "unreadable"]]


def refuses(body, handler, _):
    answer(handler, 403, body)


def test_a_broken_download_goes_on_where_it_broke(host, tmp_path):
    def breaks(handler, before):
        if before == 0:
            answer(handler, 200, DATA[:300_000], length=len(DATA), ETag='"v1"')
        else:
            host.serve(handler, before)

    host.answers["/x.mp4"] = breaks
    assert fetch(host, "/x.mp4", tmp_path) == DATA
    assert host.asked("/x.mp4") == [None, "bytes=300000-"]


def test_a_file_that_changed_meanwhile_begins_anew(host, tmp_path):
    def changes(handler, before):
        if before == 0:
            answer(handler, 200, b"old" * 100, length=len(DATA), ETag='"v0"')
        else:
            assert handler.headers["If-Range"] == '"v0"'
            answer(handler, 200, DATA, ETag='"v1"')

    host.answers["/x.mp4"] = changes
    assert fetch(host, "/x.mp4", tmp_path) == DATA


def test_without_a_validator_nothing_is_pieced_together(host, tmp_path):
    def breaks(handler, before):
        sent = DATA[:1000] if before == 0 else DATA
        answer(handler, 200, sent, length=len(DATA), ETag='W/"weak"')

    host.answers["/x.mp4"] = breaks
    assert fetch(host, "/x.mp4", tmp_path) == DATA
    assert host.asked("/x.mp4") == [None, None]


def test_another_range_than_asked_for_is_not_appended(host, tmp_path):
    def wrong(handler, before):
        if before == 0:
            answer(handler, 200, DATA[:1000], length=len(DATA), ETag='"v1"')
        elif before == 1:
            span = {"Content-Range": f"bytes 0-{len(DATA) - 1}/{len(DATA)}"}
            answer(handler, 206, DATA, ETag='"v1"', **span)
        else:
            host.serve(handler, before)

    host.answers["/x.mp4"] = wrong
    assert fetch(host, "/x.mp4", tmp_path) == DATA


def test_a_content_length_that_promises_too_much_is_an_error_not_a_short_file(host, tmp_path):
    host.answers["/x.mp4"] = lambda handler, _: answer(handler, 200, DATA, length=len(DATA) + 5)
    error = fails(host, "/x.mp4", tmp_path, replace(CFG, retries=1))
    assert error.reason == "unreadable"
    assert "broke after 700000 of 700005 bytes" in error.detail


def test_too_large_a_file_is_refused_by_its_header_or_cut_off(host, tmp_path):
    cfg = replace(CFG, max_bytes=500_000)
    error = fails(host, "/x.mp4", tmp_path, cfg)
    assert (error.reason, error.detail) == ("too_many_bytes", "at least 700000 bytes")
    assert (tmp_path / "file").stat().st_size == 0

    def endless(handler, _):
        answer(handler, 200, length=-1)
        while True:
            handler.wfile.write(DATA[:65536])

    host.answers["/endless.mp4"] = endless
    assert fails(host, "/endless.mp4", tmp_path, cfg).reason == "too_many_bytes"
    assert (tmp_path / "file").stat().st_size <= 500_000


@pytest.mark.parametrize("where", ["body", "headers", "silence"])
def test_a_slow_drip_ends_at_the_deadline(host, tmp_path, where):
    stop = threading.Event()

    def drip(handler, _):
        if where == "body":
            answer(handler, 200, length=10**6)
        while not stop.wait(0.05):
            if where != "silence":
                handler.wfile.write(b"H")
                handler.wfile.flush()

    host.answers["/x.mp4"] = drip
    start_s = time.monotonic()
    error = fails(host, "/x.mp4", tmp_path, replace(CFG, timeout_s=0.8))
    stop.set()
    assert error.reason == "timeout"
    assert 0.7 < time.monotonic() - start_s < 10


def test_redirects_are_followed_but_not_in_circles_or_to_other_schemes(host, tmp_path):
    host.answers["/a"] = lambda handler, _: answer(handler, 302, Location="/x.mp4")
    assert fetch(host, "/a", tmp_path) == DATA
    host.answers["/loop"] = lambda handler, _: answer(handler, 301, Location="/loop")
    error = fails(host, "/loop", tmp_path)
    assert error.reason == "unreadable" and "more than 5 redirects" in error.detail
    assert len(host.asked("/loop")) == 6
    host.answers["/file"] = lambda handler, _: answer(handler, 302, Location="file:///etc/passwd")
    error = fails(host, "/file", tmp_path)
    assert "'file:///etc/passwd' is not an http(s) URL" in error.detail


def test_hosts_that_are_not_there_cost_little(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_FIRST_BACKOFF_S", 0.01)
    with pytest.raises(DownloadError, match=r"ConnectionRefusedError.*4 attempts"):
        download("http://127.0.0.1:9/x.mp4", tmp_path / "file", CFG, HostGate())
    for url in ("http://", "http://[::1", "ftp://host/x"):
        with pytest.raises(DownloadError, match="unreadable"):
            download(url, tmp_path / "file", CFG, HostGate())


def test_a_full_disk_is_no_fault_of_the_host(host, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            fetch(host, "/x.mp4", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(host.hits) == 1


def test_https_is_checked_against_the_trusted_certificates(host, tmp_path, monkeypatch):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    begin = datetime.datetime.now() - datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, begin)
        .not_valid_after(begin + datetime.timedelta(days=9))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (tmp_path / "key.pem").write_bytes(key.private_bytes(pem, *plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    host.server.socket = context.wrap_socket(host.server.socket, server_side=True)
    host.url = host.url.replace("http://127.0.0.1", "https://localhost")
    error = fails(host, "/x.mp4", tmp_path)
    assert error.reason == "unreadable" and "self-signed" in error.detail
    assert "attempts" not in error.detail
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    assert fetch(host, "/x.mp4", tmp_path) == DATA


def test_rate_and_connections_are_bounded_over_all_downloads(host, tmp_path):
    cfg = replace(CFG, requests_per_s_per_host=20.0, connections_per_host=2)
    gate = HostGate()

    host.answers["/slow"] = host.serve_slowly
    host.files["/slow"] = host.files["/fast"] = b"x"
    with ThreadPoolExecutor(8) as pool:
        folders = [tmp_path / str(i) for i in range(12)]
        for folder in folders:
            folder.mkdir()
        list(pool.map(lambda folder: fetch(host, "/slow", folder, cfg, gate), folders))
    assert host.max_open == 2
    host.hits.clear()
    cfg = replace(cfg, connections_per_host=8)
    start_s = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda folder: fetch(host, "/fast", folder, cfg, gate), folders))
    # A busy machine may be slower than the limit, but the requests are never closer.
    assert 11 / 20.0 - 0.01 < max(at_s for at_s, _, _ in host.hits) - start_s < 11.0


def test_a_connection_of_a_process_that_died_is_given_back(monkeypatch):
    now_s = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    gate = HostGate()
    _, lease = gate.ask("h", 1000.0, 1, lease_s=10)
    assert lease is not None
    assert gate.ask("h", 1000.0, 1, lease_s=10)[1] is None
    assert gate.ask("other", 1000.0, 1, lease_s=10)[1] is not None
    now_s = 10.1
    assert gate.ask("h", 1000.0, 1, lease_s=10)[1] is not None


@pytest.mark.parametrize(
    "wrong", [{"retries": -1}, {"timeout_s": 0}, {"requests_per_s_per_host": 0}, {"max_bytes": 0}]
)
def test_a_wrong_limit_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        HttpConfig(**wrong)


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "GZIP"])
def test_what_a_host_sends_packed_is_unpacked(host, tmp_path, encoding):
    packed = zlib.compress(DATA) if encoding == "deflate" else gzip.compress(DATA)
    for length in (None, -1):
        host.answers["/x.mp4"] = lambda handler, _, length=length: answer(
            handler, 200, packed, length, Content_Encoding=encoding
        )
        assert fetch(host, "/x.mp4", tmp_path) == DATA


def test_what_is_packed_badly_or_too_large_is_a_reject(host, tmp_path):
    def sends(body, encoding="gzip"):
        host.answers["/x.mp4"] = lambda handler, _: answer(
            handler, 200, body, Content_Encoding=encoding
        )

    sends(b"no gzip at all")
    assert fails(host, "/x.mp4", tmp_path).reason == "unreadable"
    sends(gzip.compress(DATA)[:-100])
    assert fails(host, "/x.mp4", tmp_path).reason == "unreadable"
    sends(DATA, "br")
    assert "'br'" in fails(host, "/x.mp4", tmp_path).detail
    sends(gzip.compress(bytes(50_000_000)))
    cfg = replace(CFG, max_bytes=1_000_000)
    assert fails(host, "/x.mp4", tmp_path, cfg).reason == "too_many_bytes"
    assert (tmp_path / "file").stat().st_size <= cfg.max_bytes


def test_redirects_may_be_in_any_spelling(host, tmp_path):
    host.files["/%C3%BCn%C3%AF.mp4"] = b"u"

    def redirects(location):
        def send(handler, _):
            head = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: %b\r\n\r\n" % location
            handler.wfile.write(head)

        host.answers["/moved"] = send

    for name in ("/ünï.mp4".encode(), "/ünï.mp4".encode("latin-1"), b"/%C3%BCn%C3%AF.mp4"):
        redirects(name)
        assert fetch(host, "/moved", tmp_path) == b"u"
    for bad in (b"http://[::bad/x", b"ftp://h/x"):
        redirects(bad)
        assert fails(host, "/moved", tmp_path).reason == "unreadable"


@pytest.mark.parametrize(
    ("status", "header", "value"),
    [
        (206, "Content-Range", f"bytes 0-1/{'9' * 5_000}"),
        (200, "Content-Length", "9" * 5_000),
    ],
)
def test_a_size_of_thousands_of_digits_is_an_unknown_size(status, header, value):
    response = SimpleNamespace(status=status, headers={header: value})
    assert answers.total_bytes(response, 0) is None


@pytest.mark.parametrize("port", ["99999", "9" * 30, "x"])
def test_a_port_that_is_none_is_an_error_of_the_address(port):
    with pytest.raises(DownloadError, match="unreadable"):
        answers.host_name(f"http://example.org:{port}/a.mp4")


@pytest.mark.parametrize("header", ["120\x85", "\x1f120", " 120 "])
def test_spaces_of_any_kind_around_retry_after_are_no_error(header):
    assert answers.retry_after_s(header) == 120
