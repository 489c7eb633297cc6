"""report.html: what became of the videos, in one file that opens anywhere."""

import json
import posixpath
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data.dataset_info import bucket_name
from data.report.drops import Drop, find_drops
from data.report.examples import Thumbnail, thumbnails
from data.report.histogram import Histogram, chart, histogram
from data.report.markup import Markup, element, joined, verbatim
from data.report.scores import Limit, Scores, charted
from data.report.summary import count_notes, limit, number, share, shortened, shown
from data.report.tables import CLIPS_FILE, VIDEOS_FILE, clips_per_bucket
from video_dit.config import Config

REPORT_FILE = "report.html"
MAX_NAME = 120
MAX_CAPTION = 300
MAX_VALUE = 400
"""Characters that are shown of a name, a caption and a value of the config; the tables have them whole."""

MAX_OPEN_BUCKETS = 6
MIN_FIGURE = 170
"""CSS pixels, so that the words under a narrow picture have room."""

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""The browser loads nothing from anywhere."""


def report_page(
    out: str,
    info: Mapping[str, Any],
    videos: pa.Table,
    clips: pa.Table,
    pictures: Mapping[str, Sequence[NDArray[np.uint8]]],
    command: str,
) -> str:
    """The report; the same arguments give the same text, whatever the order of rows and pictures.

    Args:
        out: the folder, or URL, that it is written to, beside the tables.
        info: as dataset.json: its tables, encoded, fingerprints and shards are shown.
        videos, clips: as data.report.tables describes them.
        pictures: frames [H, W, 3] of some clips and dropped videos, by id; those that `choose_examples` names.
        command: what a shell runs to make all this again.
    """
    strips = thumbnails(pictures)
    drops = find_drops(videos, clips)
    title = f"Preprocessing report: {shown(posixpath.basename(out.rstrip('/')))}"
    sections = {
        "shapes": ("Clips by shape", _buckets(clips, strips)),
        "numbers": ("Distributions", _charts(charted(videos, clips, info["tables"].get("filters", {})))),
        "dropped": ("Dropped", _drops(drops, videos, clips, strips)),
        "notes": ("Noticed", _notes(videos.filter(pc.greater(videos["clips"], 0)))),
        "encoders": ("Encoders", _encoders(info)),
        "config": ("Config", _config(info["tables"])),
        "again": ("Make it again", _again(command)),
        "tables": ("Tables", _tables(out)),
    }
    page = element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
            element("title", title),
            element("style", _part("report.css")),
        ),
        element(
            "body",
            element("h1", title),
            _head(info, videos, clips),
            element("nav", *(element("a", words, href=f"#{key}") for key, (words, _) in sections.items())),
            _counts(videos, clips),
            *(element("section", element("h2", words, id=key), body) for key, (words, body) in sections.items()),
            element("script", _part("report.js")),
        ),
        lang="en",
    )
    return f"<!DOCTYPE html>\n{page}\n".encode("utf-8", "backslashreplace").decode("utf-8")


def _part(name: str) -> Markup:
    return verbatim(files("data.report").joinpath(name).read_text(encoding="utf-8"))


def _head(info: Mapping[str, Any], videos: pa.Table, clips: pa.Table) -> Markup:
    kept = clips["rule"].null_count
    with_clips = pc.sum(pc.greater(videos["clips"], 0)).as_py() or 0
    words = f"{_counted(kept, 'clip')} of {_counted(with_clips, 'video')} in {_counted(len(info['shards']), 'shard')}"
    return element("p", f"{words}.")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _counts(videos: pa.Table, clips: pa.Table) -> Markup:
    kept = clips.filter(clips["rule"].is_null())
    with_clips = pc.sum(pc.greater(videos["clips"], 0)).as_py() or 0
    counts = {
        "videos in": f"{len(videos):,}",
        "videos with clips": f"{with_clips:,}",
        "videos without": f"{len(videos) - with_clips:,}",
        "clips cut": f"{len(clips):,}",
        "clips kept": f"{len(kept):,}",
        "clips dropped": f"{len(clips) - len(kept):,}",
        "footage kept": _duration(pc.sum(kept["seconds"]).as_py() or 0.0),
    }
    tiles = (element("div", element("b", count), element("span", words)) for words, count in counts.items())
    return element("div", *tiles, class_="counts")


def _duration(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{number(seconds / length)} {unit}"
    return f"{number(seconds)} s"


def _buckets(clips: pa.Table, strips: Mapping[str, Thumbnail]) -> Markup:
    kept = clips["rule"].null_count
    counts = clips_per_bucket(clips)
    if not counts:
        return element("p", "No clip was kept.")
    sheets: dict[tuple[int, int, int], list[Markup]] = {shape: [] for shape in counts}
    for row in _rows_of(clips, strips):
        if row["rule"] is None:
            caption = _caption(row["captions"] or [])
            sheets[row["frames"], row["height"], row["width"]].append(_figure(row["id"], strips[row["id"]], caption))
    most = max(counts.values())
    parts = [element("p", "Frames x height x width, how many clips, and some of them at random.", class_="faint")]
    for index, (shape, count) in enumerate(counts.items()):
        line = (
            element("code", bucket_name(shape)),
            element("span", _counted(count, "clip"), class_="number"),
            element("span", share(count, kept), class_="number"),
            element("span", class_="bar", style=f"width:{100 * count / most:.1f}%"),
        )
        if sheet := sheets[shape]:
            body = element("div", *sheet, class_="sheet")
            summary = element("summary", *line, class_="line")
            parts.append(element("details", summary, body, class_="bucket", open=index < MAX_OPEN_BUCKETS))
        else:
            parts.append(element("div", element("div", *line, class_="line"), class_="bucket"))
    return joined(*parts)


def _rows_of(table: pa.Table, strips: Mapping[str, Thumbnail]) -> list[dict[str, Any]]:
    """The rows that have pictures, in the order of their ids."""
    with_pictures = pc.is_in(table["id"], value_set=pa.array(list(strips), pa.string()))
    return sorted(table.filter(with_pictures).to_pylist(), key=lambda row: row["id"])


def _figure(id_: str, strip: Thumbnail, words: str) -> Markup:
    picture = element(
        "img", src=strip.url, alt=f"frames of {_name(id_)}", width=strip.width, height=strip.height,
        class_="coarse" if strip.is_coarse else None,
    )  # fmt: skip
    caption = element("figcaption", element("div", words, class_="clamp"), element("code", _name(id_)))
    return element("figure", picture, caption, style=f"width:{max(strip.width, MIN_FIGURE)}px")


def _name(text: str) -> str:
    return shortened(shown(text), MAX_NAME)


def _caption(captions: list[str]) -> str:
    if not any(captions):
        return "(no caption)"
    others = f" (and {len(captions) - 1} more)" if len(captions) > 1 else ""
    return shortened(shown(captions[0]), MAX_CAPTION) + others


def _charts(all_scores: Sequence[Scores]) -> Markup:
    known = [scores for scores in all_scores if len(scores.kept) + len(scores.dropped)]
    legend = [
        *(element("span", class_="key kept"), "kept", element("span", class_="key dropped"), "dropped, by any rule"),
        *(element("span", class_="key threshold"), "limit of the config"),
    ]
    unknown = ", ".join(scores.title for scores in all_scores if scores not in known)
    return joined(
        element("p", *legend, class_="faint") if known else "",
        element("div", *map(_chart, known), class_="charts"),
        element("p", f"No values: {unknown}.", class_="faint") if unknown else "",
    )


def _chart(scores: Scores) -> Markup:
    lower, upper = (bound and bound.value for bound in (scores.lower, scores.upper))
    bins = histogram(scores.kept, scores.dropped, tuple(b for b in (lower, upper) if b is not None))
    words = [scores.unit]
    if scores.missing:
        words.append(f"{scores.missing:,} without")
    if bins.below:
        words.append(f"the first bar also holds {bins.below:,} below it")
    if bins.above:
        words.append(f"the last bar also holds {bins.above:,} above it")
    bounds = [_bound(*bound, bins) for bound in (("below", scores.lower), ("above", scores.upper)) if bound[1]]
    return element(
        "div",
        element("h3", shown(scores.title)),
        element("p", "; ".join(words), class_="faint"),
        *bounds,
        chart(bins, lower, upper, f"Histogram: {shown(scores.title)}"),
        class_="chart",
    )


def _bound(side: str, bound: Limit, bins: Histogram) -> Markup:
    where = "" if bins.edges[0] <= bound.value <= bins.edges[-1] else ", outside this chart"
    return element("p", f"dropped {side} {limit(bound.value)} (", element("code", bound.key), f"){where}")


def _drops(drops: Sequence[Drop], videos: pa.Table, clips: pa.Table, strips: Mapping[str, Thumbnail]) -> Markup:
    if not drops:
        return element("p", "Nothing was dropped.")
    examples: dict[tuple[str, str], list[Markup]] = {}
    for row in _rows_of(videos, strips) + _rows_of(clips, strips):
        if row["rule"] is not None:
            words = "" if row["score"] is None else f"score {number(row['score'])}"
            figures = examples.setdefault((row["rule"], row["reason"]), [])
            figures.append(_figure(row["id"], strips[row["id"]], words))
    heads = [element("th", words) for words in ("rule", "reason")]
    heads += [element("th", words, class_="number") for words in ("videos", "clips", "limit", "median score")]
    bodies = []
    for drop in drops:
        numbers = [f"{count:,}" if count else "" for count in (drop.videos, drop.clips)]
        numbers += [limit(drop.threshold), number(drop.median)]
        figures = [figure for reason in sorted(drop.reasons) for figure in examples.get((drop.rule, reason), [])]
        such_as = element("div", "such as ", element("code", _name(drop.example)), class_="faint")
        cells = [element("td", element("code", shown(drop.rule)))]
        cells.append(element("td", shown(drop.reason), such_as if not figures else ""))
        cells += [element("td", words, class_="number") for words in numbers]
        rows = [element("tr", *cells)]
        if figures:
            sheet = element("div", *figures, class_="sheet")
            rows.append(element("tr", element("td", sheet, colspan=len(heads))))
        bodies.append(element("tbody", *rows, class_="drop"))
    words = "Median score: of what the rule dropped. Of an input that was dropped as a whole, the beginning is shown."
    return joined(
        element("p", words, class_="faint"), element("table", element("thead", element("tr", *heads)), *bodies)
    )


def _notes(videos: pa.Table) -> Markup:
    notes = count_notes(videos)
    if not notes:
        return element("p", "Nothing of note about the videos with clips.")
    rows = [
        element("tr", element("td", f"{count:,}", class_="number"), element("td", shown(note))) for note, count in notes
    ]
    heads = element("tr", element("th", "videos", class_="number"), element("th", "of those with clips", width="100%"))
    return element("table", element("thead", heads), element("tbody", *rows))


def _encoders(info: Mapping[str, Any]) -> Markup:
    encoded = info["encoded"]
    makes = {
        "autoencoder": " x ".join(str(cells) for cells in (encoded["channels"], *encoded["grid"])),
        "text_encoder": f"{encoded['text_length']} x {encoded['text_width']}",
    }
    rows = []
    for name, shape in makes.items():
        table = info["tables"][name]
        models = table.get("models") or [table.get("model")]
        words = ", ".join([table["name"], *(model for model in models if model)])
        fingerprint = info["fingerprints"].get(name)
        known = element("code", fingerprint) if fingerprint else "not known: its files were not on this machine"
        cells = (element("code", name), shown(words), shape, known)
        rows.append(element("tr", *(element("td", cell) for cell in cells)))
    heads = (element("th", words) for words in ("", "which", "makes at most", "fingerprint"))
    return element("table", element("thead", element("tr", *heads)), element("tbody", *rows))


def _config(tables: Mapping[str, Any]) -> Markup:
    defaults = Config().model_dump(mode="json")
    changes = [
        (f"{name}.{key}", value, defaults[name].get(key))
        for name, table in tables.items()
        for key, value in table.items()
        if value != defaults[name].get(key)
    ]
    if not changes:
        return element("p", "All keys have their defaults.")
    rows = [
        element("tr", *(element("td", element("code", words)) for words in (key, _value(value), _value(default))))
        for key, value, default in changes
    ]
    heads = (element("th", words) for words in ("what differs from the defaults", "value", "default"))
    return element("table", element("thead", element("tr", *heads)), element("tbody", *rows))


def _value(value: Any) -> str:
    return "none" if value is None else shortened(shown(json.dumps(value, ensure_ascii=False)), MAX_VALUE)


def _again(command: str) -> Markup:
    button = element("button", "Copy", type="button", data_copies="command", hidden=True)
    return joined(element("pre", command, id="command"), button)


def _tables(out: str) -> Markup:
    clips, videos = posixpath.join(out, CLIPS_FILE), posixpath.join(out, VIDEOS_FILE)
    words = (
        "A row for each input is in ", element("code", VIDEOS_FILE), ", and one for each clip, kept or dropped, in ",
        element("code", CLIPS_FILE), ", beside this file. With pandas, or with pyarrow alone:",
    )  # fmt: skip
    pandas = f"import pandas\nclips, videos = pandas.read_parquet({clips!r}), pandas.read_parquet({videos!r})"
    pyarrow = f"import pyarrow.parquet as pq\nclips, videos = pq.read_table({clips!r}), pq.read_table({videos!r})"
    return joined(element("p", *words), element("pre", pandas), element("pre", pyarrow))
