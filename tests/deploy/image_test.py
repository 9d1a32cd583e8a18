"""The images, built from nothing and run without a Docker daemon (tests/support/container.py): what is sent to the
builder, what comes out, and that it serves, is healthy, and drains, under a root that it cannot write.

As root: tests/run.sh, which says so where a machine cannot do this.
"""

import contextlib
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

import pytest
import yaml

from tests.support import container, model_files
from tests.tidy import files

pytestmark = [pytest.mark.image, pytest.mark.timeout(5400)]

IMAGE, BAKED, PROGRAMS, CUDA, CUDA_BASE, PROBE, GATEWAY = (
    f"localhost/nsa-{name}" for name in ("cpu", "baked", "programs", "cuda", "cuda-base", "probe", "gateway"))
UID = 10001
MAX_COMPRESSED_BYTES = 200e6
# Of compose.yaml: --drain_timeout_s and some for the process to end.
STOP_TIMEOUT_S = 40
TOOLKIT = pathlib.Path("/usr/local/cuda")
MODEL = {"/models/model.gguf": model_files.model_path()}


@pytest.fixture(scope="module")
def empty_store():
    """With the base alone. NSA_IMAGE_STORE names a folder that is kept, so that the next run finds its layers."""
    assert os.geteuid() == 0, "images are built and run as root"
    with contextlib.ExitStack() as stack:
        # Not under pytest's folder, which keeps what three runs left: this is gigabytes.
        folder = os.environ.get("NSA_IMAGE_STORE") or stack.enter_context(
            tempfile.TemporaryDirectory(prefix="nsa-images-", dir="/var/tmp"))
        store = container.Store(pathlib.Path(folder))
        store.make_base()
        store.share_ccache()
        yield store
        store.release()


@pytest.fixture(scope="module")
def store(empty_store):
    """With the image, by the Dockerfile's own defaults but for the base."""
    empty_store.build(IMAGE, "--target", "cpu", CPU_BASE=container.BASE)
    return empty_store


@pytest.fixture(scope="module")
def running(store):
    """A server by the image's own command, with a model on a volume."""
    with container.running(store, IMAGE, mounts=MODEL) as one:
        one.wait_healthy()
        yield one


PLANTED = [".git/config", ".env", "deploy/.env", "deploy/tls.key", "server/tls.pem", "api_keys.txt", "build/x.o",
           ".venv/bin/python", ".deps/xgrammar/x.cc", "engine/__pycache__/x.pyc", "tests/secret_test.py"]  # fmt: skip


def test_the_builder_is_sent_the_sources_and_no_more(empty_store, tmp_path):
    """By the builder's own reading of .dockerignore, of a tree with everything in it that should not go."""
    tracked = files.tracked()
    for path in tracked:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(model_files.ROOT / path, tmp_path / path)
    for path in PLANTED:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("not to be sent\n")
    probe = tmp_path.parent / f"{tmp_path.name}.Dockerfile"
    probe.write_text("FROM scratch\nCOPY . /\n")
    empty_store.build(PROBE, "-f", probe, context=tmp_path)
    tree = empty_store.tree(PROBE)
    sent = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}
    folders = ("client/", "deploy/", "engine/", "kernels/", "proto/", "server/")
    single = {"CMakeLists.txt", "CMakePresets.json", "LICENSE", "THIRD_PARTY.md", "tests/NsaTest.cmake"}
    assert sent == {path for path in tracked if path.startswith(folders) or path in single}


def check_settings(config: dict, command: list[str]) -> None:
    assert config["User"] == f"{UID}:{UID}" and config["StopSignal"] == "SIGTERM"
    assert config["Entrypoint"] == ["nsa_server"] and config["Cmd"] == command
    assert config["Labels"]["org.opencontainers.image.title"] == "nsa-serve"
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert config["Healthcheck"]["Test"][:3] == ["CMD", "nsa_client", "health"]
    assert set(config["ExposedPorts"]) == {"50051/tcp", "9090/tcp"}


COMMAND = ["--model=/models/model.gguf", "--listen=0.0.0.0:50051", "--metrics_listen=0.0.0.0:9090"]


def test_user_signal_labels_and_health_check(store):
    check_settings(store.config(IMAGE), COMMAND)


def test_size(store):
    size = store.compressed_bytes(IMAGE)
    print(f"compressed: {size / 1e6:.1f} MB, of it the base {store.compressed_bytes(container.BASE) / 1e6:.1f} MB")
    assert size < MAX_COMPRESSED_BYTES


def test_nothing_of_the_build_is_left(store):
    tree = store.tree(IMAGE)
    assert not list((tree / "var/lib/apt/lists").glob("*_Packages*"))
    for path in ("usr/bin/g++", "usr/bin/cmake", "src", "out", "ccache", "usr/share/man/man1"):
        assert not (tree / path).exists(), path
    documentation = {path.name for path in (tree / "usr/share/doc").rglob("*") if path.is_file()}
    assert documentation == {"copyright"}
    assert not list((tree / "usr/share/locale").glob("*/LC_MESSAGES"))
    assert (tree / "usr/local/share/nsa-serve/LICENSE").exists()
    assert list((tree / "models").iterdir()) == [], "no model unless it is asked for"
    # What this machine lent to the build.
    for path in ("etc/apt/apt.conf.d/99machine", "usr/local/share/ca-certificates/machine.crt"):
        assert not (tree / path).exists() or (tree / path).stat().st_size == 0, path


