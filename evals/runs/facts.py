"""A summary of a run's manifest: the provenance of its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.runs.run_dir import Run

_COPIED = (
    *("method", "label", "seed", "split", "prompt", "recipe", "learning_rate", "dev_losses"),
    *("trainable_parameters", "total_rank", "active_rank", "training_seconds"),
    *("seconds", "tokens", "peak_memory", "decoding", "created", "code", "versions", "hardware"),
)


def run_facts(run: Run) -> dict[str, Any]:
    """A short form of the manifest as JSON values, without paths; missing facts are None.

    `backbone` has name and fingerprint; `data` the source's name, its hash and, by task, number and
    hash of the records and the task's version; `adapters` for each its tasks, the hash of its
    weights, the commit of its training, its steps and dev loss; `scores` the main score by task,
    None before scoring. The other fields are as in `evals.runs.run_dir`.
    """
    manifest = run.manifest
    data = _mapping(manifest.get("data"))
    versions = _mapping(manifest.get("tasks"))
    return {
        **{name: manifest.get(name) for name in _COPIED},
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


def _adapter(facts: Mapping[str, Any]) -> dict[str, Any]:
    manifest = _mapping(facts.get("manifest"))
    training = _mapping(manifest.get("training"))
    weights = _mapping(_mapping(manifest.get("files")).get("adapter.safetensors"))
    return {
        "tasks": facts.get("tasks"),
        "sha256": weights.get("sha256"),
        "code": manifest.get("code"),
        "steps": training.get("steps"),
        "dev_loss": training.get("best_dev_loss"),
    }


def _main(facts: Mapping[str, Any]) -> dict[str, Any]:
    name = facts["main"]
    return {"metric": name, **facts["scores"][name]}


def _mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping: manifests of other programs may have other types."""
    return value if isinstance(value, Mapping) else {}
