"""The folder of an export: it appears whole or not at all, with a manifest and a model card.

`manifest.json` names the adapter, the backbone and the licence of the data, `README.md` is for
people.
"""

import importlib.metadata
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cgclora.convert.to_lora import TaskLoRAs
from cgclora.data.task_table import Entries, description_facts, descriptions_in
from cgclora.storage import atomic_io, provenance
from cgclora.storage.adapter_dir import MANIFEST_FILE, AdapterError
from cgclora.storage.layer_shapes import WEIGHTS_FILE

EXPORT_FORMAT = 1
_GEMMA_NOTICE = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at "
    "ai.google.dev/gemma/terms"
)

_STARTS: Mapping[str, str] = {
    "tokenizer": "the special tokens that the backbone's tokenizer adds to a text by itself",
    "bos": "the backbone's start token, if it has one",
}
"""What stands before a prompt, by `PromptFormat.start`."""

_SCORES_HEAD = (
    "Accuracy of the answers as they are generated, with 95 % intervals, on the test data; the "
    "bare backbone got the same prompts.",
    "",
    "| task | accuracy | bare backbone | records |",
    "|---|---|---|---|",
)


@contextmanager
def export_folder(out: str | Path, needed: int = 0) -> Iterator[Path]:
    """Fill a fresh folder that then takes the place of `out`, where an older export may be.

    `needed` is the number of bytes that will be written, if they are many.

    Raises:
        AdapterError: `out` is there and holds something other than an export.
        OSError: Less than `needed` is free there.
    """
    out = Path(out)
    atomic_io.recover_folder(out)
    try:
        is_export = "export" in json.loads((out / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        is_export = False
    if out.is_dir() and any(out.iterdir()) and not is_export:
        raise AdapterError(f"{out} holds something other than an export: choose another folder.")
    existing = next(parent for parent in out.resolve().parents if parent.is_dir())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise OSError(
            f"the export takes {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free at {out}: free "
            "some, or choose a folder on another disk."
        )
    with atomic_io.replace_folder(out) as fresh:
        yield fresh


def describe(
    folder: Path, sources: Sequence[TaskLoRAs], usage: str, **facts: Any
) -> dict[str, Any]:
    """Write manifest, model card and, for Gemma, its terms into a folder that holds the rest.

    `usage` is Markdown; `facts` are `format`, `tasks`, `rank` and so on.

    Returns:
        The manifest.
    """
    first = sources[0]
    gemma = first.backbone.model_type.startswith("gemma")
    if gemma:
        atomic_io.write_text(folder / "NOTICE", _GEMMA_NOTICE + "\n")
        if terms := _gemma_terms():
            atomic_io.write_text(folder / "GEMMA_TERMS.md", terms)
    manifest = {
        "format": EXPORT_FORMAT,
        "export": facts,
        "adapters": [_origin(source) for source in sources],
        "backbone": dict(first.manifest.get("backbone", {}))
        | {"model_type": first.backbone.model_type},
        "separator": first.config.separator,
        "start": first.config.start,
        "licence": licence(sources),
        **description_facts(
            {
                task: entry
                for source in sources
                for task, entry in descriptions_in(source.manifest).items()
            },
            facts["tasks"],
        ),
        **{name: value for name, value in provenance.stamp(None).items() if name != "hardware"},
    }
    scores = [line for source in sources for line in _scores(source, facts["tasks"])]
    atomic_io.write_text(folder / "README.md", _card(manifest, usage, scores, gemma=gemma))
    manifest["files"] = {
        path.relative_to(folder).as_posix(): atomic_io.size_and_hash(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    atomic_io.write_json(folder / MANIFEST_FILE, manifest)
    return manifest


def licence(sources: Sequence[TaskLoRAs]) -> str | None:
    """The licences that the adapters' manifests state; None where none does."""
    stated = [source.manifest.get("licence") for source in sources]
    return "; ".join(dict.fromkeys(filter(None, stated))) or None


def _origin(source: TaskLoRAs) -> dict[str, Any]:
    """What identifies an adapter: the hash of its weights, its method, its data."""
    manifest = source.manifest
    training = manifest.get("training", {})
    return {
        "sha256": manifest.get("files", {}).get(WEIGHTS_FILE, {}).get("sha256"),
        "method": manifest.get("method"),
        "created": manifest.get("created"),
        "commit": manifest.get("code", {}).get("commit"),
        "train_data": training.get("train_data"),
        "config": source.config.to_dict(),
    }


def _scores(source: TaskLoRAs, tasks: Sequence[str]) -> list[str]:
    """Rows of a Markdown table: accuracies that `python -m evals classification` has measured."""
    measured = source.manifest.get("classification", {}).get("tasks", {})
    rows = []
    for task in (task for task in tasks if task in measured):
        adapted, bare = (measured[task].get(name) for name in ("adapter", "backbone"))
        if adapted:
            low, high = adapted["interval"]
            cells = (
                task,
                f"{adapted['accuracy']:.3f} ({low:.3f}-{high:.3f})",
                f"{bare['accuracy']:.3f}" if bare else "",
                f"{measured[task]['records']}",
            )
            rows.append(f"| {' | '.join(cells)} |")
    return rows


def _card(manifest: Mapping[str, Any], usage: str, scores: Sequence[str], *, gemma: bool) -> str:
    export, backbone = manifest["export"], manifest["backbone"]
    tasks = ", ".join(export["tasks"])
    adapters = ", ".join((origin["sha256"] or "not saved")[:12] for origin in manifest["adapters"])
    separator = json.dumps(manifest["separator"], ensure_ascii=False)
    terms = [f"**Licence:** {manifest['licence'] or 'not stated by the adapter'}."]
    if gemma:
        terms.append(
            f"{_GEMMA_NOTICE}. This is a Model Derivative in their sense, modified by the experts "
            "of the adapter named above; the use restrictions of section 3.2 apply to it."
        )
    name = backbone.get("name") or "unnamed"
    lines = [
        "---",
        "license: other",
        *([f"base_model: {name}"] if "/" in name else []),
        *(["library_name: peft"] if export["format"] == "peft" else []),
        f"tags: [lora, cgc-lora, {export['format']}]",
        "---",
        "",
        f"# {tasks}",
        "",
        "One task a LoRA, taken out of a multi-task adapter (CGC-LoRA, arXiv 2402.01684): the "
        "experts that the task may use, weighted by its gate."
        if export["format"] != "merged"
        else "A task's experts of a multi-task adapter (CGC-LoRA, arXiv 2402.01684), added to the "
        "weights of the backbone.",
        "",
        f"- backbone: {name} (fingerprint {str(backbone.get('fingerprint', 'unknown'))[:12]}, "
        f"type {backbone['model_type']})",
        f"- adapter: sha256 {adapters}",
        f"- rank: {export['rank']}",
        f"- text between prompt and answer: {separator}",
        "",
        "A prompt ends with that text, and begins with " + _STARTS[manifest["start"]] + ".",
        "",
        *_described(descriptions_in(manifest)),
        "## Use",
        "",
        usage.strip("\n"),
        "",
        *(("## Scores", "", *_SCORES_HEAD, *scores, "") if scores else ()),
        "## Terms",
        "",
        "\n\n".join(terms),
        "",
        "`manifest.json` holds the hashes of all files and what the adapter was trained on.",
        "",
    ]
    return "\n".join(lines)


def _described(entries: Entries) -> list[str]:
    """Title, form of the answers, labels and prompt of each described task, as Markdown."""
    lines = ["## Tasks", ""] if entries else []
    for task, entry in entries.items():
        title, labels = (_texts(entry.get(key)) for key in ("title", "labels"))
        titles = " / ".join(dict.fromkeys(one for one in title if one and one != task))
        kind = str(entry.get("kind") or "")
        about = [kind, "labels: " + ", ".join(labels) if labels else ""]
        head = f"**{task}**" + (f" ({titles})" if titles else "")
        lines.append("- " + ": ".join(filter(None, [head, "; ".join(filter(None, about))])))
        if template := entry.get("template"):
            # An indented block in which nothing is Markdown, whatever the template holds.
            lines += ["", *(f"        {line}" for line in str(template).split("\n")), ""]
    return [*lines, ""] if entries and lines[-1] else lines


def _texts(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else []


def _gemma_terms() -> str | None:
    """The Gemma Terms of Use, from the repository or from the installed package."""
    beside = Path(__file__).parents[2] / "GEMMA_TERMS.md"
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    try:
        return importlib.metadata.distribution("cgclora").read_text("licenses/GEMMA_TERMS.md")
    except importlib.metadata.PackageNotFoundError:
        return None
