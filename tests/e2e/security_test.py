"""Who may call: API keys, TLS, clients' certificates, their rotation, and what the log tells."""

import contextlib
import hashlib
import os
import subprocess
import time
import urllib.request

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.support import model_files, server
from tests.support.certificates import Authority

KEY = "nsa-0123456789abcdef0123456789abcdef"
PROMPT = "a prompt that no log may hold"
# Files are looked at each second.
ROTATION_S = 15


def key_line(key: str, name: str = "team") -> str:
    return f"{name} {hashlib.sha256(key.encode()).hexdigest()}\n"


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "keys"
    path.write_text(key_line(KEY))
    return path


def bearer(key: str):
    return (("authorization", f"Bearer {key}"),)


def info(channel, metadata=()):
    stub = server.stubs()[1].InferenceServiceStub(channel)
    return stub.GetModelInfo(server.pb().GetModelInfoRequest(), metadata=metadata, timeout=20)


def refused(channel, metadata=()) -> str:
    """What a call is told that is not let in."""
    with pytest.raises(grpc.RpcError) as error:
        info(channel, metadata)
    assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED, error.value
    return error.value.details()


def health(channel) -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    return stub.Check(health_pb2.HealthCheckRequest(), timeout=20).status


def until(condition) -> None:
    deadline = time.monotonic() + ROTATION_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.1)


@contextlib.contextmanager
def tls_channel(address: str, authority: Authority, client=None):
    """A connection of its own; `client`: (certificate, key)."""
    pair = {}
    if client:
        pair = {"certificate_chain": client[0].read_bytes(), "private_key": client[1].read_bytes()}
    credentials = grpc.ssl_channel_credentials(authority.cert.read_bytes(), **pair)
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    with grpc.secure_channel(address, credentials, options) as channel:
        yield channel


def is_allowed(channel, metadata=()) -> bool:
    try:
        info(channel, metadata)
        return True
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED, error
        return False


def test_nothing_but_health_answers_without_a_key(tiny_path, key_file):
    with server.running(tiny_path, max_context=2048, api_keys_file=key_file) as running:
        channel = running.channel
        assert health(channel) == health_pb2.HealthCheckResponse.SERVING
        for metadata in [
            (), bearer("wrong"), bearer(""), (("authorization", KEY),),
            (("authorization", f"Basic {KEY}"),), bearer(KEY) + bearer(KEY),
            bearer(KEY + " "), bearer(hashlib.sha256(KEY.encode()).hexdigest()),
            (("x-authorization", f"Bearer {KEY}"),),
        ]:  # fmt: skip
            assert KEY not in refused(channel, metadata)
        assert info(channel, bearer(KEY)).num_pages > 0
        assert info(channel, (("authorization", f"bearer {KEY}"),)).num_pages > 0
        # Every method, known or not, and reflection.
        for method in ("/no.such.Service/Call", "/nsa.v1.InferenceService/NoSuch"):
            for metadata, code in (
                ((), grpc.StatusCode.UNAUTHENTICATED),
                (bearer(KEY), grpc.StatusCode.UNIMPLEMENTED),
            ):
                with pytest.raises(grpc.RpcError) as error:
                    channel.unary_unary(method)(b"", metadata=metadata, timeout=20)
                assert error.value.code() == code
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(grpc.RpcError) as error:
            next(stub.ServerReflectionInfo(iter([ask]), timeout=20))
        assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert next(stub.ServerReflectionInfo(iter([ask]), metadata=bearer(KEY), timeout=20))


def test_keys_follow_their_file(tiny_path, key_file):
    second = "nsa-another-key-of-some-length"
    with server.running(tiny_path, max_context=2048, api_keys_file=key_file) as running:
        assert not is_allowed(running.channel, bearer(second))
        key_file.write_text(key_line(second, "next"))
        until(lambda: is_allowed(running.channel, bearer(second)))
        refused(running.channel, bearer(KEY))
        key_file.write_text("broken")
        until(lambda: "the keys before stay" in running.output())
        assert is_allowed(running.channel, bearer(second))


