"""The folder of an export: it appears whole or not at all, with a manifest and a model card.

`manifest.json` names the adapter, the backbone and the licence of the data, `README.md` is for
people.
"""

import importlib.metadata
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from cgclora.config import AdapterConfig
from cgclora.convert.to_lora import TaskLoRAs
from cgclora.data.task_table import Entries, description_facts, descriptions_in
from cgclora.data.template import TEMPLATE_FILE, standalone
from cgclora.storage import atomic_io, provenance
from cgclora.storage.adapter_dir import MANIFEST_FILE, AdapterError
from cgclora.storage.layer_shapes import WEIGHTS_FILE

EXPORT_FORMAT = 1
NATIVE = "cgclora"
"""The format of an adapter itself, see `cgclora.convert.native`."""

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
    kind = first.backbone.model_type
    manifest = {
        "format": EXPORT_FORMAT,
        "export": facts,
        "adapters": [origin(source.manifest, source.config) for source in sources],
        "backbone": dict(first.manifest.get("backbone", {})) | {"model_type": kind},
        **write_prompt_form(folder, first.config),
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
    write_card(folder, manifest, [source.manifest for source in sources], usage)
    manifest["files"] = {
        path.relative_to(folder).as_posix(): atomic_io.size_and_hash(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    atomic_io.write_json(folder / MANIFEST_FILE, manifest)
    return manifest


def write_prompt_form(folder: Path, config: AdapterConfig) -> dict[str, Any]:
    """Write an adapter's chat template, if it has one; returns what a manifest says of prompts."""
    facts: dict[str, Any] = {"separator": config.separator, "start": config.start}
    if template := standalone(config.prompt_format):
        atomic_io.write_text(folder / TEMPLATE_FILE, template)
        facts["chat_template"] = TEMPLATE_FILE
        facts["template_options"] = dict(config.template_options)
    if config.system:
        facts["system"] = config.system
    return facts


def licence(sources: Sequence[TaskLoRAs]) -> str | None:
    """The licences that the adapters' manifests state; None where none does."""
    stated = [source.manifest.get("licence") for source in sources]
    return "; ".join(dict.fromkeys(filter(None, stated))) or None


def origin(manifest: Mapping[str, Any], config: AdapterConfig) -> dict[str, Any]:
    """What identifies an adapter: the hash of its weights, its method, its data, its repository."""
    training = manifest.get("training", {})
    return {
        "sha256": manifest.get("files", {}).get(WEIGHTS_FILE, {}).get("sha256"),
        "method": manifest.get("method"),
        "created": manifest.get("created"),
        "commit": manifest.get("code", {}).get("commit"),
        "train_data": training.get("train_data"),
        "records": training.get("records"),
        "config": config.to_dict(),
        **{name: manifest[name] for name in ("hub",) if name in manifest},
    }


def write_card(
    folder: Path, manifest: Mapping[str, Any], adapters: Sequence[Mapping[str, Any]], usage: str
) -> None:
    """Write `README.md` and, for Gemma, its terms.

    Args:
        folder: Of the export.
        manifest: As `describe` makes it.
        adapters: The manifests of the exported adapters, whose scores the card shows.
        usage: Markdown.
    """
    gemma = str(manifest["backbone"].get("model_type", "")).startswith("gemma")
    if gemma:
        atomic_io.write_text(folder / "NOTICE", _GEMMA_NOTICE + "\n")
        if terms := _gemma_terms():
            atomic_io.write_text(folder / "GEMMA_TERMS.md", terms)
    tasks = manifest["export"]["tasks"]
    scores = [one for adapter in adapters for one in _scores(adapter, tasks)]
    atomic_io.write_text(folder / "README.md", _card(manifest, usage, scores, gemma=gemma))


@dataclass(frozen=True)
class _Score:
    """The accuracy on a task that `python -m evals classification` has measured."""

    task: str
    accuracy: float
    interval: tuple[float, float]  # of 95 %
    bare: float | None  # of the backbone alone
    records: int
    data: str  # sha256 of the records of all tasks

    def row(self) -> str:
        """A row of a Markdown table."""
        low, high = self.interval
        bare = "" if self.bare is None else f"{self.bare:.3f}"
        cells = (self.task, f"{self.accuracy:.3f} ({low:.3f}-{high:.3f})", bare, f"{self.records}")
        return f"| {' | '.join(cells)} |"

    def result(self) -> EvalResult:
        """The same in the hub's form."""
        return EvalResult(
            task_type="text-classification",
            task_name=self.task,
            dataset_type=self.task.lower(),
            dataset_name=self.task,
            dataset_split="test",
            dataset_args={"records": self.records, "sha256": self.data},
            metric_type="accuracy",
            metric_value=round(self.accuracy, 4),
            metric_name="Accuracy",
            metric_args={"confidence_interval_95": [round(one, 4) for one in self.interval]},
        )


def _scores(manifest: Mapping[str, Any], tasks: Sequence[str]) -> list[_Score]:
    report = manifest.get("classification", {})
    scores = []
    for task, facts in report.get("tasks", {}).items():
        if task in tasks and (adapted := facts.get("adapter")):
            low, high = adapted["interval"]
            bare = facts.get("backbone", {}).get("accuracy")
            data = str(report.get("data", ""))
            scores.append(
                _Score(task, adapted["accuracy"], (low, high), bare, facts["records"], data)
            )
    return sorted(scores, key=lambda one: list(tasks).index(one.task))


def _front_matter(manifest: Mapping[str, Any], scores: Sequence[_Score]) -> str:
    """The card's metadata as YAML, with the scores as evaluation results."""
    export, name = manifest["export"], manifest["backbone"].get("name") or ""
    data = ModelCardData(
        license="other",
        base_model=name if "/" in name else None,
        library_name={"peft": "peft", NATIVE: "cgclora"}.get(export["format"]),
        tags=["lora", "cgc-lora", export["format"]],
        model_name=", ".join(export["tasks"]) if scores else None,
        eval_results=[one.result() for one in scores] or None,
    )
    return data.to_yaml()


_ABOUT: Mapping[str, str] = {
    "merged": "A task's experts of a multi-task adapter (CGC-LoRA, arXiv 2402.01684), added to the "
    "weights of the backbone.",
    NATIVE: "A multi-task adapter (CGC-LoRA, arXiv 2402.01684): low-rank experts on a frozen "
    "backbone, weighted by a gate that knows the task.",
}
"""What a format's folder is, where it is not one LoRA a task."""


def _card(manifest: Mapping[str, Any], usage: str, scores: Sequence[_Score], *, gemma: bool) -> str:
    export, backbone = manifest["export"], manifest["backbone"]
    adapters = ", ".join((one["sha256"] or "not saved")[:12] for one in manifest["adapters"])
    terms = [f"**Licence:** {manifest['licence'] or 'not stated by the adapter'}."]
    terms += [_data_note(one) for one in manifest["adapters"] if one["train_data"]]
    if gemma:
        terms.append(
            f"{_GEMMA_NOTICE}. This is a Model Derivative in their sense, modified by the experts "
            "of the adapter named above; the use restrictions of section 3.2 apply to it."
        )
    kind = backbone.get("model_type", "unknown")
    lines = [
        "---",
        _front_matter(manifest, scores),
        "---",
        "",
        f"# {', '.join(export['tasks'])}",
        "",
        _ABOUT.get(
            export["format"],
            "One task a LoRA, taken out of a multi-task adapter (CGC-LoRA, arXiv 2402.01684): the "
            "experts that the task may use, weighted by its gate.",
        ),
        "",
        f"- backbone: {backbone.get('name') or 'unnamed'} "
        f"(fingerprint {str(backbone.get('fingerprint', 'unknown'))[:12]}, type {kind})",
        f"- adapter: sha256 {adapters}",
        f"- rank: {export['rank']}",
        *_prompts(manifest),
        "",
        *_described(descriptions_in(manifest)),
        "## Use",
        "",
        usage.strip("\n"),
        "",
        *(("## Scores", "", *_SCORES_HEAD, *(one.row() for one in scores), "") if scores else ()),
        "## Terms",
        "",
        "\n\n".join(terms),
        "",
        "`manifest.json` holds the hashes of all files and what the adapter was trained on.",
        "",
    ]
    return "\n".join(lines)


def _data_note(adapter: Mapping[str, Any]) -> str:
    """What an adapter was trained on."""
    count = (adapter.get("records") or {}).get("train")
    records = "records" if count is None else f"{count:,} records"
    return (
        f"**Data:** trained on {records} with sha256 {adapter['train_data'][:12]}, whose licence "
        "applies to the adapter, too."
    )


def _prompts(manifest: Mapping[str, Any]) -> list[str]:
    """How a prompt is written, as Markdown."""
    if name := manifest.get("chat_template"):
        return [
            f"- prompts: the chat template in `{name}`, which has the system text and the options "
            "of the training as its defaults",
            "",
            "A question is one message of the user, and the answer that of the assistant:",
            "",
            "```python",
            f'tokenizer.chat_template = open("{name}", encoding="utf-8").read()',
            'messages = [{"role": "user", "content": "..."}]',
            "text = tokenizer.apply_chat_template(messages, tokenize=False, "
            "add_generation_prompt=True)",
            "```",
        ]
    separator = json.dumps(manifest["separator"], ensure_ascii=False)
    before = "begins with " + _STARTS[manifest["start"]]
    if system := manifest.get("system"):
        before += f", and the system text {json.dumps(system, ensure_ascii=False)} in a line"
    return [
        f"- text between prompt and answer: {separator}",
        "",
        f"A prompt ends with that text, and {before}.",
    ]


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
