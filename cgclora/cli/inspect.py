"""`python -m cgclora inspect`: what an adapter is, without a backbone."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HELP = """Show what an adapter is: sizes, ranks, where it comes from, and how much of each task's
gate goes to common and to specific experts. Needs no backbone.

  python -m cgclora inspect assets/adapters/medical"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.add_argument("adapter", type=Path, help="adapter folder")
    parser.add_argument("--json", action="store_true", help="the same for machines")


def execute(options: argparse.Namespace) -> None:
    """Run the command."""
    from cgclora.inference.runtime import decoding_here
    from cgclora.models.gates import read_gates
    from cgclora.storage.adapter_dir import read_manifest

    manifest, config = read_manifest(options.adapter)
    gates = read_gates(options.adapter).mean(dim=0)
    shares = {
        task: {
            "common": float(row[: config.common].sum() / row.sum()),
            "specific": float(row[config.common :].sum() / row.sum()),
        }
        for task, row in zip(config.tasks, gates, strict=True)
    }
    if options.json:
        facts = {
            "manifest": manifest,
            "config": config.to_dict(),
            "gate_shares": shares,
            "decoding": decoding_here(),
        }
        print(json.dumps(facts, ensure_ascii=False))
        return
    print(_describe(manifest, config, shares, decoding_here()))


def _describe(
    manifest: Mapping[str, Any],
    config: Any,
    shares: Mapping[str, Mapping[str, float]],
    decoding: str,
) -> str:
    training = manifest.get("training", {})
    facts = {
        "backbone": f"{manifest['backbone'].get('name') or 'unnamed'} "
        f"({manifest['backbone']['fingerprint'][:12]})",
        "experts": f"{config.common} common + {config.specific} x {len(config.tasks)} specific, "
        f"rank {config.expert_rank} each",
        "gate": f"{config.gate}, one a {config.gate_scope}",
        "rank": f"{config.total_rank} total, {config.active_rank} active",
        "trainable": f"{manifest['trainable_parameters']:,} parameters",
        "created": manifest.get("created", "unknown"),
        "commit": manifest.get("code", {}).get("commit", "unknown"),
        "dev loss": training.get("best_dev_loss", "unknown"),
        "licence": manifest.get("licence", "not stated"),
        "answers": decoding,
    }
    if "only" in training:
        facts["dev loss"] = f"{facts['dev loss']} of {', '.join(training['only'])}"
    if origin := manifest.get("origin"):
        facts["origin"] = _origin(origin)
    lines = [f"{name:<10} {value}" for name, value in facts.items()]
    width = max(len(task) for task in shares)
    lines += ["", f"{'task':<{width}}  common  specific"]
    lines += [
        f"{task:<{width}}  {share['common']:6.1%}  {share['specific']:8.1%}"
        for task, share in shares.items()
    ]
    lines += _score_lines(manifest.get("classification", {}).get("tasks", {}))
    return "\n".join(lines)


def _origin(origin: Mapping[str, Any]) -> str:
    """What `add-task` or `drop-task` made of which adapter."""
    parent = origin["sha256"][:12]
    if added := origin.get("added"):
        return f"{', '.join(added)} added to {parent}"
    return f"{', '.join(origin.get('dropped', ()))} dropped from {parent}"


def _score_lines(tasks: Mapping[str, Any]) -> list[str]:
    """The table of accuracies that `python -m evals classification --write` left, if it did."""
    if not tasks:
        return []
    methods = [name for name in next(iter(tasks.values())) if name != "records"]
    rows = [("accuracy (95 % interval)", *methods)]
    for task, scores in tasks.items():
        cells = [
            f"{scores[method]['accuracy']:.3f} ({low:.3f}-{high:.3f})"
            for method in methods
            for low, high in [scores[method]["interval"]]
        ]
        rows.append((f"{task}, {scores['records']} records", *cells))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["", *("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)]
