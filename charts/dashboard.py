"""Write charts/linkseal/dashboards/linkseal.json, Grafana's dashboard: `python charts/dashboard.py`.

It asks only for metrics of docs/metrics.md, and for the label `node`, which the chart's PodMonitor gives to all series.
Where a figure is not known there is "No data" and never a zero: an empty answer must not look like a good one.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    LegendDisplayMode,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    DataTransformerConfig,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FILE = Path(__file__).with_name("linkseal") / "dashboards" / "linkseal.json"

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

SILENT = 300
"""Seconds; ten reports and scrapes of the chart's default interval that did not come."""

WIDTH = 24
"""Columns of Grafana's grid."""

LETTERS = "ABC"
"""What Grafana calls the queries of a panel."""


class Query(NamedTuple):
    """One question; `legend` is what its series are called."""

    expr: str
    legend: str


class Figure(NamedTuple):
    """One number as it is now; `zero`: it should be that, and is red if not."""

    title: str
    help: str
    expr: str
    zero: bool = True


class Graph(NamedTuple):
    """Series over time."""

    title: str
    help: str
    queries: tuple[Query, ...]
    unit: str = "short"
    stacked: bool = False


class Listing(NamedTuple):
    """What there is now, a line each."""

    title: str
    help: str
    expr: str


def of(metric: str, matcher: str = "") -> str:
    """Return a metric's selector, of the nodes that were chosen."""
    return metric + "{" + ",".join(filter(None, ['node=~"$node"', matcher])) + "}"


def rate(metric: str, matcher: str = "") -> str:
    """Return how fast a counter rises, per second."""
    return f"rate({of(metric, matcher)}[$__rate_interval])"


def worst(expr: str) -> tuple[Query, ...]:
    """Return a question for the ten nodes with most of it."""
    return (Query(f"topk(10, {expr})", "{{node}}"),)


def each(label: str, expr: str) -> tuple[Query, ...]:
    """Return a question for the sum by one label."""
    return (Query(f"sum by ({label}) ({expr})", "{{" + label + "}}"),)


EXPECTED = of("linkseal_links_expected")
SEALED = of("linkseal_links", 'state="sealed"')
REPORTED = of("linkseal_report_time_seconds")
PACKETS = "linkseal_plaintext_packets_total"
NOT_EXEMPT = 'reason!="exempt"'
SERIAL = of("linkseal_policy_serial")
PASSES = rate("linkseal_reconcile_duration_seconds_bucket")

AT_A_GLANCE = (
    Figure("Nodes that report", "Nodes whose agents are scraped now.", f"count({REPORTED})", zero=False),
    Figure(
        "Nodes gone silent",
        "Nodes that reported within the last hour, and not for five minutes. The other panels know nothing of them.",
        f"sum(time() - max by (node) (last_over_time({REPORTED}[1h])) > bool {SILENT})",
    ),
    Figure(
        "Links not sealed",
        "Links that should be encrypted and are not proven to be, of the nodes that report.",
        f"sum({EXPECTED}) - sum({SEALED})",
    ),
    Figure(
        "Plaintext that passed, 1 h",
        "Packets outside the tunnels that were counted and let go, without those that an exemption lets through.",
        "ceil(sum(increase(" + of(PACKETS, 'verdict="counted",reason!="exempt"') + "[1h])))",
    ),
    Figure(
        "Plaintext seen by verify",
        "Peers towards which verify found plaintext on the wire.",
        "sum(" + of("linkseal_verify_results", 'result="leaked"') + ")",
    ),
    Figure("Guards lifted", "Nodes whose guard break-glass lifts.", f"sum({of('linkseal_break_glass')})"),
    Figure("Guards not whole", "Nodes where a part of it is missing.", f"sum(1 - {of('linkseal_guard_whole')})"),
    Figure(
        "Errors",
        "Findings of severity error that show now.",
        "sum(" + of("linkseal_findings", 'severity="error"') + f") or sum({of('linkseal_ready')}) * 0",
    ),
)

LINKS = (
    Graph(
        "Links by state",
        "Sealed: proven to encrypt both ways, and traffic is led there.",
        each("state", of("linkseal_links")),
        stacked=True,
    ),
    Graph(
        "Nodes with most links not sealed",
        "Nothing is drawn where all is sealed.",
        worst(f"sum by (node) ({EXPECTED}) - sum by (node) ({SEALED}) > 0"),
    ),
    Graph(
        "Nodes by stage",
        "While the cluster walks there are two.",
        each("stage", of("linkseal_stage")),
        stacked=True,
    ),
    Graph(
        "Oldest handshake",
        "WireGuard makes a new one every two minutes while there is traffic, and a probe sees to it that there is.",
        worst(f"max by (node) ({of('linkseal_oldest_handshake_age_seconds')})"),
        unit="s",
    ),
)

PLAINTEXT = (
    Graph(
        "Packets outside the tunnels",
        "unknown: the peer has no agent. unproven: the link is not proven. bypass: it is, and they passed it by.",
        (
            Query(
                f"sum by (direction, reason, verdict) ({rate(PACKETS, NOT_EXEMPT)}) > 0",
                "{{direction}} {{reason}} {{verdict}}",
            ),
        ),
        unit="pps",
    ),
    Graph(
        "Nodes with most of them",
        "Counted or dropped, without those that an exemption lets through.",
        worst(f"sum by (node) ({rate(PACKETS, NOT_EXEMPT)}) > 0"),
        unit="pps",
    ),
    Graph(
        "Packets let through by exemptions",
        "An exemption that nothing uses can go.",
        each("direction", rate("linkseal_exemption_packets_total")),
        unit="pps",
    ),
    Graph(
        "Peers by result of verify",
        "Of the last verification of each node.",
        each("result", of("linkseal_verify_results")),
        stacked=True,
    ),
)

