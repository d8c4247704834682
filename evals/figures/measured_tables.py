"""Rows of the documentation's tables, from the reports of benchmarks and test suites.

Each function takes a report as read from its file and yields the header, then the body.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

Report = Mapping[str, Any]
Row = Sequence[str]

_BAR = ("", "compared with", "ratio", "bar", "")


def _verdict(reached: bool | None) -> str:
    return {True: "reached", False: "missed", None: ""}[reached]


# Speed ------------------------------------------------------------------------------------


def _bar(bar: Report, of: str | None = None) -> tuple[str, ...]:
    against = bar["against"]
    return (
        of or bar["of"] + (", memory" if bar.get("what") == "memory" else ""),
        f"{against:.0f} s" if isinstance(against, float) else against,
        f"{bar['ratio']:.2f}",
        f"{bar['least']:.2f}",
        _verdict(bar["reached"]),
    )


def _bars(*parts: str) -> Callable[[Report], Iterator[Row]]:
    """The bars of these parts of a benchmark."""

    def make(report: Report) -> Iterator[Row]:
        yield _BAR
        for part in parts:
            yield from map(_bar, report["parts"][part]["bars"])

    return make


def _growth(report: Report) -> Iterator[Row]:
    yield ("more", "work", "exponent", "times as long", "bar", "")
    for name, part in report["parts"].items():
        bars = {bar["of"].split(",")[0]: bar for bar in part["bars"]}
        for work, slope in part.get("exponents", {}).items():
            row = (name.removeprefix("growth of "), work, f"{slope:.2f}")
            if bar := bars.get(work):
                times = (f"{1 / bar['ratio']:.2f}", f"{1 / bar['least']:.2f}")
                yield (*row, *times, _verdict(bar["reached"]))
            else:
                yield (*row, "–", "–", "")


def _members(report: Report) -> Iterator[Row]:
    medians = report["parts"]["members"]["medians"]
    ways = ("side by side", "one after another")
    yield ("adapters", *ways)
    for count in sorted({int(name.split()[0]) for name in medians}):
        if f"{count} {ways[1]}" in medians:
            yield (str(count), *(f"{medians[f'{count} {way}']:.1f} s" for way in ways))


def _speed(report: Report) -> Iterator[Row]:
    yield ("", "first token", "answer", "tokens/s after the first", "same answer as without int8")
    for name, way in report["ways"].items():
        yield (
            name,
            *(f"{1e3 * way[what]:.0f} ms" for what in ("first token", "answer")),
            f"{way['tokens per second']:.1f}",
            f"{way['same']} of {report['prompts']}",
        )


def _speed_bars(*reports: Report) -> Iterator[Row]:
    """A column for each processor."""
    yield ("8-bit weights, times as fast as llama.cpp", "bar", *map(_processor, reports))
    for name, bar in reports[0]["bars"].items():
        found = (report["bars"][name] for report in reports)
        cells = (f"{one['ratio']:.2f} ({_verdict(one['reached'])})" for one in found)
        yield (name, f"{bar['least']:.2f}", *cells)


def _processor(report: Report) -> str:
    names = map(report["hardware"].get, ("processor", "cpu_capability", "dtype"))
    return ", ".join(filter(None, names))


def _throughput(report: Report) -> Iterator[Row]:
    yield ("tokens/s by rows", *next(iter(report["widths"].values())))
    for width, ways in report["widths"].items():
        yield (width, *(f"{way['tokens per second']:.0f}" for way in ways.values()))


def _throughput_bars(report: Report) -> Iterator[Row]:
    yield _BAR
    for bar in report["bars"]:
        yield _bar(bar, f"{bar['of']}, {bar['width']} rows")


def _agreement(report: Report) -> Iterator[Row]:
    yield ("", f"same most likely token, of {report['tokens']:,}", "95 % interval")
    names = {"like bf16": "lean, int8, compared with lean, bf16"}
    for way in ("transformers, bf16", "lean, bf16", "lean, int8", *names):
        share, low, high = (f"{100 * report[way][key]:.1f}" for key in ("agreement", "low", "high"))
        yield (names.get(way, way), f"{share} %", f"{low} to {high} %")


def _banks(report: Report) -> Iterator[Row]:
    yield ("tasks resident", "by arithmetic", "measured", "gather", "answer")
    for bank in report["banks"]:
        yield (
            f"{bank['tasks']:,}",
            *(f"{bank[key] / 1e6:.0f} MB" for key in ("bytes_by_arithmetic", "bytes")),
            f"{1e3 * bank['plan_seconds']:.0f} ms",
            f"{bank['decode_seconds']:.2f} s",
        )


def _swap(report: Report) -> Iterator[Row]:
    swap = report["swap"]
    yield ("cluster", "loaded in", "removed in")
    seconds = (f"{1e3 * swap[key]:.0f} ms" for key in ("add_seconds", "remove_seconds"))
    yield (f"{swap['bytes'] / 1e6:.0f} MB", *seconds)


def _router(report: Report) -> Iterator[Row]:
    yield ("test prompts", "records", "share", "95 % interval")
    for name, key, count in (
        ("right task", "task", "right"),
        ("right cluster", "cluster", "right"),
        ("router is sure", "sure", "sure"),
        ("right task where the router is sure", "task when sure", "right"),
    ):
        part = report[key]
        low, high = (f"{100 * bound:.2f}" for bound in part["interval"])
        records = f"{part[count]:,} of {part['records']:,}"
        yield (name, records, f"{100 * part['share']:.2f} %", f"{low} to {high} %")


def _page_speed(report: Report) -> Iterator[Row]:
    yield ("", "measured", "bar", "")
    for row in report["timings"]:
        bar = f"{row['bar']:.1f} s" if row["bar"] else "–"
        yield (row["name"], f"{row['median']:.2f} s", bar, _verdict(row["reached"]))
    for row in report["memory"]:
        sizes = (f"{row[key] / 1e9:.2f} GB" for key in ("bytes", "bar"))
        yield (row["name"], *sizes, _verdict(row["reached"]))


# Reliability ------------------------------------------------------------------------------


def _reliability(fault: Report, load: Report, fuzz: Report, schema: Report) -> list[Row]:
    answers, seconds, memory = load["answers"], load["seconds"], load["memory"]
    nats, exchanged, reached = load["nats"], load["exchanged"], load["reached"]
    answered = sum(answers[kind] for kind in ("own", "close", "other"))
    errors = {
        name: sum(one["inside"].values()) for name, one in (("fuzz", fuzz), ("schema", schema))
    }
    leaks, failed = (sum(map(len, fuzz[key].values())) for key in ("leaks", "failed"))
    growth = (fuzz["memory"]["peak"] - fuzz["memory"]["before"]) / 1e6
    clean = all(fuzz["reached"][bar] for bar in ("no leaks", "nothing wrong inside", "alive"))
    facts: list[tuple[str, str, str, bool | None]] = [
        ("`make fault`", f"{fault['trials']} trials", f"{fault['passed']} lost nothing", None),
        (
            "`make load`",
            f"{load['users']} users, {load['minutes']:g} minutes",
            f"{answered:,} answers, {answers['lost']} lost, {answers['other']} mixed up",
            reached["nothing lost"] and reached["nothing mixed up"],
        ),
        (
            "",
            f"answers that differ from the one alone, by at most {nats['bar']:g} nats a token",
            f"{answers['close']}, by at most {nats['close']:.2f}; of answers exchanged on purpose, "
            f"{exchanged['found']} of {exchanged['tried']} are detected",
            None,
        ),
        (
            "",
            "wait for an answer",
            f"median {seconds['p50']:.0f} s, p95 {seconds['p95']:.0f} s",
            None,
        ),
        (
            "",
            f"growth of memory once warm, at most {memory['bar']:.0f} MB a minute",
            f"{memory['megabytes_a_minute']:.0f} MB a minute, peak {memory['peak'] / 1e9:.1f} GB",
            reached["memory"],
        ),
        (
            "`make fuzz`",
            f"{fuzz['calls']:,} calls",
            f"{leaks} leaks, {errors['fuzz']} internal errors, {failed} calls without an answer",
            clean,
        ),
        ("", "growth of memory over all calls", f"{growth:.0f} MB", fuzz["reached"]["memory"]),
        (
            "`make schema`",
            f"{schema['calls']:,} calls of {schema['operations']} operations",
            f"{schema['failed']} server errors, {errors['schema']} internal errors",
            all(schema["reached"].values()),
        ),
    ]
    return [("suite", "tried", "found", "bar"), *((*row, _verdict(bar)) for *row, bar in facts)]


def _faults(report: Report) -> Iterator[Row]:
    if report["skipped"] or len(report["outcomes"]) != report["trials"]:
        raise ValueError("faults.json lacks trials: run all of `make fault` again.")
    trials: Iterable[Report] = report["outcomes"]
    tried = Counter(one["fault"] for one in trials)
    kept = Counter(one["fault"] for one in trials if not one["problem"])
    yield ("fault", "trials", "nothing lost")
    yield from ((fault, str(count), str(kept[fault])) for fault, count in tried.items())
    yield ("all", str(tried.total()), str(kept.total()))


REPORTED: Mapping[str, tuple[Callable[..., Iterable[Row]], Sequence[str]]] = {
    "bench": (_bars("decoding", "training", "loop", "experts", "start"), ["bench"]),
    "clusters": (_bars("clusters"), ["bench"]),
    "growth": (_growth, ["bench"]),
    "side_by_side": (_bars("training", "members"), ["side_by_side"]),
    "members": (_members, ["side_by_side"]),
    "speed": (_speed, ["speed"]),
    "speed_avx2": (_speed, ["speed_avx2"]),
    "speed_bars": (_speed_bars, ["speed", "speed_avx2"]),
    "throughput": (_throughput, ["throughput"]),
    "throughput_bars": (_throughput_bars, ["throughput"]),
    "agreement": (_agreement, ["agreement"]),
    "banks": (_banks, ["scaling"]),
    "swap": (_swap, ["scaling"]),
    "router": (_router, ["router"]),
    "page_speed": (_page_speed, ["page_speed"]),
    "reliability": (_reliability, ["faults", "load", "fuzz", "schema"]),
    "faults": (_faults, ["faults"]),
}
"""For each table the function that makes its rows, and the names of its reports."""
