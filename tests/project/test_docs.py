"""The documentation: its tables are those of the results, its links and paths lead somewhere."""

import re
from pathlib import Path

import pytest

from cgclora.__main__ import main as library
from evals.__main__ import main
from evals.figures.docs_tables import filled

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "assets").rglob("README.md"))
LINK = re.compile(r"(?<!`)\[[^\]\[`]*\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them; no page here repeats a heading."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


def test_the_readme_is_short():
    assert (ROOT / "README.md").stat().st_size <= 9216
    assert len(list((ROOT / "docs").iterdir())) <= 12


def test_every_generated_file_is_current(capsys):
    assert main(["docs", "--check"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files_and_headings(page):
    for target in LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_paths_of_the_repository_exist(page):
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:cgclora|evals|ui|tests|docs|assets)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"python -m (tests\.[\w.]+|ui\.[\w.]+)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_are_known(page, capsys):
    text = page.read_text(encoding="utf-8")
    for package, command in set(re.findall(r"python -m (cgclora|evals) ([a-z][a-z-]*)", text)):
        run = main if package == "evals" else library
        with pytest.raises(SystemExit) as ended:
            run([command, "--help"])
        assert ended.value.code == 0, f"{package} {command}"
        assert command in capsys.readouterr().out


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the results of this one and a page of its own."""
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    return tmp_path


def test_a_table_is_replaced_and_the_rest_of_its_page_kept(project):
    page = project / "docs" / "speed.md"
    page.parent.mkdir()
    page.write_text("before\n<!-- table: speed -->\nold\n<!-- end -->\nafter\n", encoding="utf-8")
    text = filled(page, project)
    assert text.startswith("before\n<!-- table: speed -->\n\n|")
    assert text.endswith("<!-- end -->\nafter\n")
    assert "old" not in text
    assert "Source: [speed.json](../assets/results/speed.json), x86_64" in text


def test_an_unknown_table_is_an_error(project):
    (project / "README.md").write_text("<!-- table: size -->\n<!-- end -->\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"README.md names the table 'size'; there are \['main'"):
        filled(project / "README.md", project)
