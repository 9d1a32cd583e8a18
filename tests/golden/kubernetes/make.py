"""Makes operator_schemas.json: what the operators' own definitions say of the kinds that deploy/k8s uses, without
their prose. Of files that the projects publish (CustomResourceDefinitions; their folders are below):

    .venv/bin/python tests/golden/kubernetes/make.py FILE... > tests/golden/kubernetes/operator_schemas.json

    kubernetes-sigs/gateway-api-inference-extension  config/crd/bases/inference.networking.k8s.io_inferencepools.yaml
    kubernetes-sigs/gateway-api                      config/crd/standard/gateway.networking.k8s.io_httproutes.yaml
    prometheus-operator/prometheus-operator          example/prometheus-operator-crd/monitoring.coreos.com_{podmonitors,
                                                     prometheusrules}.yaml
    kedacore/keda                                    config/crd/bases/keda.sh_scaledobjects.yaml
"""

import json
import pathlib
import re
import sys

import yaml

KEPT = {"type", "properties", "items", "required", "enum", "pattern", "format", "minimum", "maximum", "minLength",
        "maxLength", "minItems", "maxItems", "maxProperties", "additionalProperties", "anyOf", "oneOf", "allOf"}  # fmt: skip
OPEN = ("x-kubernetes-preserve-unknown-fields", "x-kubernetes-int-or-string", "x-kubernetes-embedded-resource")


def is_readable(pattern: str) -> bool:
    """Go's patterns may have a flag in their middle, Python's may not."""
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def bare(schema):
    """The schema without prose and defaults, and closed: a field that it does not name is an error."""
    if isinstance(schema, list):
        return [bare(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    small = {key: value if key in ("required", "enum") else bare(value)
             for key, value in schema.items() if key in KEPT and key != "properties"}  # fmt: skip
    if not is_readable(small.get("pattern", "")):
        del small["pattern"]
    if "properties" in schema:
        small["properties"] = {name: bare(part) for name, part in schema["properties"].items()}
        if not any(schema.get(key) for key in OPEN):
            small.setdefault("additionalProperties", False)
    return small


def main(paths: list[str]) -> None:
    kinds = {}
    for path in paths:
        for definition in yaml.safe_load_all(pathlib.Path(path).read_text()):
            if definition is None:
                continue
            spec = definition["spec"]
            for version in spec["versions"]:
                schema = bare(version["schema"]["openAPIV3Schema"])
                schema["properties"].pop("status", None)
                schema["properties"]["metadata"] = {"type": "object"}
                kinds[f"{spec['group']}/{version['name']} {spec['names']['kind']}"] = schema
    print(json.dumps(kinds, sort_keys=True, separators=(",", ":")))


if __name__ == "__main__":
    main(sys.argv[1:])
