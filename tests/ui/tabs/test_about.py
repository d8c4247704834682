"""The tab about the method: its drawing, its numbers, and what can be chosen in a browser."""

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from playwright.sync_api import Page, expect
from starlette.requests import Request

from cgclora.adapter import Adapter, backbone_parameters
from cgclora.config import AdapterConfig
from cgclora.storage.adapter_dir import read_manifest
from cgclora.storage.layer_shapes import layer_kinds
from tests.browser.app_tour import visiting
from tests.helpers.tiny import make_backbone
from tests.ui.test_app import MARKUP, loaded_engine
from ui.components.texts import text
from ui.engine.engine import Engine
from ui.shell import Shell
from ui.tabs.about import facts as about_facts
from ui.tabs.about import use as about_use
from ui.tabs.about.drawing import Drawn, drawing, shortened
from ui.tabs.about.layer import drawn_adapters, layer
from ui.tabs.about.parts import panels
from ui.tabs.about.tab import About

ROOT = Path(__file__).parents[3]
SHIPPED = sorted(path.parent for path in (ROOT / "assets" / "adapters").rglob("manifest.json"))
TASKS = ("NER", "Couplet", "<b>bold</b>")
CONFIGS = {
    "general": AdapterConfig(TASKS, common=2, specific=2, embedding_size=5),
    "compare/lora": AdapterConfig.lora(TASKS, rank=3),
    "compare/moe": AdapterConfig.moe_lora(TASKS, experts=4, rank=8, embedding_size=6),
    "compare/even": AdapterConfig(TASKS, common=1, specific=1, gate="uniform"),
    "compare/sum": AdapterConfig(TASKS, common=0, specific=1, gate="none"),
}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    backbone = make_backbone()
    for name, config in CONFIGS.items():
        adapter = Adapter.attach(backbone, config, name="saved")
        adapter.save(folder / name, facts={"method": MARKUP} if name == "compare/sum" else {})
        adapter.detach()
    return folder


@pytest.fixture(scope="module")
def engine(adapters: Path) -> Engine:
    return loaded_engine(adapters)


@pytest.fixture(scope="module")
def drawn(engine: Engine) -> dict[str, Drawn]:
    return {one.name: one for one in drawn_adapters(engine, "en")}


def parts_of(one: Drawn) -> dict[str, dict[str, str]]:
    """The attributes of the parts of a drawing, by key."""
    groups = re.findall(r'<g class="part[^>]*>', drawing(one, "en"))
    attributes = [dict(re.findall(r'([\w-]+)="([^"]*)"', group)) for group in groups]
    assert all(found["role"] == "button" and found["aria-label"] for found in attributes)
    return {found["data-part"]: found for found in attributes}


# The drawing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda path: path.name)
def test_the_file_s_header_says_which_layers_are_trained(folder: Path) -> None:
    manifest, config = read_manifest(folder)
    shapes = [(kind.inner, kind.outer) for kind in layer_kinds(folder) for _ in range(kind.layers)]
    assert config.trainable_parameters(shapes) == manifest["trainable_parameters"]


def test_a_file_without_a_header_is_named(tmp_path: Path) -> None:
    (tmp_path / "adapter.safetensors").write_bytes(b"no tensors here")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=str(folder)):
            layer_kinds(folder)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_expert_is_drawn_with_its_owner(drawn: dict[str, Drawn], name: str) -> None:
    parts = parts_of(drawn[name])
    config = CONFIGS[name]
    for matrix in ("A", "B"):
        owners = [found.get("data-task") for key, found in parts.items() if key.endswith(matrix)]
        assert len(owners) == config.num_experts
        assert owners.count(None) == config.common
        for task in config.tasks:
            escaped = task.replace("<", "&lt;").replace(">", "&gt;")
            assert owners.count(escaped) == config.specific


def test_a_lora_has_neither_gate_nor_weights(drawn: dict[str, Drawn]) -> None:
    assert parts_of(drawn["compare/lora"]).keys() == {
        *("input", "frozen", "scale", "sum", "common-1-A", "common-1-B"),
    }
    assert "gate" in parts_of(drawn["compare/moe"])
    assert "gate" in parts_of(drawn["compare/sum"])


@pytest.mark.parametrize("name", CONFIGS)
def test_every_part_is_explained_and_nothing_else(drawn: dict[str, Drawn], name: str) -> None:
    wanted = {found["data-panel"] for found in parts_of(drawn[name]).values()}
    explained = re.findall(r'data-explains="([^"]+)"', panels(drawn[name], "zh"))
    assert sorted(explained) == sorted(wanted | set(explained) & {"specific-A", "specific-B"})
    assert wanted <= set(explained)


