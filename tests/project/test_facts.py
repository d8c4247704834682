"""Facts that must stand in two files, because two tools read them, agree."""

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from cgclora.storage.adapter_dir import read_manifest
from evals.leaderboard.board import boards
from evals.methods import ADDED
from evals.runs.classification import METHODS
from evals.runs.run_dir import read_run
from evals.speed.growth_figure import growth_figure
from evals.tasks import clusters, get_task
from tests.suites import reliability

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def requirements() -> list[Requirement]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_every_requirement_is_pinned(requirements):
    for requirement in requirements:
        assert re.fullmatch(r"==[0-9.]+", str(requirement.specifier)), requirement


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_every_python_gets_one_torch(requirements, python):
    wanted = [
        requirement
        for requirement in requirements
        if requirement.name == "torch" and requirement.marker.evaluate({"python_version": python})
    ]
    assert len(wanted) == 1


def test_notice_carries_the_sentence_that_gemmas_terms_ask_for():
    terms = (ROOT / "GEMMA_TERMS.md").read_text(encoding="utf-8")
    (sentence,) = re.findall(r'following notice:\s+"\*\*(.+?)\*\*"', terms)
    assert sentence in (ROOT / "NOTICE").read_text(encoding="utf-8")


def test_the_table_of_choices_says_what_its_runs_say():
    results = ROOT / "assets" / "results"
    text = (results / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(.+?)` \|(.+)\|$", text, re.MULTILINE)
    assert {name for name, _ in rows} == {path.name for path in (results / "choice").iterdir()}
    for name, row in rows:
        manifest = json.loads((results / "choice" / name / "manifest.json").read_text())
        log = (results / "choice" / name / "log.jsonl").read_text().splitlines()
        losses = json.loads(log[-1])["dev_losses"]
        config, settings = (manifest["training"][key] for key in ("config", "settings"))
        rate = settings["learning_rate"]
        assert [cell.strip() for cell in row.split("|")] == [
            *(str(config[key]) for key in ("common", "specific", "expert_rank")),
            f"{config['alpha']:g}",
            f"{rate:g}",
            f"{settings['gate_learning_rate'] or rate:g}",
            settings.get("weighting", "token"),  # the first runs are older than the choice
            f"{manifest['trainable_parameters'] / 1e6:.1f} M",
            f"{statistics.mean(losses.values()):.3f}",
            f"{statistics.mean(loss for task, loss in losses.items() if task != 'CHIP-STS'):.3f}",
        ]


ADAPTERS = sorted(path.parent for path in (ROOT / "assets" / "adapters").glob("*/manifest.json"))


def test_both_clusters_have_an_adapter():
    assert [path.name for path in ADAPTERS] == sorted(clusters())


@pytest.mark.parametrize("folder", ADAPTERS, ids=lambda path: path.name)
def test_a_shipped_adapter_knows_its_cluster_its_licence_and_its_scores(folder):
    manifest, config = read_manifest(folder)
    assert set(config.tasks) <= set(clusters()[folder.name])
    assert "Gemma" in manifest["licence"]
    assert "research only" in manifest["licence"]
    assert not manifest["code"]["dirty"]
    assert not manifest["classification"]["code"]["dirty"]
    scores = manifest["classification"]["tasks"]
    classified = {task for task in config.tasks if get_task(task).kind == "classification"}
    assert scores.keys() == classified
    table = (folder.parent / "README.md").read_text(encoding="utf-8")
    for task, row in scores.items():
        cells = [
            f"{row[method]['accuracy']:.3f} ({low:.3f}-{high:.3f})"
            for method in METHODS
            for low, high in [row[method]["interval"]]
        ]
        assert f"| {task} | {row['records']} | {' | '.join(cells)} |" in table


def result(name: str) -> Any:
    """A committed measurement, made by committed code."""
    found = json.loads((ROOT / "assets" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    assert found["code"]["dirty"] is False
    return found


def verdict(bar: dict[str, Any]) -> str:
    return "reached" if bar["reached"] else "missed"


@pytest.mark.parametrize("report", ["bench", "side_by_side"])
def test_the_table_of_speeds_says_what_the_benchmark_measured(report):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    parts = result(report)["parts"]
    for count in (2, 4, 8, 24) if "members" in parts else ():
        medians = parts["members"]["medians"]
        together, apart = (
            medians[f"{count} {how}"] for how in ("side by side", "one after another")
        )
        assert f"| {count} | {together:.1f} s | {apart:.1f} s |" in readme
    for bar in [bar for part in parts.values() if "exponents" not in part for bar in part["bars"]]:
        against = bar["against"]
        cells = [
            bar["of"] + (", memory" if bar["what"] == "memory" else ""),
            f"{against:.0f} s" if isinstance(against, float) else against,
            f"{bar['ratio']:.2f}",
            f"{bar['least']:.2f}",
            verdict(bar),
        ]
        assert f"| {' | '.join(cells)} |" in readme


def test_the_table_and_the_drawing_of_growth_say_what_was_measured():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    report = result("bench")
    drawing = (ROOT / "assets" / "results" / "growth.svg").read_text(encoding="utf-8")
    assert drawing == growth_figure(report)
    for name, part in report["parts"].items():
        bars = {bar["of"].split(",")[0]: bar for bar in part["bars"]}
        for work, slope in part.get("exponents", {}).items():
            cells = [name.removeprefix("growth of "), work, f"{slope:.2f}"]
            if bar := bars.get(work):
                cells += [f"{1 / bar['ratio']:.2f}", f"{1 / bar['least']:.2f}", verdict(bar)]
            assert f"| {' | '.join(cells)} |" in readme or f"| {' | '.join(cells)} | –" in readme


def test_the_tables_of_answers_say_what_was_measured():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    speed, throughput = result("speed"), result("throughput")
    for name, way in speed["ways"].items():
        cells = [
            name,
            f"{1e3 * way['first token']:.0f} ms",
            f"{1e3 * way['answer']:.0f} ms",
            f"{way['tokens per second']:.1f}",
            f"{way['same']} of {speed['prompts']}",
        ]
        assert f"| {' | '.join(cells)} |" in readme
    for name, bar in speed["bars"].items():
        cells = [name, f"{bar['ratio']:.2f}", f"{bar['least']:.2f}", verdict(bar)]
        assert f"| {' | '.join(cells)} |" in readme
    for width, ways in throughput["widths"].items():
        cells = [width, *(f"{way['tokens per second']:.0f}" for way in ways.values())]
        assert f"| {' | '.join(cells)} |" in readme
    for bar in throughput["bars"]:
        cells = [f"{bar['of']}, {bar['width']} rows", bar["against"], f"{bar['ratio']:.2f}"]
        cells += [f"{bar['least']:.2f}", verdict(bar)]
        assert f"| {' | '.join(cells)} |" in readme


def test_the_table_of_sizes_says_what_was_measured():
    measured = json.loads((ROOT / "assets" / "results" / "scaling.json").read_text("utf-8"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert measured["code"]["dirty"] is False
    for bank in measured["banks"]:
        cells = [
            f"{bank['tasks']:,}",
            f"{bank['bytes_by_arithmetic'] / 1e6:.0f} MB",
            f"{bank['bytes'] / 1e6:.0f} MB",
            f"{1e3 * bank['plan_seconds']:.0f} ms",
            f"{bank['decode_seconds']:.2f} s",
        ]
        assert f"| {' | '.join(cells)} |" in readme
    assert f"{measured['swap']['add_seconds']:.2f} s and let go" in readme


def test_the_text_on_what_is_added_and_shared_says_what_was_measured():
    text = (ROOT / "assets" / "results" / "README.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (growth,) = boards(ROOT / "assets" / "results" / "growth").boards
    for method, name in (("CGC-LoRA", "from the start"), (ADDED, "added")):
        (entry,) = (one for one in growth.entries if one.method == method)
        values = [*(entry.scores[task.name].estimate.value for task in growth.tasks)]
        cells = [f"{100 * value:.1f}" for value in [*values, entry.overall.value]]
        assert f"| {name} | {' | '.join(cells)} |" in text
        assert cells[-1] in readme
    (main,) = (b for b in boards(ROOT / "assets" / "results" / "main").boards if len(b.tasks) == 8)
    for entry in main.entries:
        loss = min(read_run(entry.folders[0]).manifest["dev_losses"].values())
        cells = [f"{loss:.3f}", f"{100 * entry.overall.value:.1f}"]
        cells.append(f"{100 * entry.scores['NER'].estimate.value:.1f}")
        assert f"| {entry.method} | {' | '.join(cells)} |" in text
        assert cells[1] in readme


def test_the_text_on_eight_bits_says_what_was_measured():
    found = json.loads((ROOT / "assets" / "results" / "agreement.json").read_text("utf-8"))
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert found["code"]["dirty"] is False
    assert f"On {found['tokens']:,} tokens of right answers" in readme
    for way in ("transformers, bf16", "lean, bf16", "lean, int8", "like bf16"):
        assert f"{100 * found[way]['agreement']:.1f} %" in readme
    assert found["like bf16"]["agreement"] > 0.985


def test_the_table_of_waits_says_what_was_measured():
    measured = json.loads((ROOT / "assets" / "results" / "page_speed.json").read_text("utf-8"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert measured["code"]["dirty"] is False
    reached = {True: "reached", False: "missed", None: ""}
    for row in measured["timings"]:
        bar = f"{row['bar']:.1f} s" if row["bar"] else "–"
        cells = [row["name"], f"{row['median']:.2f} s", bar, reached[row["reached"]]]
        assert f"| {' | '.join(cells)} |" in readme
    for row in measured["memory"]:
        held, bar = (f"{row[key] / 1e9:.2f} GB" for key in ("bytes", "bar"))
        assert f"| {row['name']} | {held} | {bar} | {reached[row['reached']]} |" in readme


def test_the_table_of_reliability_says_what_was_measured():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(result(name)["code"]["dirty"] is False for name in reliability.RESULT_NAMES)
    assert "\n".join(reliability.rows()) in readme


def test_the_table_of_faults_says_what_was_tried():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tried = result("faults")
    assert not tried["skipped"]
    assert len(tried["outcomes"]) == tried["trials"]
    passed = [one for one in tried["outcomes"] if not one["problem"]]
    assert f"{len(passed)} of {tried['trials']} trials: nothing lost." in readme
    for fault in {one["fault"] for one in tried["outcomes"]}:
        number, kept = (
            sum(one["fault"] == fault for one in all_of) for all_of in (tried["outcomes"], passed)
        )
        assert f"| {fault} | {number} | {kept} |" in readme
