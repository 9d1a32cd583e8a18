"""What speaks no gRPC, or too much of it, ends alone: others are served, and nothing stays behind."""

import pathlib
import socket
import struct
import time

import grpc
import pytest

from tests.e2e.security_test import KEY, bearer, info, key_file, tls_channel  # noqa: F401
from tests.support import server
from tests.support.certificates import Authority

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, SETTINGS, PING, CONTINUATION = 1, 4, 6, 9
END_HEADERS = 4
# A TLS 1.2 record that begins as a greeting does.
HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(189)
SPEECHES = {
    "nothing": b"",
    "zeros": bytes(100_000),
    "http1": b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
    "tls": HELLO,
    "half a preface": PREFACE[:10],
    "a frame of 16 MiB": PREFACE + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
    "noise": PREFACE + bytes(range(256)) * 500,
}


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def connect(address: str) -> socket.socket:
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=20)


def num_files(running) -> int:
    return len(list(pathlib.Path(f"/proc/{running.process.pid}/fd").iterdir()))


def wait_for(condition, seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture(scope="module")
def plain(tiny_path):
    with server.running(tiny_path, max_context=2048) as running:
        assert info(running.channel).num_pages > 0
        yield running


@pytest.mark.parametrize("speech", SPEECHES.values(), ids=SPEECHES)
def test_other_speech_ends_its_own_connection(plain, speech):
    before = num_files(plain)
    for _ in range(5):
        with connect(plain.address) as stranger:
            stranger.settimeout(5)
            try:
                stranger.sendall(speech)
                stranger.shutdown(socket.SHUT_WR)
                while stranger.recv(65536):
                    pass
            except OSError:
                pass  # it was reset, or waits for more
    assert server.generate(plain, server.request("x", 2)).status == grpc.StatusCode.OK
    assert wait_for(lambda: num_files(plain) <= before), "a connection stays behind"


def test_many_silent_connections_keep_nobody_out(plain):
    silent = [connect(plain.address) for _ in range(200)]
    try:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(plain.address, options) as channel:
            assert info(channel).num_pages > 0
    finally:
        for connection in silent:
            connection.close()


def test_header_blocks_without_end_take_no_more_than_they_bring(plain):
    """gRPC 1.51 keeps such a block until its connection ends (docs/security.md); it is then given back."""
    status = pathlib.Path(f"/proc/{plain.process.pid}/status")

    def resident_mib() -> int:
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmRSS")]
        return int(line.split()[1]) >> 10

    # Literal headers "x-i: y…" that are not indexed; 256 is coded as 127 + 1 + 128.
    part = b"".join(b"\x00\x03x-i\x7f\x81\x01" + b"y" * 256 for _ in range(40))
    taken = []
    for _ in range(5):
        with connect(plain.address) as stranger:
            stranger.sendall(PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, 0, 1, part))
            for _ in range(4000):  # 42 MB
                stranger.sendall(frame(CONTINUATION, 0, 1, part))
            assert server.generate(plain, server.request("x", 2)).status == grpc.StatusCode.OK
            taken.append(resident_mib())
    # What one leaves may still be there while the next begins; it must not become more from then on.
    assert taken[-1] < taken[1] + 40, taken


def test_a_flood_of_pings_ends_its_connection(plain):
    with connect(plain.address) as stranger:
        stranger.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
        stranger.settimeout(20)
        with pytest.raises(OSError):
            while True:
                stranger.sendall(frame(PING, 0, 0, bytes(8)) * 100)
                if not stranger.recv(65536):
                    raise OSError("closed")
    assert info(plain.channel).num_pages > 0


@pytest.mark.parametrize("bomb", [
    [("x-one", "y" * 60_000)],
    [(f"x-{i}", "y") for i in range(5000)],
    [("x-same", "y" * 100)] * 1000,
    [("x-bytes-bin", bytes(60_000))],
    [("authorization", "Bearer " + "y" * 60_000)],
    [("traceparent", "y" * 60_000)],
    [("nsa-tenant", "y" * 60_000)],
], ids=lambda bomb: f"{len(bomb)} of {bomb[0][0]}")  # fmt: skip
def test_metadata_bombs_end_their_call(tiny_path, key_file, bomb):  # noqa: F811
    """Without a key too, so before anybody is known; gRPC's limit is 8 KiB."""
    with server.running(tiny_path, max_context=2048, api_keys_file=key_file) as running:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_metadata_size", 1 << 20)]
        for metadata in (bomb, [*bomb, *bearer(KEY)]):
            with grpc.insecure_channel(running.address, options) as channel:
                with pytest.raises(grpc.RpcError) as error:
                    info(channel, metadata)
                assert error.value.code() in (
                    grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE,
                    grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INTERNAL,
                    grpc.StatusCode.UNKNOWN,
                )  # fmt: skip
        assert info(running.channel, bearer(KEY)).num_pages > 0
        assert "yyyy" not in running.output()


def test_a_handshake_that_stops_halfway_keeps_nobody_out(tiny_path, tmp_path):
    authority = Authority(tmp_path)
    cert, key = authority.issue("server")
    with server.running(tiny_path, max_context=2048, tls_cert=cert, tls_key=key) as running:
        held = []
        try:
            for _ in range(50):
                held.append(connect(running.address))
                held[-1].sendall(HELLO[:50])
            with tls_channel(running.address, authority) as channel:
                assert info(channel).num_pages > 0
        finally:
            for connection in held:
                connection.close()
