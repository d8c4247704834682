"""Where a run's numbers come from, in few words: what a reader asks before believing them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.runs.run_dir import Run

_AS_THEY_ARE = (
    *("method", "label", "seed", "split", "prompt", "recipe", "learning_rate", "dev_losses"),
    *("trainable_parameters", "total_rank", "active_rank", "training_seconds"),
    *("seconds", "tokens", "peak_memory", "decoding", "created", "code", "versions", "hardware"),
)


def run_facts(run: Run) -> dict[str, Any]:
    """The manifest's facts without its bulk, as JSON values; what it does not say is None.

    `backbone` has name and fingerprint; `data` the name of the source, its hash and, by task, the
    number of records, their hash and the task's version; `adapters` for each the tasks that it
    answered, the hash of its weights, the commit it was trained at, its steps and its dev loss;
    `scores` the main score by task, None before scoring. The others are as in
    `evals.runs.run_dir`, and no folder is named.
    """
    manifest = run.manifest
    data = _mapping(manifest.get("data"))
    versions = _mapping(manifest.get("tasks"))
    return {
        **{name: manifest.get(name) for name in _AS_THEY_ARE},
        "backbone": manifest.get("backbone"),
        "data": {
            "name": data.get("name"),
            "hash": data.get("hash"),
            "tasks": {
                task: {**_mapping(facts), "version": _mapping(versions.get(task)).get("version")}
                for task, facts in _mapping(data.get("tasks")).items()
            },
        },
        "adapters": [_adapter(_mapping(one)) for one in manifest.get("adapters") or ()],
        "scores": None if run.metrics is None else {t: _main(m) for t, m in run.metrics.items()},
    }


def _adapter(found: Mapping[str, Any]) -> dict[str, Any]:
    manifest = _mapping(found.get("manifest"))
    training = _mapping(manifest.get("training"))
    weights = _mapping(_mapping(manifest.get("files")).get("adapter.safetensors"))
    return {
        "tasks": found.get("tasks"),
        "sha256": weights.get("sha256"),
        "code": manifest.get("code"),
        "steps": training.get("steps"),
        "dev_loss": training.get("best_dev_loss"),
    }


def _main(facts: Mapping[str, Any]) -> dict[str, Any]:
    name = facts["main"]
    return {"metric": name, **facts["scores"][name]}


def _mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping: a manifest may come from anybody."""
    return value if isinstance(value, Mapping) else {}
