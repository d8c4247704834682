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
from tests.helpers.tiny_models import tiny_models
from tests.ui.test_app import MARKUP, loaded_engine
from ui.components.answering_models import adapter_title
from ui.components.texts import text
from ui.engine.engine import AppEngine
from ui.shell import Shell
from ui.tabs.about import facts as about_facts
from ui.tabs.about.layer import LayerView, formula, layer
from ui.tabs.about.tab import About, readable_adapters

ROOT = Path(__file__).parents[3]
SHIPPED = sorted(path.parent for path in (ROOT / "assets" / "adapters").rglob("manifest.json"))
TASKS = ("NER", "Couplet", "<b>bold</b>")
CONFIGS = {
    "general": AdapterConfig(TASKS, common=2, specific=2, embedding_size=5),
    "compare/lora": AdapterConfig.lora(TASKS, rank=3),
    "compare/moe": AdapterConfig.moe_lora(TASKS, experts=4, rank=8, embedding_size=6),
    "compare/even": AdapterConfig(TASKS, common=1, specific=1, gate="uniform"),
    "compare/sum": AdapterConfig(TASKS, common=0, specific=1, gate="none"),
    "compare/mtl": AdapterConfig.mtl_lora(TASKS, experts=2, rank=3),
    "compare/poly": AdapterConfig.c_poly(TASKS, common=2, specific=1),
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
def engine(adapters: Path) -> AppEngine:
    return loaded_engine(adapters)


def view_of(engine: AppEngine, name: str, task: str = "NER", place: int = 0) -> LayerView:
    titles = {one: f"title of {one}" for one in engine.tasks(name)}
    return LayerView(engine.configs[name], layer_kinds(engine.path(name))[place], titles, task)


def parts_of(view: LayerView) -> dict[str, str]:
    """The names of the parts that can be chosen in a drawing, by key."""
    html = layer(view, "en")
    return dict(
        re.findall(
            r'<input type="radio" name="about-part" value="([^"]*)" aria-label="([^"]*)"', html
        )
    )


def visitor(**query: str) -> Any:
    headers = {"host": "localhost:7860"}
    scope = asked(headers).request.scope  # type: ignore[union-attr]
    text = "&".join(f"{key}={value}" for key, value in query.items())
    return gr.Request(Request({**scope, "query_string": text.encode()}))


def tab_of(engine: AppEngine) -> About:
    with gr.Blocks() as page:
        shell = Shell(page)
        with shell.tab("about"):
            return About(shell, engine)


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
def test_every_expert_is_drawn_with_its_owner(engine: AppEngine, name: str) -> None:
    config = CONFIGS[name]
    html = layer(view_of(engine, name), "en")
    lanes = re.findall(r'<div class="lane expert (\w+)( unused)?">', html)
    assert len(lanes) == config.num_experts
    assert lanes.count(("common", "")) == config.common
    assert lanes.count(("specific", "")) == config.specific
    assert lanes.count(("specific", " unused")) == config.specific * (len(config.tasks) - 1)


def test_a_lora_has_neither_gate_nor_weights(engine: AppEngine) -> None:
    assert parts_of(view_of(engine, "compare/lora")).keys() == {
        *("input", "frozen", "scale", "sum", "common-1-A", "common-1-B"),
    }
    assert "gate" in parts_of(view_of(engine, "compare/moe"))
    assert "gate" in parts_of(view_of(engine, "compare/sum"))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_part_is_explained_and_nothing_else(engine: AppEngine, name: str) -> None:
    view = view_of(engine, name)
    explained = re.findall(r'<section class="explained" data-part="([^"]+)"', layer(view, "zh"))
    assert sorted(explained) == sorted(parts_of(view))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_parameters_of_all_parts_add_up_to_those_trained(engine: AppEngine, name: str) -> None:
    total, shared = 0, 0
    for place in range(len(layer_kinds(engine.path(name)))):
        html = layer(view_of(engine, name, place=place), "en")
        for panel in html.split('<section class="explained"')[1:]:
            if "frozen, not trained" not in panel:
                counts = re.findall(r"([\d,]+) in the \d+ layers", panel)
                total += sum(int(count.replace(",", "")) for count in counts)
        of_model = re.findall(r"([\d,]+), shared by the whole model", html)
        shared = sum(int(count.replace(",", "")) for count in of_model)
    assert total + shared == engine.manifests[name]["trainable_parameters"]


@pytest.mark.parametrize(
    ("source", "markup"),
    [
        ("W_0 x", "<msub><mi>W</mi><mrow><mn>0</mn></mrow></msub><mi>x</mi>"),
        ("∑_{j ∈ U_t} 1.5", "<munder><mo>∑</mo>"),
        ("ℝ^{in}", "<msup><mi>ℝ</mi><mrow><mi>in</mi></mrow></msup>"),
        ("a < b", "<mi>a</mi><mo>&lt;</mo><mi>b</mi>"),
    ],
)
def test_formulas_are_mathml(source: str, markup: str) -> None:
    assert markup in formula(source)


def test_what_somebody_else_named_is_never_markup(engine: AppEngine) -> None:
    html = layer(view_of(engine, "general", "<b>bold</b>"), "zh")
    html += about_facts.tree(engine, "zh") + about_facts.budgets(engine, "zh")
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
    engine = AppEngine(tmp_path, tiny_models())
    assert [*readable_adapters(engine)] == ["sound"]


def test_without_an_adapter_the_tab_says_so(tmp_path: Path) -> None:
    engine = loaded_engine(tmp_path)
    note = text("about_no_adapter", "en")
    tab = tab_of(engine)
    assert note in tab.draw(visitor(lang="en"), None, None, None)[tab.layer]
    assert note in about_facts.budgets(engine, "en")
    assert about_facts.tree(engine, "en")
    assert "Client('http://here')" in unescape(
        about_facts.programs(engine, "http://here", False, "en")
    )


def test_the_address_chooses_until_the_visitor_does(engine: AppEngine) -> None:
    tab = tab_of(engine)
    address = {"about-adapter": "compare/moe", "about-task": "Couplet", "about-layer": "gone"}
    shown = tab.show(visitor(lang="en", **address), None, None, None)
    assert shown[tab.adapter]["value"] == "compare/moe"
    assert shown[tab.task]["value"] == "Couplet"
    assert shown[tab.kind]["value"] == shown[tab.kind]["choices"][0][1]
    again = tab.show(visitor(lang="en", **address), "compare/lora", None, "NER")
    assert again[tab.adapter]["value"] == "compare/lora"
    assert not again[tab.task]["interactive"]
    assert text("about_same_for_all", "en") in again[tab.layer]


# The facts ------------------------------------------------------------------------------------


def row(html: str, key: str) -> list[str]:
    """The cells of a row, without markup."""
    found = re.search(rf'<th scope="row">{re.escape(text(key, "en"))}</th>(.*?)</tr>', html)
    assert found, key
    return [re.sub("<[^>]+>", "", cell) for cell in re.findall("<td>(.*?)</td>", found[1])]


def test_the_table_says_what_configs_and_manifests_say() -> None:
    engine = AppEngine(ROOT / "assets" / "adapters", tiny_models())
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


def test_the_share_is_of_the_backbone_without_its_adapters(engine: AppEngine) -> None:
    html = about_facts.budgets(engine, "en")
    size = sum(parameter.numel() for parameter in make_backbone().model.parameters())
    backbone = engine.models.backbone
    assert backbone_parameters(backbone.model) == size
    assert row(html, "about_share") == [
        f"{engine.manifests[name]['trainable_parameters'] / size:.2%}" for name in engine.adapters()
    ]


def test_what_a_manifest_does_not_say_is_left_open(engine: AppEngine) -> None:
    html = about_facts.budgets(engine, "en")
    for key in ("about_records", "about_steps", "about_dev_loss", "about_data"):
        assert set(row(html, key)) == {"–"}
    assert "LicenseRef" not in row(html, "about_licence")[0]
    assert row(html, "about_licence")[0] == "MIT"


def test_the_paper_is_cited_as_the_readme_cites_it() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (entry,) = re.findall(r"```bibtex\n(.+?)\n```", readme, re.DOTALL)
    assert entry == about_facts.CITATION


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
    assert about_facts.address_of(asked(headers)) == address


@pytest.mark.parametrize("mcp", [False, True])
def test_the_tab_says_whether_mcp_is_on(engine: AppEngine, mcp: bool) -> None:
    found = about_facts.has_mcp(asked({"host": "x"}, mcp=mcp))
    html = about_facts.programs(engine, "http://x", found, "en")
    assert (text("about_mcp_on", "en") in html) == mcp
    assert ("http://x/gradio_api/mcp/" in html) == mcp


def test_the_backbone_s_size_comes_once_it_is_loaded(adapters: Path) -> None:
    engine = AppEngine(adapters, tiny_models())
    tab = tab_of(engine)
    before = tab.watch(visitor(lang="en"))
    assert before[tab.clock].active
    assert text("about_share_later", "en") in before[tab.installed]
    engine.start()
    assert engine.wait(60)
    after = tab.watch(visitor(lang="en"))
    assert not after[tab.clock].active
    assert text("about_share_later", "en") not in after[tab.installed]


# In a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(engine: AppEngine) -> Iterator[Page]:
    with gr.Blocks() as built:
        shell = Shell(built)
        with shell.tab("about"):
            About(shell, engine)
        shell.wire()
    with visiting(built, "tab=about&lang=en") as page:
        page.locator("#about-layer .layer").first.wait_for()
        yield page


@pytest.mark.browser
def test_a_visitor_chooses_parts_by_mouse_and_keyboard(page: Page) -> None:
    name = page.locator("#about-layer .explained:visible h3")
    expect(name).to_have_text("Output h")
    page.locator(".part:has([value=common-2-B])").click()
    expect(name).to_have_text("Common 2 · B")
    page.keyboard.press("ArrowRight")
    expect(name).to_have_text("Common 2 · weight")
    expect(page.locator("[value=common-2-weight]")).to_be_focused()
    assert "about-part=common-2-weight" in page.url


@pytest.mark.browser
def test_a_visitor_chooses_task_layer_and_adapter(engine: AppEngine, page: Page) -> None:
    def choose(name: str, title: str) -> None:
        page.locator(f"#about-{name} input").click()
        page.get_by_role("option", name=title, exact=True).first.click()

    choose("task", "Couplets")
    unused = page.locator(".lane.unused .expert-name")
    expect(unused).to_have_count(4)
    expect(page.locator(".lane.specific:not(.unused) .expert-name").first).to_contain_text(
        "Couplets"
    )
    page.locator(".part.frozen").click()
    before = page.locator(".explained:visible dd").first.inner_text()
    page.locator("#about-linear input").click()
    page.get_by_role("option").nth(1).click()
    expect(page.locator(".explained:visible dd").first).not_to_have_text(before)
    choose("adapter", adapter_title(engine, "compare/lora", "en"))
    expect(page.get_by_text(text("about_same_for_all", "en"))).to_be_visible()
    page.wait_for_url(re.compile("about-adapter=compare%2Flora"))