def test_it_is_a_user_who_can_write_nowhere(running):
    said = running.exec("sh", "-c", "grep -hE '^(Uid|Gid|CapEff|CapBnd|NoNewPrivs):' /proc/1/status").stdout
    lines = {key: set(value.split()) for key, value in (line.split(":") for line in said.splitlines())}
    assert lines["Uid"] == lines["Gid"] == {str(UID)}
    assert lines["CapEff"] == lines["CapBnd"] == {"0" * 16} and lines["NoNewPrivs"] == {"1"}
    written = running.exec("touch", "/models/x")
    assert written.returncode != 0 and "Read-only file system" in written.stderr
    # /dev and /proc are the runtime's.
    writable = running.exec("find", "/", "-xdev", "-writable", "!", "-type", "l").stdout
    assert writable == ""


def test_it_answers(running):
    said = running.exec("nsa_client", "complete", "--temperature=0", "--prompt=The capital of France is",
                        "--max_tokens=8")  # fmt: skip
    assert said.returncode == 0 and "Paris" in said.stdout, said.stderr
    assert 'finished_reason="length"' in running.fetch(9090, "metrics")


def test_the_health_check_fails_where_nothing_serves(store):
    """The server's own is seen in each container here that is waited for."""
    with container.running(store, IMAGE, "60", entrypoint=["sleep"]) as idle:
        deadline = time.monotonic() + 10
        while idle.exec("true").returncode != 0:
            assert time.monotonic() < deadline, idle.output()
        assert idle.health() != 0


def test_sigterm_drains_within_the_stop_timeout(store):
    """A stream that runs gets all its tokens; health and a new request are refused meanwhile; the end is 0."""
    with container.running(store, IMAGE, *COMMAND, "--num_threads=1", mounts=MODEL) as one:
        one.wait_healthy()
        ask = ["nsa_client", "complete", "--temperature=0", "--json", "--retries=0", "--max_tokens=400"]
        stream = one.popen(*ask, "--prompt=Once upon a time", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert stream.stdout.readline()
        began = time.monotonic()
        one.stop()
        assert one.health() != 0
        assert one.exec(*ask, "--prompt=Too late").returncode == 10 + 14, "UNAVAILABLE"
        rest, errors = stream.communicate(timeout=60)
        assert stream.returncode == 0, errors
        assert '"length"' in rest or '"completion_tokens": 400' in rest, rest[-500:]
        assert one.process.wait(60) == 0, one.output()
        assert time.monotonic() - began < STOP_TIMEOUT_S
        assert "drained" in one.output()


ASK = """import json, urllib.request as r
at = "http://127.0.0.1:8080/v1/"
(model,) = json.load(r.urlopen(at + "models"))["data"]
body = {"model": model["id"], "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}
request = r.Request(at + "completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
print(json.load(r.urlopen(request))["choices"][0]["text"])
"""


def test_the_gateway_target(store, running):
    """As compose.yaml starts it, beside a server: the OpenAI HTTP API answers."""
    store.build(GATEWAY, "--target", "gateway", CPU_BASE=container.BASE)
    assert store.config(GATEWAY)["User"] == f"{UID}:{UID}"
    service = yaml.safe_load((model_files.ROOT / "deploy/compose.yaml").read_text())["services"]["gateway"]
    command = [word.replace("nsa-serve:", "127.0.0.1:") for word in service["command"]]
    with container.running(store, GATEWAY, *command, tmpfs=tuple(service["tmpfs"]), beside=running) as gateway:
        kind, *health = service["healthcheck"]["test"]
        assert kind == "CMD"
        deadline = time.monotonic() + 120
        python = health[0]
        while gateway.exec(*health).returncode != 0 or gateway.exec(python, "-c", ASK).returncode != 0:
            assert gateway.process.poll() is None and time.monotonic() < deadline, gateway.output()
            time.sleep(1)
        said = gateway.exec(python, "-c", ASK)
        assert said.returncode == 0 and "Paris" in said.stdout, said.stderr
        written = gateway.exec("touch", "/usr/local/lib/gateway/x")
        assert written.returncode != 0 and "Read-only file system" in written.stderr


def test_a_model_can_be_baked_in(store):
    """Layers that are there are used again: nothing is compiled a second time."""
    store.build(BAKED, "--target", "cpu", CPU_BASE=container.BASE, WITH_MODEL="default")
    with container.running(store, BAKED) as one:
        one.wait_healthy()
        said = one.exec("nsa_client", "complete", "--temperature=0", "--prompt=The capital of France is",
                        "--max_tokens=8")  # fmt: skip
        assert "Paris" in said.stdout, said.stderr


@pytest.fixture(scope="module")
def cuda_options(store):
    """With NSA_IMAGE_CUDA (tests/run.sh --image) and a CUDA toolkit on this machine: that, on top of what the cpu
    target compiles with, in place of NVIDIA's base. Else the programs of the cpu target, so that the last stage is
    built yet; the stage that compiles is then parsed alone."""
    store.build(PROGRAMS, "--target", "build-cpu", CPU_BASE=container.BASE)
    if os.environ.get("NSA_IMAGE_CUDA") and (TOOLKIT / "bin/nvcc").exists():
        store.derive(PROGRAMS, CUDA_BASE, "rm -rf /src/* /out", PATH=f"{TOOLKIT}/bin:{container.PATH}")
        return [f"--volume={TOOLKIT.resolve()}:{TOOLKIT}:ro", f"--build-arg=CUDA_BUILD_BASE={CUDA_BASE}"]
    print("the cuda target's compiling stage is parsed alone")
    return [f"--build-context=build-cuda=docker-image://{PROGRAMS}"]


def test_the_cuda_target(store, cuda_options):
    store.build(CUDA, "--target", "cuda", *cuda_options, CPU_BASE=container.BASE, CUDA_BASE=container.BASE)
    check_settings(store.config(CUDA), ["--device=cuda", *COMMAND])
    with container.running(store, CUDA, mounts=MODEL) as one:
        assert one.process.wait(120) != 0 and "CUDA" in one.output(), "no GPU is lent to it"
