"""`python -m cgclora inspect`: what an adapter is, without a backbone."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cgclora.cli.common import aligned, show

HELP = """Show what an adapter is: sizes, ranks, where it comes from, and how much of each task's
gate goes to common and to specific experts. Needs no backbone.

  python -m cgclora inspect assets/adapters/medical"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.add_argument("adapter", type=Path, help="adapter folder or hub id")
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
    decoding = decoding_here(manifest["backbone"].get("model_type", "gemma3_text"))
    facts = {
        "manifest": manifest,
        "config": config.to_dict(),
        "gate_shares": shares,
        "decoding": decoding,
    }
    show(facts, _describe(manifest, config, shares, decoding), options)


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
        f"rank {config.expert_rank} each{', one A' if config.shared_A else ''}",
        "gate": f"{config.gate}, one a {config.gate_scope}",
        "rank": f"{config.total_rank} total, {config.active_rank} active",
        "trainable": f"{manifest['trainable_parameters']:,} parameters",
        "created": manifest.get("created", "unknown"),
        "commit": manifest.get("code", {}).get("commit", "unknown"),
        "dev loss": training.get("best_dev_loss", "unknown"),
        **({"dev score": training["best_dev_score"]} if "best_dev_score" in training else {}),
        "licence": manifest.get("licence", "not stated"),
        "answers": decoding,
    }
    if hub := manifest.get("hub"):
        facts["hub"] = f"{hub['repo']}@{hub['revision'][:12]}"
    if "only" in training:
        facts["dev loss"] = f"{facts['dev loss']} of {', '.join(training['only'])}"
    if origin := manifest.get("origin"):
        change = "added to" if origin.get("added") else "dropped from"
        tasks = origin.get("added") or origin.get("dropped", ())
        facts["origin"] = f"{', '.join(tasks)} {change} {origin['sha256'][:12]}"
    lines = [f"{name:<10} {value}" for name, value in facts.items()]
    width = max(len(task) for task in shares)
    lines += ["", f"{'task':<{width}}  common  specific"]
    lines += [
        f"{task:<{width}}  {share['common']:6.1%}  {share['specific']:8.1%}"
        for task, share in shares.items()
    ]
    lines += _score_lines(manifest.get("classification", {}).get("tasks", {}))
    return "\n".join(lines)


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
    return ["", *aligned(rows)]
