"""An adapter itself as an export, to be used here by its folder or hub id."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cgclora.convert.model_card import (
    NATIVE,
    export_folder,
    origin,
    write_card,
    write_prompt_form,
)
from cgclora.storage import atomic_io
from cgclora.storage.adapter_dir import MANIFEST_FILE, read_manifest
from cgclora.storage.hub import adapter_folder
from cgclora.training.add_task import drop_tasks

_USAGE = """
    python -m cgclora generate --adapter <owner>/<name> --task {task} "..."
    python -m cgclora serve --adapter <owner>/<name>

`<owner>/<name>` is this repository on the hub (`<owner>/<name>@<revision>` a revision of it); the
path of this folder does as well. In Python: `cgclora.Adapter.load("<owner>/<name>", backbone)`.
Only JSON and safetensors are read."""


def export_adapter(
    folder: str | Path, out: str | Path, tasks: Sequence[str] | None = None
) -> dict[str, Any]:
    """Write an adapter, with some of its tasks or all, as an export; returns its manifest.

    The backbone is not needed.

    Raises:
        ConfigError: A task is unknown.
        AdapterError: The folder is no adapter, or `out` holds something other than an export.
    """
    folder = adapter_folder(folder)
    manifest, config = read_manifest(folder)
    for task in tasks or ():
        config.task_index(task)
    dropped = [task for task in config.tasks if tasks and task not in tasks]
    with export_folder(out) as fresh:
        if dropped:
            drop_tasks(folder, dropped, fresh)
        else:
            for name in (*manifest["files"], MANIFEST_FILE):
                shutil.copy2(folder / name, fresh / name)
        manifest, config = read_manifest(fresh)
        facts = {"format": NATIVE, "tasks": list(config.tasks), "rank": config.total_rank}
        manifest |= {"export": facts}
        atomic_io.write_sealed(fresh / MANIFEST_FILE, manifest)
        described = {
            **manifest,
            "adapters": [origin(manifest, config)],
            **write_prompt_form(fresh, config),
            "licence": manifest.get("licence"),
        }
        write_card(fresh, described, [manifest], _USAGE.format(task=config.tasks[0]))
    return manifest
