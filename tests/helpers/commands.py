"""Commands to a tiny backbone and an adapter that was trained on it."""

import json
from pathlib import Path

from cgclora.adapter import Adapter
from cgclora.inference.engine import generate
from cgclora.inference.request import Request
from cgclora.models.backbone import load_backbone

PROMPT = "今天天气很好"


def write(path: Path, *records: dict[str, str]) -> Path:
    text = "\n".join(json.dumps(record) for record in records)
    path.write_text(text, encoding="utf-8")
    return path


def training(folder: Path, *more: str) -> list[str]:
    """A training command, without its run folder."""
    return [
        *("train", "--backbone", str(folder / "backbone"), "--device", "cpu", "--dtype", "float32"),
        *("--data", str(folder / "train.jsonl"), "--dev", str(folder / "dev.jsonl")),
        *("--task", "mood", "--task", "weather", "--common", "2", "--batch-size", "4"),
        *("--epochs", "6", "--evaluations", "2", "--learning-rate", "0.02"),
        *more,
    ]


def answering(folder: Path, *more: str) -> list[str]:
    """A command that asks the trained adapter."""
    return [
        *("generate", "--backbone", str(folder / "backbone"), "--device", "cpu"),
        *("--dtype", "float32", "--adapter", str(folder / "run" / "adapter")),
        *more,
    ]


def asked(folder: Path, *requests: Request) -> list[str]:
    """What the library answers."""
    backbone = load_backbone(folder / "backbone", device="cpu", dtype="float32")
    adapter = Adapter.load(folder / "run" / "adapter", backbone)
    return [answer.text for answer in generate(backbone, requests, adapter)]
