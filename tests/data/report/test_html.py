import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from report_tables import NASTY, made_info, made_tables, made_videos, noise

from data.report.examples import choose_examples
from data.report.html import report_page
from data.report.markup import element, joined
from data.report.tables import CLIPS_FILE, VIDEO_SCHEMA, build_table, clip_schema, table_bytes
from video_dit.config import Config, load_config

COMMAND = "python scripts/preprocess.py 'a & <b>' --out x \\\n  'data.path_template=\"{id}.mp4\"'"


class Page(HTMLParser):
    """A page whose elements must be closed in turn: its elements with attributes, and its text by the nearest `id`."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._open: list[str] = []
        self._id = ""
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        self._id = dict(attrs).get("id") or self._id
        if tag not in ("meta", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts[self._id] = self.texts.get(self._id, "") + data

    @property
    def text(self) -> str:
        return " ".join(self.texts.values())

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [a for name, a in self.elements if name == tag and wanted.items() <= a.items()]


def written(
    folder: Path,
    tables: tuple[pa.Table, pa.Table],
    pictures: dict[str, Any] | None = None,
    config: Config | None = None,
) -> str:
    return report_page(str(folder), made_info(config or load_config(), tables[1]), *tables, pictures or {}, COMMAND)


@pytest.fixture
def tables(rng: np.random.Generator) -> tuple[pa.Table, pa.Table]:
    rows = made_videos(120, rng)
    return made_tables(rows, {row["id"]: f"caption of {row['id']}" for row in rows}, scorers=["<score>"], rng=rng)


def test_everything_is_escaped_and_well_formed(tables: tuple[pa.Table, pa.Table], tmp_path: Path) -> None:
    videos, clips = tables
    rules = [{"id": f"{name}!", "clips": 0, "rule": name, "reason": name} for name in NASTY]
    noted = [{"id": "noted", "clips": 1, "notes": list(NASTY)}]
    videos = pa.concat_tables([videos, build_table(rules + noted, VIDEO_SCHEMA)])
    kept = [row["id"] for row in clips.to_pylist() if row["video"] in NASTY]
    pictures = noise(kept, np.random.default_rng(0))
    overrides = [f"data.path_column={json.dumps(NASTY[3])}", "filters.scorers={'<score>'='a:b'}"]
    page = Page(
        written(
            tmp_path, (videos, clips), pictures, load_config(None, [*overrides, "filters.min_scores={'<score>'=4}"])
        )
    )
    allowed = """html head meta title style body h1 h2 h3 p nav a div b span section code details summary figure img
        figcaption svg rect path text table thead tbody tr th td pre button script"""
    assert {tag for tag, _ in page.elements} <= set(allowed.split())
    assert len(page.all("script")) == 1
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on")]
    assert "a <b>bold</b> & \"quoted\" 'name'.mp4" in page.texts["shapes"]
    assert "caption of a <b>bold</b> & \"quoted\" 'name'.mp4" in page.texts["shapes"]
    assert "two\\nlines\\t.mp4" in page.texts["dropped"]
    assert "</script><img src=x>.mp4" in page.texts["notes"]
    assert "right\\u202eto left.mp4" in page.texts["notes"]
    assert "\u202e" not in page.text
    assert "👩🏽\u200d🚒 firefighter.mp4" in page.texts["notes"]
    assert '"</script><img src=x>.mp4"' in page.texts["config"]
    assert "filters.min_scores.<score>" in page.texts["numbers"]
    assert page.texts["command"].startswith(COMMAND)
    assert "very-long-name-" * 3 in page.texts["shapes"]
    assert "very-long-name-" * 30 not in page.texts["shapes"]


def test_nothing_is_loaded_from_elsewhere(tables: tuple[pa.Table, pa.Table], tmp_path: Path) -> None:
    pictures = noise([row["id"] for row in tables[1].to_pylist()[:5]], np.random.default_rng(0))
    text = written(tmp_path, tables, pictures)
    page = Page(text)
    assert page.all("img")
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            if name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
                assert value is not None
                assert value.startswith("data:image/jpeg;base64," if tag == "img" else "#"), (tag, name)
    assert not page.all("link")
    style = re.search("<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    assert not re.search(r"url\(|@import|http", style[1])
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert policy is not None
    assert "default-src 'none'" in policy
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert {f"#{name}" for name in ids} >= {link["href"] for link in page.all("a")}


def test_the_same_input_gives_the_same_bytes(tables: tuple[pa.Table, pa.Table], tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    ids = [example.id for example in choose_examples(*tables, seed=0, per_bucket=4, per_rule=2)]
    pictures = noise(ids, rng)
    first = written(tmp_path, tables, pictures)
    other = tuple(table.take(rng.permutation(len(table))) for table in tables)
    assert written(tmp_path, other, dict(reversed(pictures.items()))) == first


def test_pictures_are_where_their_clips_are(tables: tuple[pa.Table, pa.Table], tmp_path: Path) -> None:
    videos, clips = tables
    examples = choose_examples(videos, clips, seed=0, per_bucket=3, per_rule=2)
    text = written(tmp_path, tables, noise([example.id for example in examples], np.random.default_rng(0)))
    assert len(Page(text).all("img")) == len(examples)
    shapes, dropped = text.split('id="dropped"')
    kept = {row["id"] for row in clips.to_pylist() if row["rule"] is None}
    for part, ids in ((shapes, {e.id for e in examples} & kept), (dropped, {e.id for e in examples} - kept)):
        assert len(re.findall("<figure", part)) == len(ids)


def test_hundreds_of_pictures_and_rules_and_many_shapes_stay_small(tmp_path: Path, rng: np.random.Generator) -> None:
    shapes = [(8, 32, 32 + 8 * k) for k in range(40)]
    rows = [dict(zip(("frames", "height", "width"), shape, strict=True)) for shape in shapes for _ in range(10)]
    clips = build_table(
        [{"id": f"{k}", "video": f"{k}", "captions": ["word " * 500], **row} for k, row in enumerate(rows)],
        clip_schema([]),
    )
    drops = [
        {"id": f"v{k}-{'long' * 100}", "clips": 0, "rule": f"rule {k}", "reason": "r" * 50, "format": "mp4"}
        for k in range(100)
    ]
    videos = build_table(drops, VIDEO_SCHEMA)
    examples = choose_examples(videos, clips, seed=0, per_bucket=8, per_rule=1)
    assert len(examples) == 420
    pictures = noise([example.id for example in examples], rng)
    text = written(tmp_path, (videos, clips), pictures)
    assert len(text.encode()) < 5_000_000
    page = Page(text)
    assert len(page.all("img")) == 420
    assert len(page.all("details")) == 40
    assert len(page.all("tbody", **{"class": "drop"})) == 100


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    nothing = (build_table([], VIDEO_SCHEMA), build_table([], clip_schema([])))
    page = Page(written(tmp_path, nothing))
    assert "No clip was kept." in page.texts["shapes"]
    assert "Nothing was dropped." in page.texts["dropped"]
    assert "All keys have their defaults." in page.texts["config"]
    assert "No values: Duration of videos" in page.texts["numbers"]
    assert "Nothing of note" in page.texts["notes"]
    assert not page.all("svg")


def test_the_config_that_differs_is_shown_beside_the_default(tmp_path: Path) -> None:
    nothing = (build_table([], VIDEO_SCHEMA), build_table([], clip_schema([])))
    config = load_config(None, ["data.fps=7", "filters.min_motion=0.125", "shots.stride=2"])
    text = written(tmp_path, nothing, config=config)
    table = text.split('id="config"')[1].split("</table>")[0]
    rows = re.findall(
        r"<tr><td><code>(.*?)</code></td><td><code>(.*?)</code></td><td><code>(.*?)</code></td></tr>", table
    )
    assert rows == [
        ("data.fps", "7.0", "4.0"),
        ("shots.stride", "2.0", "none"),
        ("filters.min_motion", "0.125", "none"),
    ]


def test_the_lines_of_python_read_the_tables(tables: tuple[pa.Table, pa.Table], tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s "here"'
    folder.mkdir()
    for name, table in zip(("videos.parquet", CLIPS_FILE), tables, strict=True):
        (folder / name).write_bytes(table_bytes(table))
    page = Page(written(folder, tables))
    lines = page.texts["tables"].split("import pyarrow")[1]
    found: dict[str, Any] = {}
    exec("import pyarrow" + lines.split("\n\n")[0].split("for (const")[0], found)
    assert found["clips"].equals(tables[1])
    assert found["videos"].equals(tables[0])


def test_markup_escapes_what_is_no_markup() -> None:
    inner = element("b", "<&>")
    assert element("p", "a<", inner, title='"<', data_x=1, class_="c", hidden=True, open=False, id=None) == (
        '<p title="&quot;&lt;" data-x="1" class="c" hidden>a&lt;<b>&lt;&amp;&gt;</b></p>'
    )
    assert joined("<", inner) == "&lt;<b>&lt;&amp;&gt;</b>"
    assert element("img", alt="x") == '<img alt="x">'
