"""What `compare` measured, as the text of RESULTS.md: aims that are missed and reached, cells where a peer is ahead, tables."""

import json
import re
import statistics
from pathlib import Path

PROFILES = Path(__file__).resolve().parent / "profiles.md"

# Each server's class of durability, and what an acknowledged append has behind it.
CLASSES = {
    "echo": ("nothing", "hyper on glommio with an empty handler, the floor: it keeps nothing, so that its streams count as wrong"),
    "echo-1core": ("nothing", "the same on one core"),
    "ursula": ("in memory", "memory of the process"),
    "ursula-1core": ("in memory", "memory of the process; one core"),
    "ursula-1024groups": ("in memory", "memory of the process; 1,024 groups"),
    "durable-streams": ("in memory", "page cache"),
    "peer-memory": ("in memory", "its log on a RAM disk, not synced; it has no mode without a log"),
    "npm": ("in memory", "memory of the process"),
    "ursula-fsync": ("fsync", "a log on disk, written and fdatasynced before the answer"),
    "ursula-1core-fsync": ("fsync", "the same; one core"),
    "ursula-1core-dsync": ("fsync", "the same by O_DSYNC; one core"),
    "ursula-hot": ("fsync", "the same by fdatasync; one core, 64 MiB of stream bytes in memory"),
    "durable-streams-wal": ("fsync", "a log on disk, fdatasynced before the answer"),
    "peer-always": ("fsync", "a log on disk, fsynced before the answer"),
    "npm-file": ("fsync", "a file per stream; it answers 404 to appends when it has more than 100 files open"),
    "peer-never": ("not synced", "a log file that nobody synced"),
}
OURS = [name for name in CLASSES if name.startswith("ursula")]

# Who does less must be faster; else one of the figures is wrong.
PAIRS = [("ursula", "ursula-fsync"), ("ursula-1core", "ursula-1core-fsync"), ("ursula-1core", "ursula-1core-dsync"),
         ("durable-streams", "durable-streams-wal"), ("peer-memory", "peer-always"), ("npm", "npm-file")]


def figures(run):
    """What is kept of a run."""
    written = run.get("written_bytes_per_operation")
    return {
        "per_second": run["per_second"],
        "cpu_us": run.get("cpu_us_per_operation"),
        "p50": run["latency_ms"]["p50"],
        "p99": run["latency_ms"]["p99"],
        "bytes": written,
        "errors": run["errors"] + run["violations_count"],
        "extra": run.get("extra", {}),
    }


def summary(runs):
    """Medians of several runs."""
    return middle([figures(run) for run in runs])


def middle(rounds):
    def median(get):
        values = [v for v in (get(r) for r in rounds) if v is not None]
        return statistics.median(values) if values else None

    names = dict.fromkeys(name for r in rounds for name in r["extra"])
    row = {key: median(lambda r, k=key: r[k]) for key in ("per_second", "cpu_us", "p50", "p99", "bytes")}
    row["errors"] = sum(r["errors"] for r in rounds)
    row["extra"] = {name: median(lambda r, n=name: r["extra"].get(n)) for name in names}
    return row


def figure(value):
    if value is None:
        return "–"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(rows):
    lines = ["| server | per second | CPU µs/op | p50 ms | p99 ms | disk B/op | wrong | further |",
             "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |"]
    for (name, label), row in rows.items():
        # Nothing is done while a server is idle.
        if row["per_second"] == 0:
            row = {**row, "per_second": None, "p50": None, "p99": None}
        extra = ", ".join(f"{k.replace('_', ' ')} {figure(v)}" for k, v in row["extra"].items() if v is not None)
        cells = [row["per_second"], row["cpu_us"], row["p50"], row["p99"], row["bytes"]]
        cells = " | ".join(figure(c) for c in cells)
        lines.append(f"| {name} ({label}) | {cells} | {row['errors']} | {extra} |")
    return "\n".join(lines)