def test_log_holds_neither_keys_nor_prompts(tiny_path, key_file):
    for log_format in ("text", "json"):
        with server.running(
            tiny_path, max_context=2048, api_keys_file=key_file, log_format=log_format
        ) as running:
            message = server.request(PROMPT, 4, request_id="named")
            result = server.collect(
                running.stub.Generate(message, metadata=bearer(KEY), timeout=60)
            )
            assert result.status == grpc.StatusCode.OK
            refused(running.channel, bearer("wrong-key-that-nobody-has"))
            bad = server.request(PROMPT, -1)
            running_call = running.stub.Generate(bad, metadata=bearer(KEY), timeout=60)
            assert server.collect(running_call).status == grpc.StatusCode.INVALID_ARGUMENT
            running.terminate()
            assert running.wait_ended() == 0
            digest = hashlib.sha256(KEY.encode()).hexdigest()
            for secret in (KEY, digest, PROMPT, "wrong-key-that-nobody-has"):
                assert secret not in running.output()


def test_metadata_of_any_size_is_bounded(tiny_path, key_file):
    """gRPC's own limit on metadata: such a call ends, and others go on."""
    with server.running(tiny_path, max_context=2048, api_keys_file=key_file) as running:
        bomb = tuple((f"x-{i}", "y" * 1000) for i in range(1000))
        assert is_allowed(running.channel, bearer(KEY))
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(running.address, options) as other:
            for _ in range(3):
                with pytest.raises(grpc.RpcError):
                    info(other, bomb + bearer(KEY))
        assert is_allowed(running.channel, bearer(KEY))


def test_tls_and_its_rotation(tiny_path, tmp_path):
    authority = Authority(tmp_path)
    cert, key = authority.issue("server")
    with server.running(tiny_path, max_context=2048, tls_cert=cert, tls_key=key) as running:
        with tls_channel(running.address, authority) as channel:
            assert info(channel).num_pages > 0
            assert health(channel) == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as error:  # plain speech to a TLS port
            info(running.channel)
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE
        # A new authority signs the next certificate, which moves in whole.
        (tmp_path / "next").mkdir()
        following = Authority(tmp_path / "next", "following")
        for new, old in zip(following.issue("server"), (cert, key), strict=True):
            os.replace(new, old)

        def follows() -> bool:
            with tls_channel(running.address, following) as channel:
                try:
                    return info(channel).num_pages > 0
                except grpc.RpcError:
                    return False

        until(follows)


def test_mutual_tls_wants_a_certificate_and_health_does_not(tiny_path, tmp_path, key_file):
    authority = Authority(tmp_path)
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other", "stranger")
    cert, key = authority.issue("server")
    flags = {"tls_cert": cert, "tls_key": key, "tls_client_ca": authority.cert}
    with server.running(tiny_path, max_context=2048, **flags) as running:
        with tls_channel(running.address, authority) as channel:
            refused(channel)
            assert health(channel) == health_pb2.HealthCheckResponse.SERVING
        with tls_channel(running.address, authority, authority.issue("client")) as channel:
            assert info(channel).num_pages > 0
        for client in (stranger.issue("client"), authority.issue("late", days=-1)):
            with tls_channel(running.address, authority, client) as channel:
                with pytest.raises(grpc.RpcError):
                    info(channel)
    with server.running(tiny_path, max_context=2048, api_keys_file=key_file, **flags) as running:
        with tls_channel(running.address, authority, authority.issue("client")) as channel:
            refused(channel)
            assert is_allowed(channel, bearer(KEY))
        with tls_channel(running.address, authority) as channel:
            refused(channel, bearer(KEY))


def test_the_clients_authority_can_be_rotated(tiny_path, tmp_path):
    """By a file with both for a while; then the old one's clients are strangers."""
    authority = Authority(tmp_path)
    cert, key = authority.issue("server")
    (tmp_path / "next").mkdir()
    following = Authority(tmp_path / "next", "following")
    roots = tmp_path / "roots.pem"
    roots.write_bytes(authority.cert.read_bytes())
    old, new = authority.issue("old"), following.issue("new")

    def enters(client) -> bool:
        with tls_channel(running.address, authority, client) as channel:
            try:
                return info(channel).num_pages > 0
            except grpc.RpcError:
                return False

    flags = {"tls_cert": cert, "tls_key": key, "tls_client_ca": roots}
    with server.running(tiny_path, max_context=2048, **flags) as running:
        assert enters(old) and not enters(new)
        both = tmp_path / "both.pem"
        both.write_bytes(authority.cert.read_bytes() + following.cert.read_bytes())
        os.replace(both, roots)
        until(lambda: enters(new))
        assert enters(old)
        both.write_bytes(following.cert.read_bytes())
        os.replace(both, roots)
        until(lambda: not enters(old))
        assert enters(new)