KEYS = (
    Graph(
        "Age of the live key",
        "Of the generation that carries the traffic.",
        worst("max by (node) (" + of("linkseal_key_age_seconds", 'state="live"') + ")"),
        unit="s",
    ),
    Graph(
        "Nodes behind the policy",
        "The newest policy is the newest by which one of these nodes acts.",
        (
            Query(f"sum({SERIAL} < bool scalar(max({SERIAL})))", "act by an older one"),
            Query(f"sum(1 - {of('linkseal_policy_applied')})", "kernel is not as it wants"),
        ),
    ),
)

AGENTS = (
    Graph(
        "Duration of passes",
        "From the look at the kernel to the last write.",
        tuple(
            Query(f"histogram_quantile({part}, sum by (le) ({PASSES}))", f"p{part * 100:.0f}") for part in (0.5, 0.99)
        ),
        unit="s",
    ),
    Graph(
        "Failed passes, and what was put back",
        "Put back: what others had changed of ours in the kernel.",
        (
            *each("kind", rate("linkseal_reconcile_errors_total")),
            Query(f"sum({rate('linkseal_drift_healed_total')})", "put back"),
        ),
        unit="ops",
    ),
    Listing(
        "Findings",
        "What each code means, and its fix: `linkseal check`.",
        f"sum by (node, code, severity) ({of('linkseal_findings')}) > 0",
    ),
    Listing(
        "Versions",
        "Nodes by the version of agent and kernel, and the driver.",
        f"count by (version, kernel, driver) ({of('linkseal_build_info')})",
    ),
)

ROWS: tuple[tuple[str, tuple[Graph | Listing, ...]], ...] = (
    ("Links", LINKS),
    ("Plaintext", PLAINTEXT),
    ("Keys and policy", KEYS),
    ("Agents", AGENTS),
)


def questions() -> dict[str, str]:
    """Return all queries by their panel's title and letter."""
    panels: list[Figure | Graph | Listing] = [*AT_A_GLANCE, *(panel for _, row in ROWS for panel in row)]
    found: dict[str, str] = {}
    for panel in panels:
        exprs = [query.expr for query in panel.queries] if isinstance(panel, Graph) else [panel.expr]
        found |= {f"{panel.title} {letter}": expr for letter, expr in zip(LETTERS, exprs, strict=False)}
    return found


def target(letter: str, expr: str) -> prometheus.Dataquery:
    """Return a question as panels ask it."""
    return prometheus.Dataquery().ref_id(letter).expr(expr).datasource(SOURCE)


def figure(panel: Figure) -> stat.Panel:
    """Return it, asked for now: the last known value of a range would be shown as if it were so still."""
    steps = [Threshold(value=None, color="green"), *([Threshold(value=1, color="red")] if panel.zero else [])]
    return (
        stat.Panel()
        .title(panel.title)
        .description(panel.help)
        .datasource(SOURCE)
        .decimals(0)
        .color_mode(BigValueColorMode.BACKGROUND)
        .graph_mode(BigValueGraphMode.NONE)
        .thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(target("A", panel.expr).instant())
        .span(WIDTH // len(AT_A_GLANCE))
        .height(4)
    )


def graph(panel: Graph) -> timeseries.Panel:
    """Return two of them to a line."""
    made = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.help)
        .datasource(SOURCE)
        .unit(panel.unit)
        .min(0)
        .legend(common.VizLegendOptions().show_legend(show_legend=True).display_mode(LegendDisplayMode.LIST))
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .span(WIDTH // 2)
        .height(8)
    )
    if panel.stacked:
        made = made.fill_opacity(30).stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    for letter, query in zip(LETTERS, panel.queries, strict=False):
        made = made.with_target(target(letter, query.expr).legend_format(query.legend).range())
    return made


def listing(panel: Listing) -> table.Panel:
    """Return it without the time of the question, which is the same in every line."""
    return (
        table.Panel()
        .title(panel.title)
        .description(panel.help)
        .datasource(SOURCE)
        .with_target(target("A", panel.expr).instant().format(PromQueryFormat.TABLE))
        .with_transformation(DataTransformerConfig(id_val="organize", options={"excludeByName": {"Time": True}}))
        .span(WIDTH // 2)
        .height(8)
    )


def board() -> dashboard.Dashboard:
    """The dashboard; its `uid` stays the same, so that a new version takes the place of the old one."""
    source = dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
    node = (
        dashboard.QueryVariable("node")
        .label("Node")
        .datasource(SOURCE)
        .query("label_values(linkseal_report_time_seconds, node)")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(multi=True)
        .include_all(include_all=True)
        .all_value(".*")
        .current(VariableOption(selected=True, text=["All"], value=["$__all"]))
    )
    made = (
        dashboard.Dashboard("Linkseal")
        .uid("linkseal")
        .tags(["linkseal", "kubernetes", "encryption"])
        .time("now-6h", "now")
        .refresh("1m")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(source)
        .with_variable(node)
    )
    for one in AT_A_GLANCE:
        made = made.with_panel(figure(one))
    for title, panels in ROWS:
        made = made.with_row(dashboard.Row(title))
        for panel in panels:
            made = made.with_panel(graph(panel) if isinstance(panel, Graph) else listing(panel))
    return made


def text() -> str:
    """Return the file."""
    return JSONEncoder(sort_keys=True, indent=2).encode(board().build()) + "\n"


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(text(), encoding="utf-8")
