"""A user's file from upload to export in a real browser: on a tiny backbone, with real jobs."""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from peft import PeftModel
from playwright.sync_api import Page, expect
from transformers import AutoModelForCausalLM

from evals.tasks.samples import OWN_EXAMPLE
from tests.browser.app_server import serve
from tests.browser.app_tour import View, browsing, looking, settle
from tests.helpers.tiny import save_backbone
from tests.ui.test_app import save_adapter

pytestmark = pytest.mark.browser

MINUTES = 60_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    save_backbone(folder / "backbone")
    save_adapter(folder / "adapters" / "general", ("NER",))
    lines = OWN_EXAMPLE.read_text(encoding="utf-8").splitlines()
    (folder / "mine.jsonl").write_text("\n".join(lines[:60]), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Iterator[Page]:
    settings = {
        "CGCLORA_BACKBONE": str(folder / "backbone"),
        "CGCLORA_ADAPTERS": str(folder / "adapters"),
        "CGCLORA_RUNS": str(folder / "runs"),
        "CGCLORA_DATA": None,
        "CGCLORA_INT8": "0",
    }
    telephone = View(width=390, scheme="dark", language="en")
    with (
        serve(settings) as address,
        browsing() as browser,
        looking(browser, telephone) as page,
    ):
        page.set_default_timeout(3 * MINUTES)
        wrong: list[str] = []
        page.on("console", lambda said: said.type == "error" and wrong.append(said.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"{address}/?tab=compare&compare_source=upload&lang=en")
        yield page
        assert wrong == []


def test_a_file_becomes_a_board_an_adapter_and_an_export(page: Page, folder: Path) -> None:
    settle(page)  # an upload before the page is open would go unnoticed
    page.set_input_files("#compare-train-file input[type=file]", folder / "mine.jsonl")
    expect(page.locator("#compare-report .train-figures")).to_contain_text("4")
    expect(page.locator("#compare-own")).to_contain_text("lines of key and value")
    for method in ("LoRA (Full)", "MOE-LoRA"):
        page.locator("#compare-which label", has_text=method).first.click()
    page.locator("#compare-rates label", has_text="0.003").click()
    page.locator("#compare-advanced > button").click()
    page.locator("#compare-epochs input").fill("1")
    expect(page.locator("#compare-command textarea")).to_have_value(re.compile("--epochs 1"))

    page.locator("#compare-name input, #compare-name textarea").fill("mine")
    page.click("#compare-start")
    expect(page.locator("#compare-job .job.done")).to_be_visible(timeout=5 * MINUTES)
    rows = page.locator("#compare-job .compare-board tbody tr")
    expect(rows).to_have_count(2)
    expect(page.locator("#compare-job .compare-verdict li").first).to_be_visible()

    page.locator("#compare-keep button").click()
    kept = page.locator("#compare p[role=status]", has_text="mine-cgc-lora")
    expect(kept).to_be_visible()
    kept.locator("a", has_text="xport").click()
    expect(page.locator("#export-adapter label.selected")).to_contain_text("mine-cgc-lora")
    page.locator("#export-start").click()
    ready = page.locator("#export-job a[download]")
    expect(ready).to_be_visible(timeout=3 * MINUTES)
    with page.expect_download() as download:
        ready.click()
    target = folder / "export.zip"
    download.value.save_as(target)
    with zipfile.ZipFile(target) as archive:
        archive.extractall(folder / "export")
    loras = sorted(path.parent for path in (folder / "export").rglob("adapter_config.json"))
    assert len(loras) == 4  # one a task
    bare = AutoModelForCausalLM.from_pretrained(folder / "backbone")
    assert PeftModel.from_pretrained(bare, loras[0]).active_adapters == ["default"]