def test_a_certificate_that_expires_is_the_clients_to_refuse(tiny_path, tmp_path):
    """A server that is up goes on with what its files say; whoever checks does not talk to it."""
    authority = Authority(tmp_path)
    cert, key = authority.issue("server")
    (tmp_path / "late").mkdir()
    with server.running(tiny_path, max_context=2048, tls_cert=cert, tls_key=key) as running:
        with tls_channel(running.address, authority) as channel:
            assert info(channel).num_pages > 0
        expired = authority.issue("expired", days=-1)
        for new, old in zip(expired, (cert, key), strict=True):
            os.replace(new, old)

        def is_refused() -> bool:
            with tls_channel(running.address, authority) as channel:
                try:
                    info(channel)
                    return False
                except grpc.RpcError as error:
                    assert error.code() == grpc.StatusCode.UNAVAILABLE
                    return True

        until(is_refused)
        assert running.process.poll() is None


def test_a_keys_name_is_the_tenant_whatever_the_client_says(tiny_path, key_file):
    with key_file.open("a") as file:
        file.write(key_line("nsa-second-key-of-some-length", "other"))
    flags = {"max_running_requests": 1, "max_tenant_requests": 1, "max_queued_requests": 8}
    with server.running(tiny_path, max_context=16384, api_keys_file=key_file, **flags) as running:
        long = server.request("x", 16000)
        long.stopping.ignore_eos = True

        def call(key, tenant):
            metadata = bearer(key) + (("nsa-tenant", tenant),)
            return running.stub.Generate(long, metadata=metadata, timeout=60)

        running_one = call(KEY, "a")
        next(iter(running_one))
        waiting = call(KEY, "b")
        until(lambda: running.metrics()["nsa:oldest_waiting_request_age_seconds"] > 0)
        assert "this tenant is full" in server.collect(call(KEY, "c")).details
        other = call("nsa-second-key-of-some-length", "b")
        time.sleep(0.3)
        assert not other.done(), "it waits, as its own tenant"
        for each in (running_one, waiting, other):
            each.cancel()


def secret_requests():
    """Requests that end in all ways, each with text that nobody but its caller may see."""
    good = server.request(SECRETS["prompt"], 4, request_id="good", cache_salt=SECRETS["salt"])
    good.stopping.stop.append(SECRETS["stop"])
    good.sampling.bad_words.append(SECRETS["bad word"])
    yield good
    chat = server.pb().GenerateRequest(request_id="chat")
    chat.chat.messages.add(role=SECRETS["role"], content=SECRETS["prompt"].encode())
    yield chat
    for field in ("json_schema", "regex", "grammar"):
        form = server.request("x", 4, request_id=field)
        setattr(form.structured_output, field, SECRETS["form"] + "([{\\")
        yield form
    choice = server.request("x", 60, request_id="choice")
    choice.structured_output.choice.options.append(SECRETS["form"])
    yield choice
    many = server.request(SECRETS["prompt"], 4, request_id="many")
    many.stopping.stop.extend([SECRETS["stop"]] * 17)
    yield many
    yield server.request(SECRETS["prompt"] * 2000, 4, request_id="long")


SECRETS = {
    name: f"secret{i}of{name.replace(' ', '')}"
    for i, name in enumerate(("prompt", "salt", "stop", "bad word", "role", "form"))
}


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_text_of_clients_is_in_logs_metrics_or_traces(tiny_path, key_file, tmp_path, log_format):
    path = tmp_path / "traces"
    flags = {"log_format": log_format, "log_requests": "true", "trace_file": path}
    with server.running(tiny_path, max_context=2048, api_keys_file=key_file, **flags) as running:
        ends = {}
        for message in secret_requests():
            call = running.stub.Generate(message, metadata=bearer(KEY), timeout=60)
            ends[message.request_id] = server.collect(call).status
        assert len(set(ends.values())) >= 2 and ends["good"] == grpc.StatusCode.OK, ends
        refused(running.channel, bearer("wrong-key-that-nobody-has"))
        metrics = urllib.request.urlopen(running.metrics_url, timeout=20).read().decode()
        running.terminate()
        assert running.wait_ended() == 0
    written = path.read_text()
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    for where in (running.output(), metrics, written):
        for secret in (*SECRETS.values(), KEY, digest, "wrong-key-that-nobody-has"):
            assert secret not in where
    for name in ends:  # but each request is named
        assert name in running.output() and name in written


