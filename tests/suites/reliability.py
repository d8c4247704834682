"""The reliability table, from the results of the suites: `python -m tests.suites.reliability`."""

import json
from pathlib import Path
from typing import Any

RESULT_NAMES = ("faults", "load", "fuzz", "schema")
RESULTS = Path(__file__).parents[2] / "assets" / "results"


def rows(results: Path = RESULTS) -> list[str]:
    """A line a suite and bar, as Markdown."""
    fault, load, fuzz, schema = (_read(results / f"{name}.json") for name in RESULT_NAMES)
    answers, seconds, memory = load["answers"], load["seconds"], load["memory"]
    nats, exchanged = load["nats"], load["exchanged"]
    said = sum(answers[kind] for kind in ("own", "close", "other"))
    growth = (fuzz["memory"]["peak"] - fuzz["memory"]["before"]) / 1e6
    facts = [
        ("make fault", fault, f"{fault['trials']} trials", f"{fault['passed']} lost nothing", None),
        (
            "make load",
            load,
            f"{load['users']} users, {load['minutes']:g} minutes",
            f"{said:,} answers, {answers['lost']} lost, {answers['other']} mixed up",
            load["reached"]["nothing lost"] and load["reached"]["nothing mixed up"],
        ),
        (
            "",
            load,
            f"answers that differ from the one alone, by at most {nats['bar']:g} nats a word",
            f"{answers['close']}, by at most {nats['close']:.2f}; exchanged, "
            f"{exchanged['found']} of {exchanged['tried']} would be found",
            None,
        ),
        (
            "",
            load,
            "wait for an answer",
            f"median {seconds['p50']:.0f} s, p95 {seconds['p95']:.0f} s",
            None,
        ),
        (
            "",
            load,
            f"growth once warm, at most {memory['bar']:.0f} MB a minute",
            f"{memory['megabytes_a_minute']:.0f} MB a minute, peak {memory['peak'] / 1e9:.1f} GB",
            load["reached"]["memory"],
        ),
        (
            "make fuzz",
            fuzz,
            f"{fuzz['calls']:,} calls",
            f"{_count(fuzz['leaks'])} leaks, {sum(fuzz['inside'].values())} internal errors, "
            f"{_count(fuzz['failed'])} calls without an answer",
            all(fuzz["reached"][bar] for bar in ("no leaks", "nothing wrong inside", "alive")),
        ),
        ("", fuzz, "growth over all calls", f"{growth:.0f} MB", fuzz["reached"]["memory"]),
        (
            "make schema",
            schema,
            f"{schema['calls']:,} calls of {schema['operations']} operations",
            f"{schema['failed']} server errors, {sum(schema['inside'].values())} internal errors",
            all(schema["reached"].values()),
        ),
    ]
    return [
        f"| {f'`{suite}`' if suite else ''} | {tried} | {found} | {_verdict(reached)} | "
        f"{result['code']['commit'][:7]}, {result['created'][:10]} |"
        for suite, result, tried, found, reached in facts
    ]


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def _count(by_kind: dict[str, list[int]]) -> int:
    return sum(map(len, by_kind.values()))


def _verdict(reached: bool | None) -> str:
    return {True: "reached", False: "missed", None: ""}[reached]


if __name__ == "__main__":
    print("\n".join(rows()))
