"""What `test_distributed` launches beside the command line itself, in each of two processes.

runs FOLDER      several training runs, one after another, and what this process saw of them
dies STEP WORDS  `cgclora WORDS`, in which process 1 is killed within a step
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

import cgclora.__main__
import cgclora.training.loss
from cgclora.adapter import Adapter
from cgclora.storage import run_dir
from cgclora.training import side_by_side
from cgclora.training.forward import can_pass
from cgclora.training.runs.member import Member
from cgclora.training.settings import TrainingSettings
from cgclora.training.train import train
from tests.helpers.tiny import make_backbone
from tests.helpers.training_runs import DEV, PLAIN, SETTINGS, TRAIN

RANK = int(os.environ["RANK"])
PLAIN_RUN = {**SETTINGS, "epochs": 2, "batch_size": 4}  # of each of two processes


def transformers_only(model: Any) -> bool:
    """In the place of `can_pass`: as with sharded weights, to whose bits others are compared."""
    return False


def train_here(
    folder: Path,
    *,
    fsdp: bool,
    architecture: str = "qwen2",
    half: bool = False,
    growing: bool = False,
    **changes: Any,
) -> dict[str, Any]:
    """A run, and what this process saw."""
    os.environ["ACCELERATE_USE_FSDP"] = str(fsdp).lower()
    backbone = make_backbone(architecture)
    if half:
        backbone.model.to(torch.bfloat16)
        cgclora.training.loss.can_pass = transformers_only
    adapter = Adapter.attach(backbone, PLAIN)
    before = {name: id(parameter) for name, parameter in adapter.named_parameters()}
    held: list[int] = []
    written: list[str] = []
    shard, write_tensors = side_by_side.shard, run_dir.write_tensors

    def noting_shard(loss: Any, device: torch.device) -> None:
        shard(loss, device)
        held.append(
            sum(
                p.to_local().numel() if isinstance(p, DTensor) else p.numel()
                for p in loss.parameters()
                if not p.requires_grad
            )
        )

    def noting_write(path: Path, tensors: Any) -> None:
        if path.name == "adapter.safetensors":
            written.append(path.parent.name)
        write_tensors(path, tensors)

    side_by_side.shard, run_dir.write_tensors = noting_shard, noting_write
    learns = None
    if growing:  # the first task's row stays, as where a task is added to others
        learns = {
            name: torch.ones_like(parameter, dtype=torch.bool)
            for name, parameter in adapter.named_parameters()
        }
        learns["gate.embedding"][0] = False
    first = adapter.gate.embedding.detach().clone()
    settings = TrainingSettings(**{**PLAIN_RUN, **changes})
    try:
        train(
            adapter,
            backbone.tokenizer,
            TRAIN,
            DEV,
            settings,
            folder,
            progress=lambda facts: None,
            learns=learns,
        )
    finally:
        side_by_side.shard, run_dir.write_tensors = shard, write_tensors
        cgclora.training.loss.can_pass = can_pass
    last = adapter.gate.embedding.detach()
    return {
        "held": held,
        "written": written,
        "identities": before == {name: id(p) for name, p in adapter.named_parameters()},
        "moved": (last != first).any(dim=1).tolist(),
    }


def runs(folder: Path) -> None:
    seen: dict[str, Any] = {}
    for kind in ("ddp", "fsdp"):
        for name, changes in (
            ("", {}),
            (" accumulated", {"batch_size": 2, "accumulation": 2}),
            (" gemma3 growing", {"architecture": "gemma3", "growing": True}),
            (" llama bf16", {"architecture": "llama", "half": True}),
        ):
            seen[kind + name] = train_here(folder / (kind + name), fsdp=kind == "fsdp", **changes)
    name = "fsdp checkpointing"
    seen[name] = train_here(folder / name, fsdp=True, gradient_checkpointing=True)
    for kind in ("ddp", "fsdp"):
        name = f"{kind} resumed"
        if RANK == 0:
            shutil.copytree(folder / kind, folder / name)
            shutil.rmtree(folder / name / "adapter")
            # What is left is the second of three steps of the second epoch.
            shutil.rmtree(folder / name / "checkpoints" / "checkpoint-6")
        torch.distributed.barrier()
        seen[name] = train_here(folder / name, fsdp=kind == "fsdp")
    (folder / f"{RANK}.json").write_text(json.dumps(seen), encoding="utf-8")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def dies(step: int, words: list[str]) -> int:
    take_step = Member.take_step

    def die_at_step(member: Member) -> None:
        if RANK == 1 and member.step + 1 == step:
            os.kill(os.getpid(), signal.SIGKILL)
        take_step(member)

    Member.take_step = die_at_step  # type: ignore[method-assign]
    cgclora.training.loss.can_pass = transformers_only
    return cgclora.__main__.main(words)


if __name__ == "__main__":
    if sys.argv[1] == "runs":
        runs(Path(sys.argv[2]))
    else:
        sys.exit(dies(int(sys.argv[2]), sys.argv[3:]))
