"""The drawing of how time grows."""

import json
import re
from xml.etree import ElementTree

import pytest

import evals.__main__
from cgclora.config import ConfigError
from evals.speed.bench_growth import PART_NAMES, SIZES, WORK, exponents, label
from evals.speed.growth_figure import growth_figure


def report() -> dict[str, object]:
    """Times that grow with the powers 0.5 and 0."""
    parts = {}
    for what, name in PART_NAMES.items():
        medians = {
            label(work, size, what): 2.0 * size**power
            for work, power in zip(WORK, (0.5, 0.0), strict=True)
            for size in SIZES[what]
        }
        found = exponents(medians, what)
        parts[name] = {"medians": medians, "exponents": found}
    return {"parts": parts}


def test_every_size_is_a_point_and_every_panel_says_its_exponents():
    drawing = growth_figure(report())
    root = ElementTree.fromstring(drawing)
    circles = [one for one in root.iter() if one.tag.endswith("circle")]
    assert len(circles) == 2 * sum(map(len, SIZES.values()))
    assert drawing.count("exponents: training step 0.50, 16 tokens 0.00") == len(SIZES)
    places = {one[0].text: float(one.get("cy")) for one in circles}
    few, many = (
        next(y for words, y in places.items() if words.startswith(f"training step, {size} tasks"))
        for size in ("1", "1,000")
    )
    assert many < few  # more time is further up
    assert "training step, 64 experts: 16.000 s, 4.00×" in places
    inside = re.search(r'viewBox="0 0 (\d+) (\d+)"', drawing)
    assert all(0 <= y <= int(inside[2]) for y in places.values())


def test_a_report_without_the_parts_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"growth of experts.*all parts"):
        growth_figure({"parts": {}})
    (tmp_path / "bench.json").write_text(json.dumps(report()), encoding="utf-8")
    words = ["growth", str(tmp_path / "bench.json"), "--out", str(tmp_path / "growth.svg")]
    assert evals.__main__.main(words) == 0
    assert (tmp_path / "growth.svg").read_text(encoding="utf-8") == growth_figure(report())