@pytest.mark.parametrize("name", ["general", "compare/lora", "compare/moe", "compare/even"])
def test_the_parameters_of_all_parts_add_up_to_those_trained(
    engine: Engine, drawn: dict[str, Drawn], name: str
) -> None:
    one, config = drawn[name], CONFIGS[name]
    total = 0
    for panel in re.findall(
        r'<div class="explained".*?(?=<div class="explained"|$)', panels(one, "en")
    ):
        key = re.search(r'data-explains="([^"]+)"', panel)[1]  # type: ignore[index]
        whose = key.partition("-")[0]
        experts = {
            "common": config.common,
            "specific": config.num_experts - config.common,
        }.get(whose, 1)
        if "frozen, not trained" in panel:
            continue
        shared = re.search(r"([\d,]+), shared by the whole model", panel)
        if shared:
            total += int(shared[1].replace(",", ""))
        for kinds, sizes in re.findall(r'<dl data-layer="([^"]+)"(.*?)</dl>', panel):
            for count in re.findall(r"([\d,]+) in the \d+ layers", sizes):
                total += experts * int(count.replace(",", "")) * len(kinds.split("|"))
    assert total == engine.manifests[name]["trainable_parameters"]


def test_what_somebody_else_named_is_never_markup(engine: Engine) -> None:
    html = layer(engine, "zh") + about_facts.tree(engine, "zh") + about_facts.budgets(engine, "zh")
    assert "&lt;b&gt;bold&lt;/b&gt;" in html
    assert "&lt;script&gt;" in html
    assert "<b>bold" not in html
    assert "<script" not in html
    assert "<img" not in html


def test_an_adapter_whose_file_is_damaged_is_left_out(adapters: Path, tmp_path: Path) -> None:
    for name in ("config.json", "manifest.json", "adapter.safetensors"):
        for folder in ("sound", "broken"):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / name).write_bytes((adapters / "general" / name).read_bytes())
    (tmp_path / "broken" / "adapter.safetensors").write_bytes(b"no tensors here")
    engine = Engine(tmp_path, load=lambda progress: make_backbone())
    assert [one.name for one in drawn_adapters(engine, "en")] == ["sound"]


def test_without_an_adapter_the_tab_says_so(tmp_path: Path) -> None:
    engine = loaded_engine(tmp_path)
    note = text("about_no_adapter", "en")
    assert note in layer(engine, "en")
    assert note in about_facts.budgets(engine, "en")
    assert about_facts.tree(engine, "en")
    assert "Client('http://here')" in unescape(
        about_use.programs(engine, "http://here", False, "en")
    )


@pytest.mark.parametrize(
    ("words", "short"), [("短", "短"), ("一二三四", "一二…"), ("abcdefgh", "abcde…")]
)
def test_long_names_are_cut_to_the_room_there_is(words: str, short: str) -> None:
    assert shortened(words, 6) == short


# The facts ------------------------------------------------------------------------------------


def row(html: str, key: str) -> list[str]:
    """The cells of a row, without markup."""
    found = re.search(rf'<th scope="row">{re.escape(text(key, "en"))}</th>(.*?)</tr>', html)
    assert found, key
    return [re.sub("<[^>]+>", "", cell) for cell in re.findall("<td>(.*?)</td>", found[1])]


def test_the_table_says_what_configs_and_manifests_say() -> None:
    engine = Engine(ROOT / "assets" / "adapters", load=lambda progress: make_backbone())
    html = about_facts.budgets(engine, "en")
    for place, name in enumerate(engine.adapters()):
        manifest, config = read_manifest(engine.path(name))
        training = manifest["training"]
        assert row(html, "about_ranks")[place] == f"{config.total_rank} / {config.active_rank}"
        assert row(html, "about_records")[place] == f"{training['records']['train']:,}"
        assert row(html, "about_steps")[place] == f"{training['steps']:,}"
        assert row(html, "about_dev_loss")[place] == f"{training['best_dev_loss']:.3f}"
        assert training["train_data"].startswith(row(html, "about_data")[place])
        assert manifest["code"]["commit"].startswith(row(html, "about_commit")[place])
        assert row(html, "about_share")[place] == text("about_share_later", "en")
        trained = manifest["trainable_parameters"]
        assert float(row(html, "about_trained_parameters")[place].split()[0]) == pytest.approx(
            trained / 1e6, rel=0.005
        )


def test_the_share_is_of_the_backbone_without_its_adapters(engine: Engine) -> None:
    html = about_facts.budgets(engine, "en")
    size = sum(parameter.numel() for parameter in make_backbone().model.parameters())
    backbone, _ = engine.loaded("general")
    assert backbone_parameters(backbone.model) == size
    assert row(html, "about_share") == [
        f"{engine.manifests[name]['trainable_parameters'] / size:.2%}" for name in engine.adapters()
    ]


