from pathlib import Path

import av
import pytest
from video_files import FILES, write_video

from data.probe import probe
from data.stages.filters import drop_captions, drop_clip, drop_video
from video_dit.config import DataConfig, FiltersConfig, load_config
from video_dit.errors import UserError

SCORES = {"brightness": 0.5, "change": 0.01, "bars": 0.2, "motion": 0.1, "sharpness": 100.0, "aesthetic": 5.0}


@pytest.mark.parametrize("name", ["brightness", "change", "motion", "sharpness"])
def test_a_clip_below_a_least_is_dropped_with_score_and_threshold(name: str) -> None:
    key, score = f"min_{name}", SCORES[name]
    assert drop_clip(SCORES, FiltersConfig(**{key: score})) is None
    dropped = drop_clip(SCORES, FiltersConfig(**{key: min(1.0, score * 1.1) if score < 1 else score * 1.1}))
    assert dropped is not None
    assert (dropped.rule, dropped.score) == (f"filters.{key}", score)
    assert dropped.threshold is not None
    assert dropped.threshold > score


@pytest.mark.parametrize("name", ["bars", "motion"])
def test_a_clip_above_a_most_is_dropped(name: str) -> None:
    assert drop_clip(SCORES, FiltersConfig(**{f"max_{name}": SCORES[name]})) is None
    dropped = drop_clip(SCORES, FiltersConfig(**{f"max_{name}": SCORES[name] * 0.9}))
    assert dropped is not None
    assert dropped.rule == f"filters.max_{name}"


def test_own_scorers_have_limits_too() -> None:
    config = FiltersConfig(scorers={"aesthetic": "mine:score"}, min_scores={"aesthetic": 5.5})
    assert drop_clip(SCORES, config) == ("filters.min_scores.aesthetic", "aesthetic below the limit", 5.0, 5.5)
    assert drop_clip(SCORES, FiltersConfig(scorers={"aesthetic": "mine:score"}, max_scores={"aesthetic": 5.5})) is None


def test_what_was_not_measured_passes() -> None:
    assert drop_clip({}, FiltersConfig(min_motion=1.0, min_sharpness=10.0)) is None


@pytest.mark.parametrize(
    ("limits", "rule", "score"),
    [
        ({"min_side": 65}, "filters.min_side", 48.0),
        ({"max_aspect": 0.7}, "filters.max_aspect", 48 / 64),
        ({"min_aspect": 1.0}, "filters.min_aspect", 48 / 64),
        ({"min_seconds": 3.0}, "filters.min_seconds", 2.0),
        ({"max_seconds": 1.0}, "filters.max_seconds", 2.0),
    ],
)
def test_a_header_is_judged_as_the_video_is_shown(tmp_path, limits, rule, score) -> None:
    """64 x 48 pixels, turned by 90 degrees: 48 wide and 64 high."""
    info = probe(FILES["turned_90"](tmp_path), DataConfig().limits)
    assert drop_video(info, FiltersConfig()) is None
    dropped = drop_video(info, FiltersConfig(**limits))
    assert dropped is not None
    assert (dropped.rule, dropped.score) == (rule, pytest.approx(score))


@pytest.mark.parametrize(("transfer", "hdr"), [(16, "PQ"), (18, "HLG"), (1, None)])
def test_hdr_is_dropped_by_name(tmp_path: Path, transfer: int, hdr: str | None) -> None:
    """By ITU-T H.273's number of the transfer; that of BT.709 is none of HDR."""

    def label(stream: av.VideoStream) -> None:
        stream.codec_context.color_trc = transfer

    path = write_video(tmp_path / "label.mp4", ticks=[0], setup=label, pixel_format="yuv420p10le")
    info = probe(path, DataConfig().limits)
    assert info.hdr == hdr
    reason = f"is HDR ({hdr}), which is not converted here: convert it to SDR"
    assert drop_video(info, FiltersConfig()) == (("HDR", reason, None, None) if hdr else None)


def test_the_longest_caption_counts() -> None:
    config = FiltersConfig(min_caption_length=5)
    assert drop_captions(["no", "enough"], config) is None
    assert drop_captions(["no"], config) == (
        "filters.min_caption_length",
        "length of the longest caption below the limit",
        2,
        5,
    )
    assert drop_captions([], config) is not None
    assert drop_captions([], FiltersConfig()) is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("filters.min_scores={aesthetic = 4.5}", "filters.min_scores names 'aesthetic', and filters.scorers does not"),
        ("filters.scorers={aesthetic = 'mine.score'}", "write it as 'package.module:function'"),
        ("filters.scorers={motion = 'mine:score'}", "filters.scorers.motion has the name of a score that is always"),
    ],
)
def test_scorers_are_checked(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(None, [override])
