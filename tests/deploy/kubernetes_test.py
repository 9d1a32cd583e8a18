"""deploy/k8s: rendered by kubectl, core kinds against Kubernetes' own schemas, the operators' kinds against theirs
(tests/golden/kubernetes), and all against each other."""

import copy
import functools
import json
import operator
import pathlib
import re
import subprocess
import sys

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.support import model_files
from tests.support.deploy import generate

K8S = model_files.ROOT / "deploy/k8s"
TREES = ["base", "overlays/cpu", "overlays/cuda"]
# The oldest with preStop's sleep, and the newest that the package knows.
VERSIONS = ["1.30", "1.37"]
OPERATORS = {"HTTPRoute", "InferencePool", "PodMonitor", "PrometheusRule", "ScaledObject"}
LABEL = {"app.kubernetes.io/name": "nsa-serve"}


@functools.cache
def rendered(tree: str) -> list[dict]:
    kubectl = pathlib.Path(sys.executable).with_name("kubectl")
    run = subprocess.run([kubectl, "kustomize", K8S / tree], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return [document for document in yaml.safe_load_all(run.stdout) if document]


def of_kind(tree: str, kind: str) -> list[dict]:
    return [document for document in rendered(tree) if document["kind"] == kind]


def pod(tree: str) -> dict:
    (deployment,) = of_kind(tree, "Deployment")
    return deployment["spec"]["template"]


def container(tree: str) -> dict:
    (only,) = pod(tree)["spec"]["containers"]
    return only


def flags(tree: str) -> dict[str, str]:
    return dict(argument.removeprefix("--").split("=", 1) for argument in container(tree)["args"])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("tree", TREES)
def test_schemas(tree, version):
    checked = set()
    for document in rendered(tree):
        if document["kind"] not in OPERATORS:
            kubernetes_validate.validate(document, version, strict=True)
            checked.add(document["kind"])
    assert {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"} <= checked


@pytest.mark.parametrize("path", [("spec", "replica"), ("spec", "template", "spec", "grace")])
def test_schemas_see_a_misspelt_field(path):
    (deployment,) = copy.deepcopy(of_kind("base", "Deployment"))
    at = deployment
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)


SCHEMAS = json.loads((model_files.ROOT / "tests/golden/kubernetes/operator_schemas.json").read_text())


def check_operators_kind(document: dict) -> None:
    jsonschema.validate(document, SCHEMAS[f"{document['apiVersion']} {document['kind']}"])


@pytest.mark.parametrize("tree", TREES[1:])
def test_schemas_of_operators(tree):
    checked = [document for document in rendered(tree) if document["kind"] in OPERATORS]
    for document in checked:
        check_operators_kind(document)
    assert {document["kind"] for document in checked} == OPERATORS


@pytest.mark.parametrize(("kind", "path", "value"), [
    ("HTTPRoute", ("spec", "rules", 0, "matches", 0, "path", "typ"), "Exact"),
    ("InferencePool", ("spec", "endpointPickerRef", "failureMode"), "FailSometimes"),
    ("PodMonitor", ("spec", "podMetricsEndpoints", 0, "interval"), "soon"),
    ("PrometheusRule", ("spec", "groups", 0, "rules", 0, "fore"), "1m"),
    ("ScaledObject", ("spec", "minReplicaCount"), "two"),
])  # fmt: skip
def test_schemas_of_operators_see_a_mistake(kind, path, value):
    document = copy.deepcopy(of_kind("overlays/cpu", kind)[0])
    at = functools.reduce(operator.getitem, path[:-1], document)
    at[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        check_operators_kind(document)


@pytest.mark.parametrize("tree", TREES)
def test_the_server_knows_the_flags(tree):
    said = subprocess.run([model_files.tool("nsa_server"), "--help"], capture_output=True, text=True)
    for flag in flags(tree):
        assert f"--{flag}" in said.stdout, f"{flag} is no flag of nsa_server"


@pytest.mark.parametrize("tree", TREES)
def test_selectors_find_the_pods_and_only_them(tree):
    """An empty selector of a NetworkPolicy or a budget would mean every pod of the namespace."""
    assert pod(tree)["metadata"]["labels"] == LABEL
    selectors = [d["spec"]["selector"] for d in of_kind(tree, "Service")]
    for kind in ("Deployment", "PodDisruptionBudget", "PodMonitor", "InferencePool"):
        selectors += [d["spec"]["selector"]["matchLabels"] for d in of_kind(tree, kind)]
    selectors += [d["spec"]["podSelector"]["matchLabels"] for d in of_kind(tree, "NetworkPolicy")]
    assert selectors and all(selector == LABEL for selector in selectors), selectors


@pytest.mark.parametrize("tree", TREES)
def test_ports_are_the_servers(tree):
    ports = {port["name"]: port["containerPort"] for port in container(tree)["ports"]}
    assert ports["grpc"] == int(flags(tree)["listen"].rpartition(":")[2])
    assert ports["metrics"] == int(flags(tree)["metrics_listen"].rpartition(":")[2])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container(tree)[probe]["grpc"]["port"] == ports["grpc"]
    for service in of_kind(tree, "Service"):
        (port,) = service["spec"]["ports"]
        assert port["targetPort"] == "grpc" and port["appProtocol"] == "kubernetes.io/h2c"
    for pool in of_kind(tree, "InferencePool"):
        assert pool["spec"]["targetPorts"] == [{"number": ports["grpc"]}]
        assert pool["spec"]["appProtocol"] == "kubernetes.io/h2c"
    (policy,) = of_kind(tree, "NetworkPolicy")
    opened = {p["port"] for rule in policy["spec"]["ingress"] for p in rule["ports"]}
    assert opened == set(ports.values())
    for monitor in of_kind(tree, "PodMonitor"):
        assert [e["port"] for e in monitor["spec"]["podMetricsEndpoints"]] == ["metrics"]


@pytest.mark.parametrize("tree", TREES)
def test_a_drain_fits_into_the_grace_period(tree):
    sleep = container(tree)["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = float(flags(tree)["drain_timeout_s"])
    assert sleep + drain < pod(tree)["spec"]["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("tree", TREES)
def test_pods_are_confined(tree):
    spec, main = pod(tree)["spec"], container(tree)
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert main["securityContext"] == {"allowPrivilegeEscalation": False,
                                       "readOnlyRootFilesystem": True,
                                       "capabilities": {"drop": ["ALL"]}}  # fmt: skip
    assert spec["automountServiceAccountToken"] is False
    assert all(mount["readOnly"] for mount in main["volumeMounts"])
    (policy,) = of_kind(tree, "NetworkPolicy")
    assert policy["spec"]["egress"] == [] and "Egress" in policy["spec"]["policyTypes"]
    assert all(rule["from"] for rule in policy["spec"]["ingress"])


@pytest.mark.parametrize("tree", TREES[1:])
def test_operators_kinds_refer_to_what_there_is(tree):
    assert {d["kind"] for d in rendered(tree)} >= OPERATORS
    (scaled,) = of_kind(tree, "ScaledObject")
    (deployment,) = of_kind(tree, "Deployment")
    assert scaled["spec"]["scaleTargetRef"] == {"name": deployment["metadata"]["name"]}
    assert "replicas" not in deployment["spec"], "the autoscaler owns the number"
    (pool,), (route,) = of_kind(tree, "InferencePool"), of_kind(tree, "HTTPRoute")
    (backend,) = route["spec"]["rules"][0]["backendRefs"]
    group = pool["apiVersion"].partition("/")[0]
    assert backend == {"group": group, "kind": pool["kind"], "name": pool["metadata"]["name"]}
    (configuration,) = of_kind(tree, "ConfigMap")
    picker = yaml.safe_load(configuration["data"]["config.yaml"])
    named = {plugin.get("name", plugin["type"]) for plugin in picker["plugins"]}
    used = {p["pluginRef"] for profile in picker["schedulingProfiles"] for p in profile["plugins"]}
    used |= {parser["pluginRef"] for parser in picker["requestHandler"]["parsers"]}
    assert used == named


@pytest.mark.parametrize("tree", TREES[1:])
def test_rules_are_prometheus_own(tree):
    groups = [g for d in of_kind(tree, "PrometheusRule") for g in d["spec"]["groups"]]
    files = [yaml.safe_load(path.read_text())["groups"] for path in generate.RULES]
    by_name = operator.itemgetter("name")
    assert sorted(groups, key=by_name) == sorted(sum(files, []), key=by_name)
    # The job that the PodMonitor gives, NAMESPACE/NAME, is one that the alerts look for.
    (monitor,) = of_kind(tree, "PodMonitor")
    (job,) = {j for g in groups for r in g["rules"] for j in re.findall(r'job=~"(.*?)"', r["expr"])}
    assert re.fullmatch(job, f"production/{monitor['metadata']['name']}")


@pytest.mark.parametrize("query", [
    trigger["metadata"]["query"]
    for trigger in yaml.safe_load((K8S / "components/keda/scaled_object.yaml").read_text())["spec"]["triggers"]
])  # fmt: skip
def test_the_autoscalers_queries_have_data(scraped, query):
    _, scraper = scraped
    assert len(scraper.finite(query)) == 1