class Targets:
    """What was aimed at, and what came out."""

    def __init__(self):
        self.rows = []

    def at_most(self, what, value, bound, unit="", why=None):
        self.add(what, value, "≤", bound, unit, value is not None and bound is not None and value <= bound, why)

    def at_least(self, what, value, bound, unit="", why=None):
        self.add(what, value, "≥", bound, unit, value is not None and bound is not None and value >= bound, why)

    def add(self, what, value, sign, bound, unit, is_met, why=None):
        self.rows.append((is_met, f"| {what} | {sign} {figure(bound)} {unit} | {figure(value)} {unit} |", why))

    def text(self, between=""):
        head = "| what | aim | measured |\n| --- | --- | --- |\n"
        missed = [row for is_met, row, _ in self.rows if not is_met]
        met = [row for is_met, row, _ in self.rows if is_met]
        none = "None.\n"
        return (
            "## Where ursula is behind its aims\n\n" + (head + "\n".join(missed) + "\n" if missed else none) + between
            + "\n## Where it reaches them\n\n" + (head + "\n".join(met) + "\n" if met else none)
        )

    def missed_why(self):
        """What the missed ones have as their cause, each once."""
        return list(dict.fromkeys(why for is_met, _, why in self.rows if not is_met and why))


def ratio(mine, other, key):
    if not mine or not other or not mine[key] or not other[key]:
        return None
    return mine[key] / other[key]


def is_right_pair(memory, fsync):
    """Whether who keeps it in memory is at least as fast and as cheap as who also waits for a disk."""
    return memory["per_second"] >= fsync["per_second"] and (memory["cpu_us"] or 0) <= (fsync["cpu_us"] or 0)


def broken_pairs(sections, connections):
    rows = {}
    for kind in ("memory", "fsync"):
        for key, rounds in sections[f"{kind}-{connections}"]["rows"].items():
            rows[key.split(" | ")[0]] = (key, middle(rounds))
    pairs = [(rows[m], rows[f]) for m, f in PAIRS if m in rows and f in rows]
    return [(m, f) for m, f in pairs if not is_right_pair(m[1], f[1])]


def medians(section):
    """By server the medians of the section's only scenario."""
    return {key.split(" | ")[0]: middle(rounds) for key, rounds in (section or {}).get("rows", {}).items()}


def judge(sections):
    """The aims, and what came out."""
    targets = Targets()
    for connections in (64, 256):
        memory, fsync = (medians(sections.get(f"{kind}-{connections}")) for kind in ("memory", "fsync"))
        if not memory:
            continue
        for name in ("ursula", "ursula-1core"):
            mine, other, floor = memory.get(name), memory.get("durable-streams"), memory.get(name.replace("ursula", "echo"))
            cell = f"{name}, memory, {connections} connections"
            why = "memory"
            targets.at_most(f"{cell}: CPU against durable-streams", ratio(mine, other, "cpu_us"), 1.0, "×", why)
            targets.at_least(f"{cell}: throughput against durable-streams", ratio(mine, other, "per_second"), 1.0, "×", why)
            targets.at_most(f"{cell}: CPU against the floor", ratio(mine, floor, "cpu_us"), 1.6, "×", why)
            growth = (mine or {}).get("extra", {}).get("resident_growth_B/op")
            targets.at_most(f"{cell}: resident growth per append", growth, 340, "B", why)
            mine, other = fsync.get(f"{name}-fsync"), fsync.get("durable-streams-wal")
            cell = f"{name}, fsync, {connections} connections"
            why = "fsync"
            targets.at_most(f"{cell}: CPU against durable-streams", ratio(mine, other, "cpu_us"), 0.7, "×", why)
            targets.at_least(f"{cell}: throughput against durable-streams", ratio(mine, other, "per_second"), 1.3, "×", why)
            targets.at_most(f"{cell}: p99 against durable-streams", ratio(mine, other, "p99"), 0.8, "×", why)
            targets.at_most(f"{cell}: CPU against the floor", ratio(mine, floor, "cpu_us"), 2.2, "×", why)
    steady = medians(sections.get("steady"))
    if steady:
        targets.at_most("disk bytes per append against durable-streams, 256 connections",
                        ratio(steady.get("ursula-fsync"), steady.get("durable-streams-wal"), "bytes"), 0.7, "×", "disk")
    alone = medians(sections.get("one"))
    if alone:
        mine = alone.get("ursula-fsync")
        targets.at_most("one connection, fsync: p50 against durable-streams", ratio(mine, alone.get("durable-streams-wal"), "p50"), 1.0, "×", "one")
        targets.at_most("one connection, fsync: p50 against the other ursula", ratio(mine, alone.get("peer-always"), "p50"), 1.0, "×", "one")
        floor = sections["one"]["disk_ms"] + alone["echo-1core"]["p50"]
        targets.at_most("one connection, fsync: p50 beyond one direct write, fdatasync and an echo", (mine["p50"] - floor) * 1000, 100, "µs", "one")
    live = medians(sections.get("sse"))
    for name in ("ursula", "ursula-1core") if live else ():
        other = live.get("durable-streams")
        targets.at_most(f"{name}, SSE: CPU per delivery against durable-streams", ratio(live.get(name), other, "cpu_us"), 0.6, "×", "sse")
        targets.at_most(f"{name}, SSE: p99 against durable-streams", ratio(live.get(name), other, "p99"), 0.6, "×", "sse")
        targets.at_most(f"{name}, SSE: lost, doubled or out of order", live[name]["errors"], 0, "", "sse")
    replay = medians(sections.get("catchup"))
    if replay:
        mine, other = (replay[n]["extra"].get("MB_per_CPU_second") for n in ("ursula", "durable-streams"))
        targets.at_least("catch-up, MB per CPU second against durable-streams", mine / other, 0.8, "×", "catchup")
    creates = medians(sections.get("create"))
    if creates:
        targets.at_least("creates per second against the other ursula", ratio(creates.get("ursula-fsync"), creates.get("peer-always"), "per_second"), 4.0, "×", "create")
    for key, rounds in sections.get("restart", {}).get("rows", {}).items():
        if key.startswith("ursula-fsync"):
            row, count = rounds[0], key.split(" | ")[1]
            targets.at_most(f"create of {count}, fsync: CPU", row["cpu_us"], 40, "µs", "create")
            targets.at_most(f"resident bytes per idle stream, {count}", row["extra"].get("resident_B/stream"), 512, "B", "density")
            targets.at_most(f"restart to first read, {count}", row["extra"]["restart_to_first_read_s"], 5, "s", "density")
    hot = medians(sections.get("hot")).get("ursula-hot")
    if hot:
        # 340 bytes for each append of 256 that is in memory, and what is under way to packs.
        grown = hot["extra"]["resident_growth_B/op"] * hot["extra"]["MB_in_all"] / 256
        targets.at_most(f"resident growth while {hot['extra']['MB_in_all']:,.0f} MB are appended through 64 MiB of hot bytes", grown,
                        64 * 1.048576 * 340 / 256, "MB", "hot")
    idle = medians(sections.get("idle")).get("ursula-1024groups")
    if idle:
        targets.at_most("idle, 1,024 groups, 100,000 streams: share of a core", idle["extra"].get("core_%"), 1.0, "%", "idle")
    return targets


