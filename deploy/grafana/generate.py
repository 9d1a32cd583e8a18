#!/usr/bin/env python3
"""Writes the Grafana dashboards and Prometheus' console page from panels.py, and of Prometheus' rules
the form in which Kubernetes wants them.

    deploy/grafana/generate.py           writes the files
    deploy/grafana/generate.py --check   writes nothing; ends with 1 where a file is not what it would write
"""

import html
import json
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import panels  # noqa: E402

CONSOLE = HERE.parent / "prometheus/consoles/nsa.html"
RULES = [HERE.parent / "prometheus" / name for name in ("rules.yaml", "alerts.yaml")]
OPERATOR_RULES = HERE.parent / "k8s/components/monitoring/rules.yaml"
CONSOLE_FRAME = HERE / "console_frame.html"
CONSOLE_RATE_INTERVAL = "1m"
COLUMNS = 24
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def grafana_panel(panel: panels.Panel, number: int, place: dict) -> dict:
    options = {"timeseries": {"tooltip": {"mode": "multi", "sort": "desc"},
                              "legend": {"displayMode": "list", "placement": "bottom"}},
               "stat": {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "none"},
               "bargauge": {"reduceOptions": {"calcs": ["lastNotNull"]},
                            "orientation": "horizontal"}}  # fmt: skip
    defaults = {"unit": panel.unit, "min": 0}
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "fillOpacity": 30 if panel.stacked else 0,
            "stacking": {"mode": "normal" if panel.stacked else "none"},
        }
    targets = [
        {"refId": chr(ord("A") + i), "datasource": DATASOURCE, "expr": query.expr,
         "legendFormat": query.legend or "__auto", "range": panel.kind == "timeseries",
         "instant": panel.kind != "timeseries"}
        for i, query in enumerate(panel.queries)
    ]  # fmt: skip
    return {
        "id": number, "type": panel.kind, "title": panel.title, "description": panel.about,
        "datasource": DATASOURCE, "gridPos": place, "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": []}, "options": options[panel.kind],
    }  # fmt: skip


def grid(row: panels.Row) -> tuple[int, int]:
    """Width and height of a row's panels."""
    return (3, 4) if all(panel.kind == "stat" for panel in row.panels) else (8, 8)


def laid_out(dashboard: panels.Dashboard) -> list[dict]:
    placed, top = [], 0
    for row in dashboard.rows:
        placed.append({"id": len(placed) + 1, "type": "row", "title": row.title, "panels": [],
                       "collapsed": False,
                       "gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1}})  # fmt: skip
        top += 1
        width, height = grid(row)
        in_line = COLUMNS // width
        for i, panel in enumerate(row.panels):
            place = {"x": i % in_line * width, "y": top + i // in_line * height, "w": width,
                     "h": height}  # fmt: skip
            placed.append(grafana_panel(panel, len(placed) + 1, place))
        top += -(-len(row.panels) // in_line) * height
    return placed


def variable(name: str, label: str, query: str) -> dict:
    return {"name": name, "label": label, "type": "query", "datasource": DATASOURCE,
            "query": {"query": query, "refId": name}, "definition": query, "refresh": 2,
            "includeAll": True, "allValue": ".*", "multi": True,
            "current": {"text": "All", "value": "$__all"}}  # fmt: skip


def grafana(dashboard: panels.Dashboard) -> str:
    of_model = 'vllm:kv_cache_usage_perc{model_name=~"$model"}'
    variables = [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
        variable("model", "Model", "label_values(vllm:kv_cache_usage_perc, model_name)"),
        variable("instance", "Replica", f"label_values({of_model}, instance)"),
    ]
    whole = {
        "uid": dashboard.uid, "title": dashboard.title, "description": dashboard.about,
        "tags": ["nsa-serve"], "schemaVersion": 39, "version": 1, "editable": True,
        "graphTooltip": 1, "refresh": "10s", "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser", "templating": {"list": variables}, "annotations": {"list": []},
        "links": [{"title": "nsa-serve", "type": "dashboards", "tags": ["nsa-serve"]}],
        "panels": laid_out(dashboard),
    }  # fmt: skip
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def console_expr(query: panels.Query) -> str:
    return panels.bind(query.expr, rate_interval=CONSOLE_RATE_INTERVAL)


def console_tile(panel: panels.Panel) -> str:
    """A number that Prometheus fills in when the page is asked for."""
    expr = console_expr(panel.queries[0])
    value = ". | first | value"
    shown = {"percentunit": f"{{{{ {value} | humanizePercentage }}}}",
             "s": f"{{{{ {value} | humanizeDuration }}}}"}.get(
                 panel.unit, f"{{{{ {value} | humanize }}}}")  # fmt: skip
    unit = {"reqps": " / s", "tps": " / s"}.get(panel.unit, "")
    return (
        f'<div class="tile"><span>{html.escape(panel.title)}</span>'
        f"<b>{{{{ with query `{expr}` }}}}{shown}{unit}{{{{ else }}}}no data{{{{ end }}}}</b></div>"
    )


def console_chart(panel: panels.Panel) -> str:
    # Grafana's {{label}} would be an action of Prometheus' template.
    queries = json.dumps([
        {"expr": console_expr(q), "legend": re.sub(r"\{\{(\w+)\}\}", r"%(\1)", q.legend)}
        for q in panel.queries
    ])  # fmt: skip
    return (
        f'<figure class="chart" data-unit="{panel.unit}" data-queries="{html.escape(queries)}">'
        f"<figcaption>{html.escape(panel.title)}</figcaption></figure>"
    )


def console() -> str:
    shown = [panel for panel in panels.panels() if panel.console]
    tiles = "\n".join(console_tile(p) for p in shown if p.kind == "stat")
    charts = "\n".join(console_chart(p) for p in shown if p.kind == "timeseries")
    frame = CONSOLE_FRAME.read_text(encoding="utf-8")
    return frame.replace("<!-- tiles -->", tiles).replace("<!-- charts -->", charts)


def operator_rules() -> str:
    """The rules' groups, unchanged, in a PrometheusRule each."""
    documents = []
    for path in RULES:
        text = path.read_text(encoding="utf-8")
        groups = text[text.index("groups:\n") :].splitlines()
        documents.append("\n".join([
            "apiVersion: monitoring.coreos.com/v1", "kind: PrometheusRule", "metadata:",
            f"  name: nsa-serve-{path.stem}", "spec:",
            *(f"  {line}" if line else "" for line in groups),
        ]))  # fmt: skip
    head = "# Written by deploy/grafana/generate.py from deploy/prometheus.\n"
    return head + "\n---\n".join(documents) + "\n"


def outputs() -> dict[pathlib.Path, str]:
    files = {HERE / f"{d.uid}.json": grafana(d) for d in panels.DASHBOARDS}
    return files | {CONSOLE: console(), OPERATOR_RULES: operator_rules()}


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print(__doc__)
        return 2
    stale = 0
    for path, text in outputs().items():
        if arguments:
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                print(f"{path} is not what panels.py says: run deploy/grafana/generate.py")
                stale = 1
        else:
            path.write_text(text, encoding="utf-8")
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