def test_what_a_manifest_does_not_say_is_left_open(engine: Engine) -> None:
    html = about_facts.budgets(engine, "en")
    for key in ("about_records", "about_steps", "about_dev_loss", "about_data"):
        assert set(row(html, key)) == {"–"}
    assert "LicenseRef" not in row(html, "about_licence")[0]
    assert row(html, "about_licence")[0] == "MIT"


def test_the_paper_is_cited_as_the_readme_cites_it() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (entry,) = re.findall(r"```bibtex\n(.+?)\n```", readme, re.DOTALL)
    assert entry == about_use.CITATION


def asked(headers: dict[str, str], *, mcp: bool = False) -> gr.Request:
    """The request of a page that lies behind those headers."""
    scope = {
        "type": "http",
        "method": "POST",
        "scheme": "http",
        "server": ("127.0.0.1", 7860),
        "path": "/gradio_api/run/predict",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "app": SimpleNamespace(blocks=SimpleNamespace(mcp_server=mcp)),
    }
    return gr.Request(Request(scope))


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ({"host": "localhost:7860"}, "http://localhost:7860"),
        (
            {"host": "inside", "x-forwarded-host": "me.hf.space", "x-forwarded-proto": "https"},
            "https://me.hf.space",
        ),
    ],
)
def test_programs_are_given_the_address_that_the_visitor_uses(
    headers: dict[str, str], address: str
) -> None:
    assert about_use.address_of(asked(headers)) == address


@pytest.mark.parametrize("mcp", [False, True])
def test_the_tab_says_whether_mcp_is_on(engine: Engine, mcp: bool) -> None:
    found = about_use.has_mcp(asked({"host": "x"}, mcp=mcp))
    html = about_use.programs(engine, "http://x", found, "en")
    assert (text("about_mcp_on", "en") in html) == mcp
    assert ("http://x/gradio_api/mcp/" in html) == mcp


def test_the_backbone_s_size_comes_once_it_is_loaded(adapters: Path) -> None:
    engine = Engine(adapters, load=lambda progress: make_backbone())
    with gr.Blocks() as page:
        shell = Shell(page)
        with shell.tab("about"):
            tab = About(shell, engine)
    visitor: Any = SimpleNamespace(query_params={"lang": "en"}, headers={})
    before = tab._look(visitor)
    assert before[tab.clock].active
    assert text("about_share_later", "en") in before[tab.installed]
    engine.start()
    assert engine.wait(60)
    after = tab._look(visitor)
    assert not after[tab.clock].active
    assert text("about_share_later", "en") not in after[tab.installed]


# In a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(engine: Engine) -> Iterator[Page]:
    with gr.Blocks() as built:
        shell = Shell(built)
        with shell.tab("about"):
            About(shell, engine)
        shell.wire()
    with visiting(built, "tab=about&lang=en") as page:
        page.locator("#about-layer .layer").first.wait_for()
        yield page


@pytest.mark.browser
def test_choosing_needs_no_server(page: Page) -> None:
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    shown = page.locator("#about-layer .layer:not([hidden])")
    name = shown.locator(".explained-name")
    visible = shown.locator("[data-explains]:visible")

    shown.locator("[data-part=common-2-B]").click()
    expect(name).to_have_text("Common 2 · B")
    expect(visible).to_have_attribute("data-explains", "common-B")
    page.keyboard.press("ArrowRight")
    expect(name).to_have_text("Common 2 · weight g")
    expect(shown.locator("[data-part=common-2-weight]")).to_be_focused()
    page.keyboard.press("Home")
    expect(name).to_have_text("Input x")
    expect(shown.locator(".part[tabindex='0']")).to_have_count(1)

    shown.locator("[data-choice=layer]").select_option(index=1)
    shown.locator("[data-part=frozen]").click()
    expect(visible.locator("dl:visible dd").first).to_have_text("16 × 32")

    shown.locator("[data-choice=task]").select_option("Couplet")
    faded = shown.locator(".part.faded[data-part$=A]")
    expect(faded).to_have_count(4)
    assert "Couplet" not in [one.get_attribute("data-task") for one in faded.all()]

    shown.locator("[data-choice=adapter]").focus()
    shown.locator("[data-choice=adapter]").select_option("compare/lora")
    expect(shown).to_have_attribute("data-adapter", "compare/lora")
    expect(shown.locator("[data-choice=task]")).to_be_disabled()
    expect(shown.locator("[data-choice=adapter]")).to_be_focused()
    assert "about-adapter=compare%2Flora" in page.url
    assert not [url for url in sent if "gradio_api" in url]
