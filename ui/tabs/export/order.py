"""What a visitor wants to export: from the form, as a command, and how large it will be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cgclora.convert.formats import FORMATS, Export
from evals.tasks import Language
from ui.components.texts import TEXTS, text
from ui.engine.client import EngineError
from ui.engine.engine import AppEngine
from ui.engine.model_process import ModelProcess
from ui.engine.models import Models
from ui.engine.questions import export_size

PRECISIONS = ("", "float32", "float16", "bfloat16")
"""The first is the format's own."""

_LONGEST_NAME = 80
_LONGEST_BASE = 200


@dataclass(frozen=True)
class Order:
    """An export of an adapter that the page knows."""

    adapter: str  # its name
    format: str  # one of `FORMATS`
    tasks: tuple[str, ...] = ()  # empty for all
    precision: str = ""  # one of `PRECISIONS`
    base: str = ""  # the backbone where it is used; empty for the trained one's name

    @classmethod
    def read(
        cls,
        engine: AppEngine,
        adapter: str | None,
        format: str | None,  # noqa: A002 - the field's word
        tasks: Sequence[str] | None = None,
        precision: str | None = None,
        base: str | None = None,
    ) -> Order | None:
        """The values of the form; what does not exist is its default. None without an adapter."""
        adapters = engine.adapters()
        if not adapters:
            return None
        name = adapter if adapter in adapters else adapters[0]
        base = (base or "").strip()[:_LONGEST_BASE]
        if not Path(base).is_absolute() and Path(base).exists():
            base = ""  # a bundle would name the server's own folder
        known = engine.tasks(name)
        return cls(
            adapter=name,
            format=format if format and format in FORMATS else next(iter(FORMATS)),
            tasks=tuple(task for task in dict.fromkeys(tasks or ()) if task in known),
            precision=precision if precision in PRECISIONS else "",
            base=base,
        )

    @property
    def lacks_task(self) -> bool:
        """Whether the format holds one task and not one is chosen."""
        return FORMATS[self.format].takes_one_task and len(self.tasks) != 1

    @property
    def name(self) -> str:
        """The export's folder: letters, digits, `_`, `.` and `-`."""
        parts = [self.adapter, *(self.tasks if len(self.tasks) == 1 else ()), self.format]
        return re.sub(r"[^\w.-]+", "-", "-".join(parts)).strip(".-")[-_LONGEST_NAME:]

    def arguments(self, adapter: str, out: str, backbone: str | None) -> list[str]:
        """Arguments of the Python interpreter that make this export."""
        # With `=`, since a name may begin like an option.
        optional = {"backbone": backbone, "base": self.base, "precision": self.precision}
        return [
            *("-m", "cgclora", "export", "--adapter", adapter, "--format", self.format),
            *(f"--task={task}" for task in self.tasks),
            *(f"--{name}={value}" for name, value in optional.items() if value),
            *("--out", out, "--zip"),
        ]

    def bytes(self, engine: AppEngine, backbone: str | None) -> int | None:
        """How large it will be, see `cgclora.convert.formats.size`; None if that is not known."""
        tasks = self.tasks
        if self.lacks_task:
            tasks = engine.tasks(self.adapter)[:1]  # all have the same size
        folder, seal = engine.path(self.adapter), str(engine.manifests[self.adapter].get("seal"))
        others = (backbone, self.base or None, self.precision or None)
        with suppress(EngineError):  # not for ever; the export itself says what is wrong
            return _size(engine.models, self.format, folder, seal, tasks, *others)
        return None


@lru_cache(maxsize=256)
def _size(
    models: Models | ModelProcess,
    kind: str,
    folder: Path,
    _seal: str,  # an adapter of this name may be another one by now
    tasks: tuple[str, ...],
    *others: str | None,
) -> int | None:
    (count,) = models.run(export_size, kind, Export([folder], Path(), tasks or None, *others))
    return count


def megabytes(count: float) -> str:
    """A number of bytes with three digits at most."""
    number, unit = (count / 1e9, "GB") if count >= 999.5e6 else (count / 1e6, "MB")
    return f"{number:.{2 if number < 9.95 else 1 if number < 99.5 else 0}f} {unit}"


def format_row(name: str, words: str, language: Language) -> str:
    """A format as a choice: title and size, and what it is for on a second line."""
    key = f"export_format {name}"
    known = text(key, language) if key in TEXTS else f"{name}\n{FORMATS[name].about}"
    title, _, about = known.partition("\n")
    return f"{title} · {words}\n{about}"


def format_title(name: str, language: Language) -> str:
    """A format's title; one that was added from outside has its name."""
    key = f"export_format {name}"
    return text(key, language).partition("\n")[0] if key in TEXTS else name