def profiles(keys):
    """What benches/profiles.md says of the causes of missed aims."""
    text = PROFILES.read_text() if PROFILES.exists() else ""
    parts = dict(re.findall(r"^## ([^\s:]+)[^\n]*\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    titles = dict(re.findall(r"^## ([^\s:]+): ([^\n]*)\n", text, re.M))
    lines = ["\n### Why: what the profiles show\n"] if keys else []
    for key in keys:
        body = parts.get(key, "No profile was taken.").strip()
        lines.append(f"#### {titles.get(key, key)}\n\n{body}\n")
    return "\n".join(lines)


LESS_IS_BETTER = {"per_second": False, "cpu_us": True, "p50": True, "p99": True, "bytes": True}
SHOWN = {"per_second": "per second", "cpu_us": "CPU µs/op", "p50": "p50 ms", "p99": "p99 ms", "bytes": "disk B/op"}


def others_of(names, mine):
    """Servers of the same class; a peer without one of its class is compared as it is."""
    return [n for n in names if n not in OURS and not n.startswith("echo")
            and (CLASSES[n][0] == CLASSES[mine][0] or CLASSES[n][0] == "not synced")]


def losses(sections):
    """Cells in which a peer is ahead."""
    lines = []
    for section in sections.values():
        rows = {tuple(key.split(" | ")): middle(rounds) for key, rounds in section["rows"].items()}
        for (mine, label), row in rows.items():
            if mine not in ("ursula", "ursula-fsync"):
                continue
            peers = {n: r for (n, l), r in rows.items() if l == label and n in others_of([n], mine) and r["errors"] == 0}
            for key, is_less in LESS_IS_BETTER.items():
                # At a fixed rate nobody is faster; bytes in memory are none.
                known = {n: r[key] for n, r in peers.items() if r[key]}
                if not known or not row[key] or (key == "per_second" and ("/s" in label or "live" in label)):
                    continue
                best = (min if is_less else max)(known, key=known.get)
                if (row[key] > known[best]) if is_less else (row[key] < known[best]):
                    lines.append(f"| {section['title']} ({label}) | {SHOWN[key]} | {mine} {figure(row[key])} | {best} {figure(known[best])} "
                                 f"| {row[key] / known[best]:.2f} × |")
    head = "| cell | figure | ursula | best peer | ratio |\n| --- | --- | ---: | ---: | ---: |\n"
    return "## Cells where a peer is ahead\n\n" + (head + "\n".join(lines) if lines else "None.") + "\n"


def ratios(rows):
    """Ratios of ours to peers round by round: the middle one, the lowest and the highest."""
    lines = []
    for key, rounds in rows.items():
        mine, label = key.split(" | ")
        if mine not in OURS:
            continue
        for other_key, others in rows.items():
            other, other_label = other_key.split(" | ")
            if other_label != label or other not in others_of([other], mine):
                continue
            cells = []
            for figure_key in LESS_IS_BETTER:
                found = [m[figure_key] / o[figure_key] for m, o in zip(rounds, others) if m[figure_key] and o[figure_key]]
                spread = f" ({min(found):.2f}–{max(found):.2f})" if len(found) > 1 else ""
                cells.append(f"{statistics.median(found):.2f}{spread}" if found else "–")
            lines.append(f"| {mine} / {other} | {label} | {' | '.join(cells)} |")
    if not lines:
        return ""
    return ("\n| ratio | scenario | per second | CPU µs/op | p50 | p99 | disk B/op |\n| --- | --- | ---: | ---: | ---: | ---: | ---: |\n"
            + "\n".join(lines) + "\n")


def withhold(sections):
    """Takes out pairs in which who does less was slower, measured again and again; says why."""
    lines = []
    for connections in (64, 256):
        if f"memory-{connections}" not in sections or f"fsync-{connections}" not in sections:
            continue
        for (memory_key, memory), (fsync_key, fsync) in broken_pairs(sections, connections):
            m, f = (key.split(" | ")[0] for key in (memory_key, fsync_key))
            lines.append(f"- {m} and {f}, {connections} connections: {figure(memory['per_second'])} appends/s at {figure(memory['cpu_us'])} µs "
                         f"in memory, {figure(fsync['per_second'])} at {figure(fsync['cpu_us'])} µs with fsync, measured three times.")
            for kind, key in (("memory", memory_key), ("fsync", fsync_key)):
                sections[f"{kind}-{connections}"]["rows"].pop(key, None)
    if not lines:
        return "In every pair, what is kept in memory was at least as fast and as cheap as what is synced.\n"
    return ("## Not published\n\nWho keeps an append in memory does less than who also syncs it, so that one figure of such a pair is wrong:\n\n"
            + "\n".join(lines) + "\n")


def text_of(sections, machine):
    sections = json.loads(json.dumps(sections))
    order = ["memory-64", "fsync-64", "memory-256", "fsync-256", "one", "steady", "rate", "rate-memory", "sse", "catchup", "mixed",
             "create", "restart", "hot", "idle"]
    sections = {key: sections[key] for key in order if key in sections}
    held = withhold(sections)
    targets = judge(sections)
    used = {name: shown for section in sections.values() for name, shown in section["servers"].items()}
    commits = sorted({section["commit"] for section in sections.values()})
    text = [
        "# Measured side by side\n",
        "Written by `benches/compare`. All servers ran on one machine, in turns, with the load generator beside them; the "
        "figures are medians of the turns. CPU µs/op is user and system time of the server per operation, which holds from "
        "run to run within some 20 %; throughput on such a machine holds only within a factor of two.\n",
        f"Machine: {machine}; ursula at {', '.join(commits)}\n",
        targets.text(profiles(targets.missed_why())),
        losses(sections),
        held,
        "## What an acknowledged append has behind it\n\n| server | class | behind an acknowledged append |\n| --- | --- | --- |\n"
        + "\n".join(f"| {name} | {CLASSES[name][0]} | {CLASSES[name][1]} |" for name in CLASSES if name in used) + "\n",
    ]
    for section in sections.values():
        text.append(f"## {section['title']}\n")
        if section["note"]:
            text.append(section["note"] + "\n")
        rows = {tuple(key.split(" | ")): middle(rounds) for key, rounds in section["rows"].items()}
        text.append(table(rows) + "\n" + ratios(section["rows"]))
        if section["plot"]:
            text.append(f"![latency against rate](plots/{section['plot']})\n")
        text += [f"`{command}`\n" for command in section["loads"]]
    text.append("## Commands of the servers\n")
    text += [f"- {name}: `{shown}`" for name, shown in used.items()]
    return "\n".join(text) + "\n"
