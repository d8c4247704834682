"""Scored run folders made on the spot, by writing their bytes: no model, no data, no scoring."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cgclora.storage.atomic_io import read_sealed

SAMPLES = 100


def parquet(columns: Mapping[str, Any]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table({name: pa.array(column) for name, column in columns.items()}), stream)
    return stream.getvalue()


def metrics_of(values: Mapping[str, float], metric: str = "accuracy") -> dict[str, Any]:
    return {
        task: {
            "samples": SAMPLES,
            "main": metric,
            "scores": {metric: {"value": value, "version": "1"}},
        }
        for task, value in values.items()
    }


def write_folder(
    folder: Path,
    metrics: Mapping[str, Any] | None,
    replicates: bytes,
    *,
    data: str = "d" * 64,
    version: str = "1",
    **facts: Any,
) -> Path:
    """A run folder; `metrics` None leaves it unscored, `facts` go into the manifest."""
    tasks = [*(metrics or {"NER": {}})]
    content = {"predictions.parquet": b"rows", "log.jsonl": b""}
    if metrics is not None:
        content |= {"metrics.json": json.dumps(metrics).encode(), "replicates.parquet": replicates}
    manifest = {
        "format": 1,
        "method": "CGC-LoRA",
        "label": "",
        "seed": 0,
        "split": "test",
        "prompt": "plain",
        "backbone": {"name": "tiny", "fingerprint": "f" * 64},
        "adapters": [],
        "trainable_parameters": 5_700_000,
        "total_rank": 40,
        "active_rank": 10,
        "training_seconds": 600.0,
        "peak_memory": 2**30,
        "tokens": 300,
        "seconds": 2.0,
        "created": "2026-01-01T00:00:00+00:00",
        "data": {"tasks": {task: {"records": SAMPLES, "hash": data} for task in tasks}},
        "tasks": {task: {"version": version} for task in tasks},
        **facts,
        "files": {name: hashlib.sha256(one).hexdigest() for name, one in content.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, one in content.items():
        (folder / name).write_bytes(one)
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def write_run(
    folder: Path,
    scores: Mapping[str, tuple[float, Any]],
    *,
    metric: str = "accuracy",
    **facts: Any,
) -> Path:
    """A scored run.

    Args:
        folder: Where.
        scores: For each task its main score and the [R] replicates of it.
        metric: Name of the main metric.
        **facts: As in `write_folder`.
    """
    drawn = {task: np.asarray(one, dtype=np.float32) for task, (_, one) in scores.items()}
    values = {task: value for task, (value, _) in scores.items()}
    return write_folder(folder, metrics_of(values, metric), parquet(drawn), **facts)


def forgot(differences: Sequence[float], texts: str = "a") -> dict[str, Any]:
    """The manifest's entry of a run that forgot so many nats a token of each text."""
    return {"texts": {"hash": texts}, "differences": [*differences]}


def around(value: float, resamples: int = 200, seed: int = 0) -> tuple[float, Any]:
    """A score with replicates that spread by 0.02 around it."""
    noise = np.random.default_rng(seed).normal(0, 0.02, resamples)
    return value, value + noise


def write_answers(folder: Path, rows: Sequence[Mapping[str, Any]], **changes: Any) -> Path:
    """Give a run folder predictions; each row has task, id and prediction, and a score.

    Args:
        folder: A run's.
        rows: The predictions.
        **changes: Of the manifest.
    """
    content = parquet(
        {
            "task": [row["task"] for row in rows],
            "id": [row["id"] for row in rows],
            "prediction": [row["prediction"] for row in rows],
            "finish": [row.get("finish", "end") for row in rows],
            "tokens": [1] * len(rows),
            "parsed": [json.dumps([[row["prediction"]]], ensure_ascii=False) for row in rows],
            "score": [float(row["score"]) for row in rows],
        }
    )
    (folder / "predictions.parquet").write_bytes(content)
    manifest = read_sealed(folder / "manifest.json") | changes
    manifest["files"]["predictions.parquet"] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder
