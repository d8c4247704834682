"""Tables of the documentation, generated from the results in `assets/`.

A page holds a table between `<!-- table: NAME -->` and `<!-- end -->`, followed by the file, commit
and machine of the measurement.
"""

from __future__ import annotations

import json
import os
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from evals.figures.affinity_page import markdown
from evals.figures.measured_tables import REPORTED, Report, Row
from evals.leaderboard import tables
from evals.leaderboard.board import Board, boards
from evals.leaderboard.report import report
from evals.methods import ADDED, CGC_LORA
from evals.runs.classification import METHODS as CLASSIFIERS
from evals.runs.run_dir import read_run
from evals.speed.growth_figure import growth_figure
from evals.speed.scaling import CONFIG
from evals.speed.scaling import table as scaling_table

PAGES = ("README.md", "docs/*.md", "assets/results/README.md", "assets/adapters/README.md")
"""The pages that may hold tables."""

_MARKED = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def generated(root: Path) -> dict[Path, str]:
    """The content of every generated file of a repository.

    Raises:
        ValueError: A page names an unknown table, or a result comes from uncommitted code.
    """
    results = root / "assets" / "results"
    texts = {
        results / "growth.svg": growth_figure(_read(results / "bench.json")),
        results / "leaderboard.md": report(boards(results), markdown=True),
    }
    for page in sorted(path for pattern in PAGES for path in root.glob(pattern)):
        texts[page] = filled(page, root)
    return texts


def filled(page: Path, root: Path) -> str:
    """A page with regenerated tables.

    Raises:
        ValueError: As `generated`.
    """

    def fill(match: re.Match[str]) -> str:
        return f"{match[1]}\n{_table(match[2], root, page)}\n\n{match[3]}"

    return _MARKED.sub(fill, page.read_text(encoding="utf-8"))


def _table(name: str, root: Path, page: Path) -> str:
    results = root / "assets" / "results"
    if name in _OF_ASSETS:
        text, sources = _OF_ASSETS[name](root / "assets")
    elif name in REPORTED:
        make, names = REPORTED[name]
        sources = [results / f"{one}.json" for one in names]
        text = markdown(list(make(*map(_read, sources))))
    else:
        raise ValueError(f"{page} names the table {name!r}; there are {[*_OF_ASSETS, *REPORTED]}.")
    return "\n\n".join([text, *(_caption(source, page) for source in sources)])


def _read(path: Path) -> Report:
    """A measurement by committed code."""
    report: Report = json.loads(path.read_text(encoding="utf-8"))
    if report["code"]["dirty"]:
        raise ValueError(f"{path} was measured by uncommitted code: measure it again.")
    return report


def _caption(source: Path, page: Path) -> str:
    """The file of a table, and the code and machine of its measurement."""
    report = _read(source)
    hardware = report.get("hardware", {})
    processor = filter(None, map(hardware.get, ("processor", "machine", "cpu_capability")))
    facts = [
        hardware.get("gpu") or " ".join(processor),
        f"{hardware['threads']} threads" if hardware.get("threads", 1) > 1 else "",
        hardware.get("dtype", ""),
        f"commit {report['code']['commit'][:7]}",
        report.get("created", "")[:10],
    ]
    link = Path(os.path.relpath(source, page.parent)).as_posix()
    return f"Source: [{source.name}]({link}), {', '.join(filter(None, facts))}."


# Comparisons ------------------------------------------------------------------------------

Made = tuple[str, Sequence[Path]]
"""A table as Markdown, and the files that its caption names."""


def _board(assets: Path, comparison: str, tasks: int) -> Board:
    candidates = boards(assets / "results" / comparison).boards
    (board,) = (board for board in candidates if len(board.tasks) == tasks)
    return board


def _manifest(board: Board) -> Path:
    """The manifest of the first run, whose code and machine all runs of a comparison share."""
    return Path(board.entries[0].folders[0]) / "manifest.json"


def _main(assets: Path) -> Made:
    board = _board(assets, "main", 8)
    return _without_heading(tables.overall_table(board)), [_manifest(board)]


def _gains(comparison: str, tasks: int, reference: str) -> Callable[[Path], Made]:
    def make(assets: Path) -> Made:
        board = _board(assets, comparison, tasks)
        return _without_heading(tables.seesaw_table(board, reference)), [_manifest(board)]

    return make


def _without_heading(table: tables.Table) -> str:
    return table.markdown().partition("\n\n")[2]


def _main_losses(assets: Path) -> Made:
    board = _board(assets, "main", 8)
    rows: list[Row] = [("", "dev loss", f"mean of {len(board.tasks)} tasks", "named entities")]
    for entry in board.entries:
        loss = min(read_run(entry.folders[0]).manifest["dev_losses"].values())
        scores = (entry.overall, entry.scores["NER"].estimate)
        rows.append((entry.method, f"{loss:.3f}", *(f"{100 * one.value:.1f}" for one in scores)))
    return markdown(rows), [_manifest(board)]


def _added(assets: Path) -> Made:
    board = _board(assets, "growth", 4)
    rows: list[Row] = [("", *(task.name for task in board.tasks), "mean")]
    for method, name in ((CGC_LORA, "from the start"), (ADDED, "added")):
        (entry,) = (entry for entry in board.entries if entry.method == method)
        scores = [entry.scores[task.name].estimate for task in board.tasks]
        rows.append((name, *(f"{100 * one.value:.1f}" for one in (*scores, entry.overall))))
    return markdown(rows), [_manifest(board)]


def _choice(assets: Path) -> Made:
    rows: list[Row] = []
    for folder in (assets / "results" / "choice").iterdir():
        manifest = _read(folder / "manifest.json")
        log = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
        losses = json.loads(log[-1])["dev_losses"]
        config, settings = (manifest["training"][key] for key in ("config", "settings"))
        rate = settings["learning_rate"]
        rows.append(
            (
                f"`{folder.name}`",
                *(str(config[key]) for key in ("common", "specific", "expert_rank")),
                f"{config['alpha']:g}",
                f"{rate:g}",
                f"{settings['gate_learning_rate'] or rate:g}",
                settings.get("weighting", "token"),  # the first runs are older than this setting
                f"{manifest['trainable_parameters'] / 1e6:.1f} M",
                f"{statistics.mean(losses.values()):.3f}",
                f"{statistics.mean(one for task, one in losses.items() if task != 'CHIP-STS'):.3f}",
            )
        )
    head = (
        *("run", "C", "S", "k", "alpha", "learning rate", "of the gate", "weighting"),
        *("parameters", "dev loss", "without CHIP-STS"),
    )
    return markdown([head, *sorted(rows, key=lambda row: (row[-2], row[0]))]), []


def _accuracy(cluster: str) -> Callable[[Path], Made]:
    def make(assets: Path) -> Made:
        manifest = _read(assets / "adapters" / cluster / "manifest.json")
        rows: list[Row] = [("task", "records", *CLASSIFIERS, "commonest label")]
        for task, row in manifest["classification"]["tasks"].items():
            cells = [
                f"{row[method]['accuracy']:.3f} ({low:.3f}-{high:.3f})"
                for method in (*CLASSIFIERS, "commonest label")
                for low, high in [row[method]["interval"]]
            ]
            rows.append((task, str(row["records"]), *cells))
        return markdown(rows), []

    return make


def _scaling(_assets: Path) -> Made:
    return scaling_table(CONFIG), []


_OF_ASSETS: Mapping[str, Callable[[Path], Made]] = {
    "main": _main,
    "main_losses": _main_losses,
    "main_gains": _gains("main", 8, "LoRA (Full)"),
    "added": _added,
    "added_gains": _gains("growth", 4, CGC_LORA),
    "choice": _choice,
    "accuracy_medical": _accuracy("medical"),
    "accuracy_general": _accuracy("general"),
    "scaling": _scaling,
}
