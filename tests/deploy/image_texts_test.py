"""Dockerfile, .dockerignore and compose.yaml as texts: linted, parsed, and true to the repository.
image_test.py builds and runs the image."""

import fnmatch
import json
import pathlib
import re
import shutil
import subprocess
import sys

import compose_spec
import pytest
import yaml

from tests.support import model_files, prometheus
from tests.tidy import files

DOCKERFILE = model_files.ROOT / "Dockerfile"
COMPOSE = model_files.ROOT / "deploy/compose.yaml"
VARIABLES = {"MODEL": "/models/some.gguf", "NSA_KV_CACHE_GIB": "2", "NSA_MEMORY": "8g",
             "NSA_CPUS": "4", "GRAFANA_PASSWORD": "x"}  # fmt: skip


def beside(name: str) -> str:
    return str(pathlib.Path(sys.executable).with_name(name))


def hadolint(path) -> subprocess.CompletedProcess:
    return subprocess.run([beside("hadolint"), path], capture_output=True, text=True)


def test_dockerfile():
    run = hadolint(DOCKERFILE)
    assert run.returncode == 0, run.stdout


def test_hadolint_sees_a_wrong_dockerfile(tmp_path):
    path = tmp_path / "Dockerfile"
    path.write_text(DOCKERFILE.read_text().replace("USER 10001:10001", "USER root\nRUN cd /x"))
    assert hadolint(path).returncode != 0


def stage(name: str) -> str:
    """The instructions of one stage."""
    whole = DOCKERFILE.read_text()
    (found,) = re.findall(rf"^FROM \S+ AS {name}$(.*?)(?=^FROM |\Z)", whole, re.DOTALL | re.MULTILINE)
    return found


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_stage_is_confined_and_watched(name):
    text = stage(name)
    assert "USER 10001:10001" in text and "STOPSIGNAL SIGTERM" in text
    assert 'CMD ["nsa_client", "health"' in text and "HEALTHCHECK" in text
    assert 'image.licenses="Apache-2.0"' in text
    said = subprocess.run([model_files.tool("nsa_server"), "--help"], capture_output=True, text=True)
    arguments = re.findall(r'"(--\w+)=', text.split("ENTRYPOINT", 1)[1])
    assert arguments and all(argument in said.stdout for argument in arguments)


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_healthcheck_is_a_command_that_fails_where_nobody_answers(name):
    (words,) = re.findall(r'CMD (\["nsa_client".*\])', stage(name))
    command = json.loads(words)
    command[0] = model_files.tool(command[0])
    port = prometheus.free_port()
    command = [str(word).replace(":50051", f":{port}") for word in command]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert run.returncode == 24, run.stderr


def ignored(path: str, rules: list[str]) -> bool:
    """Docker's rule: the last pattern that matches the path or a folder above it decides."""
    answer = False
    parts = path.split("/")
    prefixes = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    for rule in rules:
        pattern = rule.removeprefix("!")
        if any(fnmatch.fnmatchcase(p, pattern) and p.count("/") == pattern.count("/") for p in prefixes):
            answer = not rule.startswith("!")
    return answer


