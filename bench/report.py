"""Turns the numbers of a run into docs/benchmarks.md, docs/benchmarks/results.json and bar charts."""

import json
import statistics
from html import escape
from pathlib import Path

# metric, what it is, unit, decimals, target as a bound: ("ratio" to the base or "value", comparison, bound)
METRICS = [
    ("bulk", "one download", "Gbit/s", 2, ("ratio", ">=", 1.5)),
    ("cpu", "processor time of both ends for one GB", "s", 2, ("ratio", "<=", 0.6)),
    ("p50", "small GET through a fresh connection, median", "ms", 3, ("ratio", "<=", 0.9)),
    ("p99", "the same, 99th percentile", "ms", 3, ("ratio", "<=", 1.0)),
    ("page80", "80 GETs at once", "ms", 1, ("ratio", "<=", 0.9)),
    ("burst2000", "2,000 GETs at once", "s", 3, ("ratio", "<=", 1.0)),
    ("burst2000_failed", "of these failed", "", 0, ("value", "<=", 0)),
    ("rate", "new connections a second, 32 at a time, one GET each", "", 0, ("ratio", ">=", 1.2)),
    ("held1000", "memory of both ends with 1,000 open idle connections", "MiB", 1, ("ratio", "<=", 1.0)),
    ("idle", "memory of both ends, idle", "MiB", 1, ("value", "<=", 24)),
    ("first_byte", "first byte of a page after the start of `exit try`, round trip 50 ms, by SOCKS5", "ms", 0, ("value", "<=", 200)),
    ("first_byte_http", "the same, by HTTP through the same port", "ms", 0, ("value", "<=", 200)),
    ("line_steady", "download over 100 ms and 1 Gbit/s, after 4 s", "Gbit/s", 3, ("value", ">=", 0.9)),
    ("line_whole", "the same, with the start", "Gbit/s", 3, None),
    ("handshakes", "full handshakes a second, the client beside it", "", 0, ("value", ">=", 2500)),
    ("garbage", "a download slowed by garbage handshakes at full speed, against the same load on another port", "", 2, ("value", "<", 0.2)),
    ("garbage_all", "the same, against an idle machine (the load takes its own share of the processors)", "", 2, None),
    ("sessions10000", "memory of the node with 10,000 idle sessions", "MiB", 0, ("value", "<=", 400)),
]
SIGN = {">=": "≥", "<=": "≤", "<": "<"}
CHARTS = [
    ("bulk", "One download", "Gbit/s, more is better"),
    ("cpu", "Processor time for one GB, both ends", "seconds, less is better"),
    ("p50", "Small GET, median", "milliseconds, less is better"),
    ("p99", "Small GET, 99th percentile", "milliseconds, less is better"),
    ("page80", "80 GETs at once", "milliseconds, less is better"),
    ("burst2000", "2,000 GETs at once", "seconds, less is better"),
    ("rate", "New connections a second", "more is better"),
    ("held1000", "Memory with 1,000 open connections, both ends", "MiB, less is better"),
    ("line_steady", "Download over 100 ms and 1 Gbit/s", "Gbit/s, more is better"),
    ("first_byte", "First byte after the start, round trip 50 ms", "milliseconds, less is better"),
]


def median(results, metric, peer):
    values = results["values"].get(metric, {}).get(peer)
    # A failure in any round counts.
    return None if not values else max(values) if metric.endswith("failed") else statistics.median(values)


def ratio(results, metric):
    """Median of the ratios within each round, so that what slows the whole machine for a while slows both."""
    ours, base = (results["values"].get(metric, {}).get(results[who], []) for who in ("ours", "base"))
    pairs = [a / b for a, b in zip(ours, base) if b]
    return statistics.median(pairs) if pairs else None


def verdict(results, metric, target):
    """(what it is, what it should be, whether it is) as text; the last None where nothing was measured."""
    if target is None:
        return None
    kind, sign, bound = target
    value = ratio(results, metric) if kind == "ratio" else median(results, metric, results["ours"])
    wanted = f"{SIGN[sign]} {bound:,g}" + ("×" if kind == "ratio" else "")
    if value is None:
        return "–", wanted, None
    held = value >= bound if sign == ">=" else value <= bound if sign == "<=" else value < bound
    return (f"{value:.2f}×" if kind == "ratio" else f"{value:,.4g}"), wanted, held


def number(value, decimals):
    return "–" if value is None else f"{value:,.{decimals}f}"


def peers_in(results, metrics):
    order = ["direct", results["ours"], *results["versions"]]
    seen = {peer for metric in metrics for peer in results["values"].get(metric, {})}
    return [peer for peer in dict.fromkeys(order) if peer in seen]


def table(rows):
    head, *rest = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] + ["---:"] * (len(head) - 1), *rest])


def targets(results):
    rows = [["what", "is", "should be", "met"]]
    for metric, title, unit, _, target in METRICS:
        found = verdict(results, metric, target)
        if found:
            value, wanted, held = found
            unit = unit if target[0] == "value" else ""
            rows.append([title, f"{value} {unit}".strip(), f"{wanted} {unit}".strip(), {True: "yes", False: "**no**", None: "not measured"}[held]])
    return table(rows)


