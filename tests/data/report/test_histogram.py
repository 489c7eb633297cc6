import xml.etree.ElementTree as ElementTree

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from report_tables import made_tables, made_videos

from data.report.histogram import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, chart, histogram
from data.report.scores import Limit, charted
from data.report.tables import build_table, clip_schema

SAMPLES = {
    "normal": lambda rng, n: rng.normal(5, 1, n),
    "negative": lambda rng, n: rng.normal(-200, 3, n),
    "heavy tail": lambda rng, n: rng.pareto(1.1, n),
    "both tails": lambda rng, n: rng.standard_cauchy(n),
    "whole": lambda rng, n: rng.integers(0, 300, n).astype(float),
    "two values": lambda rng, n: rng.choice([24.0, 30.0], n),
    "tiny": lambda rng, n: rng.uniform(0, 1e-7, n),
    "tenths": lambda rng, n: rng.integers(0, 25, n) / 10,
    "constant": lambda rng, n: np.full(n, 12.0),
    "zero": lambda rng, n: np.zeros(n),
}


def bars(svg: str, kind: str) -> list[dict[str, float]]:
    names = ("x", "y", "width", "height")
    return [
        {name: float(each.attrib[name]) for name in names}
        for each in ElementTree.fromstring(svg).iter("rect")
        if each.attrib["class"] == kind
    ]


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("count", [1, 2, 500])
def test_bins_hold_every_row_and_are_numpys(name: str, count: int, rng: np.random.Generator) -> None:
    kept, dropped = SAMPLES[name](rng, count), SAMPLES[name](rng, count // 2)
    bins = histogram(kept, dropped)
    edges = bins.edges
    assert np.all(np.diff(edges) > 0)
    assert np.allclose(np.diff(edges), edges[1] - edges[0])
    assert len(edges) <= 27
    for values, counts in ((kept, bins.kept), (dropped, bins.dropped)):
        assert counts.sum() == len(values)
        expected = np.histogram(values, edges)[0]
        expected[0] += (values < edges[0]).sum()
        expected[-1] += (values > edges[-1]).sum()
        assert np.array_equal(counts, expected)
    beyond = (bins.below, bins.above)
    both = np.concatenate((kept, dropped))
    assert beyond == ((both < edges[0]).sum(), (both > edges[-1]).sum())
    assert sum(beyond) <= 0.02 * len(both) + 1


def test_tenths_fall_into_the_bins_that_they_begin() -> None:
    values = np.arange(24) / 10
    bins = histogram(values, np.zeros(0))
    assert bins.edges.tolist() == [k / 10 for k in range(24)]
    assert bins.kept.tolist() == [1] * 22 + [2]


def test_a_few_rows_far_out_do_not_squeeze_the_others(rng: np.random.Generator) -> None:
    values = np.concatenate((rng.uniform(0, 1, 1000), [1e6]))
    bins = histogram(values, np.zeros(0))
    assert (bins.kept > 0).sum() > 10
    assert (bins.below, bins.above > 0) == (0, True)


@pytest.mark.parametrize(("mark", "is_inside"), [(-3.0, True), (0.5, True), (14.0, True), (1000.0, False)])
def test_limits_are_on_the_chart_unless_they_are_far_out(mark: float, is_inside: bool) -> None:
    edges = histogram(np.linspace(1, 10, 100), np.zeros(0), (mark,)).edges
    assert (edges[0] <= mark <= edges[-1]) == is_inside
    assert edges[0] <= 1
    assert edges[-1] >= 10


def test_the_chart_draws_bars_of_their_counts_and_thresholds_where_they_are(rng: np.random.Generator) -> None:
    kept, dropped = rng.uniform(0, 10, 300), rng.uniform(0, 3, 40)
    bins = histogram(kept, dropped, (1.3, 8.7))
    svg = chart(bins, 1.3, 8.7, "a <title>")
    low, high = bins.edges[0], bins.edges[-1]
    plot, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def value_at(x: float) -> float:
        return low + (x - LEFT) / plot * (high - low)

    lines = [e.attrib["d"] for e in ElementTree.fromstring(svg).iter("path") if e.attrib["class"] == "threshold"]
    assert [value_at(float(line[1:].split()[0])) for line in lines] == pytest.approx([1.3, 8.7], abs=0.01)
    below, above = bars(svg, "outside")
    assert value_at(below["x"]) == pytest.approx(low)
    assert value_at(below["x"] + below["width"]) == pytest.approx(1.3, abs=0.01)
    assert value_at(above["x"]) == pytest.approx(8.7, abs=0.01)
    assert value_at(above["x"] + above["width"]) == pytest.approx(high)

    scale = (bins.kept + bins.dropped).max() / tall
    for kind, counts in (("kept", bins.kept), ("dropped", bins.dropped)):
        drawn = bars(svg, kind)
        nonzero = counts[counts > 0]
        assert [bar["height"] * scale for bar in drawn] == pytest.approx(nonzero.tolist(), abs=max(scale, 0.01))
        middles = ((bins.edges[:-1] + bins.edges[1:]) / 2)[counts > 0]
        assert [value_at(bar["x"] + bar["width"] / 2) for bar in drawn] == pytest.approx(middles.tolist(), abs=0.02)
    tops = {bar["x"]: bar["y"] for bar in bars(svg, "kept")}
    for bar in bars(svg, "dropped"):
        assert bar["y"] + bar["height"] == pytest.approx(tops.get(bar["x"], HEIGHT - BOTTOM))


def test_a_threshold_outside_is_not_drawn() -> None:
    bins = histogram(np.linspace(1, 10, 100), np.zeros(0), (1000.0,))
    assert "threshold" not in chart(bins, 1000.0, None, "title")


def test_scores_are_the_tables_columns_with_the_configs_limits(rng: np.random.Generator) -> None:
    videos, clips = made_tables(made_videos(60, rng), {"https://example.org/x.mp4": "five5"}, rng=rng)
    filters = {
        "min_motion": 0.05,
        "max_motion": None,
        "max_aspect": 2.0,
        "min_side": 256,
        "min_scores": {"aesthetic": 4},
    }
    found = {scores.title: scores for scores in charted(videos, clips, filters)}
    rows, clip_rows = videos.to_pylist(), clips.to_pylist()

    def column(rows: list[dict[str, float]], name: str, kept: bool) -> NDArray[np.float64]:
        return np.array([row[name] for row in rows if row[name] is not None and (row["rule"] is None) == kept])

    for title, table, name in (("Motion", clip_rows, "motion"), ("Duration of videos", rows, "seconds")):
        assert np.array_equal(found[title].kept, column(table, name, kept=True))
        assert np.array_equal(found[title].dropped, column(table, name, kept=False))
    probed = [row for row in rows if row["height"] and not row["rule"]]
    assert found["Size of videos"].kept.tolist() == [min(row["height"], row["width"]) for row in probed]
    assert found["Aspect of videos"].kept.tolist() == [row["width"] / row["height"] for row in probed]
    assert found["Duration of videos"].missing == sum(row["seconds"] is None for row in rows) > 0
    assert (found["Motion"].lower, found["Motion"].upper) == (Limit("filters.min_motion", 0.05), None)
    assert found["Aspect of videos"].upper == Limit("filters.max_aspect", 2.0)
    assert found["Size of videos"].lower == Limit("filters.min_side", 256)
    assert found["aesthetic"].lower == Limit("filters.min_scores.aesthetic", 4)


def test_a_captions_length_is_that_of_the_longest() -> None:
    captions = [["a", "four"], [], None, ["👩🏽"], ["x" * 50, ""]]
    clips = build_table([{"captions": each} for each in captions], clip_schema([]))
    for table in (clips, pa.concat_tables([clips.slice(0, 2), clips.slice(2)])):
        found = {scores.title: scores for scores in charted(made_tables([], {})[0], table, {})}
        assert found["Caption length"].kept.tolist() == [4, 0, 0, 2, 50]
    none = build_table([{"captions": []}], clip_schema([]))
    found = {scores.title: scores for scores in charted(made_tables([], {})[0], none, {})}
    assert not len(found["Caption length"].kept)