def ignore_rules() -> list[str]:
    lines = (model_files.ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_the_context_configures(tmp_path):
    """As deploy/image/build.sh does, of nothing but what the builder is sent."""
    rules = ignore_rules()
    for path in files.tracked():
        if not ignored(path, rules):
            (tmp_path / "src" / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(model_files.ROOT / path, tmp_path / "src" / path)
    script = (model_files.ROOT / "deploy/image/build.sh").read_text()
    (options,) = re.findall(r"--preset release (-D.*) \"\$\{options\[@\]\}\"$", script, re.MULTILINE)
    deps = model_files.ROOT / ".deps"
    configure = ["cmake", "--preset", "release", *options.split(),
                 f"-DNSA_SENTENCEPIECE_DIR={deps / 'sentencepiece'}",
                 f"-DNSA_XGRAMMAR_DIR={deps / 'xgrammar'}"]  # fmt: skip
    run = subprocess.run(configure, cwd=tmp_path / "src", capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    # -n: what would be built, which fails where a source is missing.
    plan = subprocess.run(["ninja", "-C", tmp_path / "src/build/release", "-n", "nsa_server", "nsa_client"],
                          capture_output=True, text=True)  # fmt: skip
    assert plan.returncode == 0, plan.stdout[-2000:]


def test_the_context_holds_what_the_build_reads():
    rules = ignore_rules()
    for path in files.tracked():
        needed = path.startswith(("client/", "deploy/", "engine/", "kernels/", "proto/", "server/"))
        needed |= path in ("CMakeLists.txt", "CMakePresets.json", "tests/NsaTest.cmake", "LICENSE", "THIRD_PARTY.md")
        assert not (needed and ignored(path, rules)), f"{path} is needed, but ignored"
    for path in (".git/config", "build/release/nsa_server", ".venv/bin/python", "tests/run.sh", "deploy/tls.key"):
        assert ignored(path, rules), f"{path} would be sent to the builder"
    for copied in re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE):
        assert all((model_files.ROOT / path).exists() for path in copied.split()), copied


def compose_text() -> str:
    """With variables replaced, as compose does before it reads."""
    return re.sub(r"\$\{(\w+)[^}]*\}", lambda m: VARIABLES[m.group(1)], COMPOSE.read_text())


def services() -> dict:
    return yaml.safe_load(compose_text())["services"]


def test_compose_is_valid():
    parsed = compose_spec.PyCompose.from_yaml(compose_text())
    parsed.validate()
    parsed.to_spec()
    assert set(parsed.service_names()) == {"nsa-serve", "prometheus", "grafana", "gateway"}


def test_compose_validation_sees_an_unknown_key():
    wrong = compose_text().replace("stop_grace_period", "stop_grace_perod")
    with pytest.raises(Exception, match="stop_grace_perod"):
        compose_spec.PyCompose.from_yaml(wrong)


def test_yaml_of_deploy():
    paths = [path for path in files.with_suffix(".yaml") if path.startswith("deploy/")]
    rules = "{extends: relaxed, rules: {line-length: {max: 200}}}"
    run = subprocess.run([beside("yamllint"), "--strict", "-d", rules, *paths],
                         cwd=files.ROOT, capture_output=True, text=True)  # fmt: skip
    assert len(paths) > 15 and run.returncode == 0, run.stdout


@pytest.mark.parametrize("name", ["nsa-serve", "prometheus", "grafana", "gateway"])
def test_service_has_limits_health_and_is_local(name):
    service = services()[name]
    limits = service["deploy"]["resources"]["limits"]
    assert limits["memory"] and limits["cpus"]
    assert "healthcheck" in service or "HEALTHCHECK" in stage(service["build"]["target"])
    assert service["cap_drop"] == ["ALL"] and service["restart"] == "unless-stopped"
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    for volume in service.get("volumes", []):
        source = volume["source"] if isinstance(volume, dict) else volume.partition(":")[0]
        assert not source.startswith("./") or (COMPOSE.parent / source).exists(), source
        assert not source.startswith("./") or volume.endswith(":ro")


def test_a_drain_fits_into_the_stop_timeout():
    server = services()["nsa-serve"]
    (drain,) = [re.fullmatch(r"--drain_timeout_s=(\d+)", c) for c in server["command"] if "drain" in c]
    assert int(server["stop_grace_period"].removesuffix("s")) > int(drain.group(1))


def test_compose_scrapes_the_server():
    scraped = yaml.safe_load((COMPOSE.parent / "prometheus/prometheus.yaml").read_text())
    (job,) = scraped["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    assert set(found["names"]) <= set(services())
    assert f"--metrics_listen=0.0.0.0:{found['port']}" in services()["nsa-serve"]["command"]