def refusal(tiny_path, **flags) -> str:
    with pytest.raises(RuntimeError, match="ended with 2") as error:
        with server.running(tiny_path, **flags):
            pass
    return str(error.value)


def test_what_cannot_work_is_refused_at_the_start(tiny_path, tmp_path, key_file):
    authority = Authority(tmp_path)
    cert, key = authority.issue("server")
    _, other_key = authority.issue("other")
    expired, expired_key = authority.issue("expired", days=-1)
    text = tmp_path / "text"
    text.write_text("no PEM")
    assert "--tls_key" in refusal(tiny_path, tls_cert=cert)
    assert "--tls_cert" in refusal(tiny_path, tls_key=key)
    assert "belong" in refusal(tiny_path, tls_cert=cert, tls_key=other_key)
    assert "expired" in refusal(tiny_path, tls_cert=expired, tls_key=expired_key)
    assert "--tls_cert" in refusal(tiny_path, tls_cert=text, tls_key=key)
    assert "--tls_key" in refusal(tiny_path, tls_cert=cert, tls_key=text)
    assert "--tls_key" in refusal(tiny_path, tls_cert=cert, tls_key=tmp_path / "none")
    assert "--tls_client_ca" in refusal(tiny_path, tls_client_ca=authority.cert)
    assert "--tls_client_ca" in refusal(
        tiny_path, tls_cert=cert, tls_key=key, tls_client_ca=text
    )
    assert "--api_keys_file" in refusal(tiny_path, api_keys_file=tmp_path / "none")
    assert "in the clear" in refusal(tiny_path, api_keys_file=key_file, listen="0.0.0.0:0")


def test_reflection_can_be_off(tiny_path):
    with server.running(tiny_path, max_context=2048, reflection="false") as running:
        stub = reflection_pb2_grpc.ServerReflectionStub(running.channel)
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(grpc.RpcError) as error:
            next(stub.ServerReflectionInfo(iter([ask]), timeout=20))
        assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
        assert info(running.channel).num_pages > 0


def client(*arguments, key: str = "") -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "NSA_API_KEY"}
    if key:
        environment["NSA_API_KEY"] = key
    return subprocess.run(
        [model_files.tool("nsa_client"), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )


def test_the_command_line_client_brings_its_key_and_certificate(tiny_path, tmp_path, key_file):
    authority = Authority(tmp_path)
    cert, key = authority.issue("server")
    own = authority.issue("client")
    own_key = tmp_path / "own-key"
    own_key.write_text(KEY + "\n")
    complete = ("complete", "--prompt=a", "--max_tokens=2", "--temperature=0")
    with server.running(tiny_path, max_context=2048, api_keys_file=key_file) as running:
        to = f"--server={running.address}"
        assert client(*complete, to).returncode == 10 + grpc.StatusCode.UNAUTHENTICATED.value[0]
        assert client(*complete, to, key=KEY).returncode == 0
        assert client(*complete, to, f"--api_key_file={own_key}").returncode == 0
        assert client("health", to).stdout == "SERVING\n"
        load = client("load", to, "--num_requests=2", "--concurrency=1", "--prompt_tokens=8",
                      "--output_tokens=2", "--json", key=KEY)  # fmt: skip
        assert load.returncode == 0, load.stderr
    flags = {"tls_cert": cert, "tls_key": key, "tls_client_ca": authority.cert}
    with server.running(tiny_path, max_context=2048, api_keys_file=key_file, **flags) as running:
        to = (f"--server={running.address}", f"--tls_ca={authority.cert}")
        pair = (f"--tls_cert={own[0]}", f"--tls_key={own[1]}")
        assert client("health", *to).returncode == 0
        assert client(*complete, *to, *pair, key=KEY).returncode == 0
        assert client(*complete, *to, key=KEY).returncode != 0
        assert client(*complete, to[0], key=KEY).returncode != 0
    assert client("health", "--server=127.0.0.1:1").returncode == 24
    elsewhere = client("info", "--server=192.0.2.1:50051", key=KEY)
    assert elsewhere.returncode == 2 and "TLS" in elsewhere.stderr
    assert KEY not in elsewhere.stderr