def figures(results):
    names = peers_in(results, [metric for metric, *_ in METRICS])
    rows = [["median of the rounds", *names]]
    for metric, title, unit, decimals, _ in METRICS:
        values = [median(results, metric, peer) for peer in names]
        if any(value is not None for value in values):
            rows.append([f"{title} ({unit})" if unit else title, *(number(value, decimals) for value in values)])
    return table(rows)


def summary(results):
    return targets(results) + "\n\n" + figures(results)


def chart(results, metric, title, unit):
    """Horizontal bars; ours in another colour. Plain SVG with its own ground, so it reads in light and dark alike."""
    names = peers_in(results, [metric])
    values = [median(results, metric, peer) for peer in names]
    top, bar, gap, left, width = 62, 26, 12, 200, 720
    height = top + len(names) * (bar + gap) + 14
    longest = max(values) or 1
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(title)}" font-family="system-ui, sans-serif">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="16" y="28" font-size="17" font-weight="600" fill="#1b1f24">{escape(title)}</text>',
        f'<text x="16" y="48" font-size="12" fill="#57606a">{escape(unit)}</text>',
    ]
    for row, (name, value) in enumerate(zip(names, values)):
        y = top + row * (bar + gap)
        length = max(value / longest * (width - left - 90), 1)
        colour = "#0a7d5a" if name == results["ours"] else "#9aa4af"
        parts.append(f'<text x="{left - 10}" y="{y + 18}" font-size="13" text-anchor="end" fill="#1b1f24">{escape(name)}</text>')
        parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar}" rx="3" fill="{colour}"/>')
        parts.append(f'<text x="{left + length + 8:.1f}" y="{y + 18}" font-size="13" fill="#1b1f24">{value:,.4g}</text>')
    return "\n".join([*parts, "</svg>", ""])


def write(results, out):
    out = Path(out)
    folder = out / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    for old in folder.glob("*.svg"):
        old.unlink()
    pictures = []
    for metric, title, unit in CHARTS:
        if results["values"].get(metric):
            (folder / f"{metric}.svg").write_text(chart(results, metric, title, unit))
            pictures.append(f"![{title}](benchmarks/{metric}.svg)")
    (out / "benchmarks.md").write_text(page(results, pictures))


# Why a target may be missed, for those where that is known.
REASONS = {
    "first_byte": "The answer of SOCKS5 costs a round trip because it is the truth; see *First byte* below.",
    "p50": "A small GET is mostly system calls and switches between processes: nine switches for each GET, seven for shadowsocks, "
    "which answers SOCKS before it knows.",
}


def missed(results):
    found = [metric for metric, *_, target in METRICS if (verdict(results, metric, target) or (0, 0, True))[2] is False]
    return "".join(REASONS[metric] + "\n" for metric in found if metric in REASONS)


def page(results, pictures):
    m = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items() if version)
    missing = "\n".join(f"- {line}" for line in results["not_measured"]) or "Nothing."
    return f"""# Benchmarks

Written by `ci/bench` on {m["day"]}; do not edit. Everything below was measured in one run, on one machine with {m["cores"]} cores and
{m["memory_gib"]} GiB (Linux {m["kernel"]}), {results["rounds"]} rounds, each peer once a round in changing order. Client, both ends of the proxy and the web server
share the machine. Versions: {versions}.

TCP congestion control is what `sysctl net.ipv4.tcp_congestion_control` says, here `{m["congestion"]}`, for everyone alike. It matters: on
loopback bbr costs between a quarter and a half against cubic or reno.

## Against the targets

Ratios are portdistrict (`exit connect` and a node, encrypted) against {results["base"]} (`ss-local` and `ss-server`), the median of
the ratios within each round.

{targets(results)}

{missed(results)}
## All figures

{figures(results)}

microsocks and dante are one hop without encryption, for orientation: what a proxy costs at the least.

{chr(10).join(pictures)}

## How it is measured

- *One download*: {results["bulk_bytes"] / 2**30:.0f} GiB of random bytes from memory over one connection. Processor time is user and system time of all processes
  of both ends, from `/proc/PID/stat`; the web server and the client do not count.
- *Small GET*: 512 bytes, one after the other, each through a fresh SOCKS connection, from before its `connect` to its last byte.
- *80 and 2,000 at once*: that many fresh SOCKS connections started together, until the last has its answer.
- *Memory*: resident set (RSS) of both ends, freshly started, after 20 requests.
- *A line of N ms*: two network namespaces and a user-space line between them (`examples/pd-link.rs`) with that round trip, 1 Gbit/s each way,
  a queue of one bandwidth-delay product, no loss, and socket buffers of up to 64 MiB for everyone (`tcp_rmem`, `tcp_wmem`).
- *First byte*: from the start of the program (`exit try`; the peers already run) to the first byte of the page. A round trip each for TCP, for the
  handshake, for opening the destination, and for the page: by SOCKS5 that is four, since its answer says whether the destination was reached, and
  it is not given before that is known. By HTTP the request travels with the opening, which saves one. Peers that answer first and fail later save it, too.
- *Garbage*: connections with 600 random bytes each to the node's port, 64 at a time as fast as they are taken, during a download. The load needs processors too,
  so the download is also measured under the same load on a port that only reads.

## Not measured

{missing}
"""
