"""generate.py as a user meets it: what it writes, what it reads, what it refuses."""

import json
import shutil
import sys
from pathlib import Path

import av
import generate
import numpy as np
import pytest
from conftest import TINY
from launch import SCRIPTS, ends, start_ranks
from PIL import Image
from random_run import random_run

from data.video import read_windows, write_mp4
from video_dit.config import load_config
from video_dit.errors import UserError

GIVEN = ("model.given_frames=true", "diffusion.continuation=1.0", "sampling.num_steps=2")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_run(tmp_path_factory.mktemp("run"), load_config(None, (*TINY, *GIVEN)))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(256, size=(20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return tmp_path / "image.png"


@pytest.fixture
def make(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs generate.py in this process with these arguments, and returns the folder of clips."""

    def call(*arguments: object, of_run: bool = True) -> Path:
        out = tmp_path / "clips"
        options = ("--run", run) if of_run else ()
        monkeypatch.setattr(sys, "argv", ["generate.py", *map(str, (*options, "--out", out, *arguments))])
        generate.main()
        return out

    return call


def frames_of(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])


def test_what_is_written(make) -> None:
    out = make("a red circle!", "a blue square", "--gif", "--png", "--fps", 5, "--width", 24, "--frames", 6)
    for name in ("a-red-circle-seed0", "a-blue-square-seed0"):
        with av.open(str(out / f"{name}.mp4")) as container:
            stream = container.streams.video[0]
            decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
            assert stream.codec_context.name == "h264"
            assert (stream.codec_context.pix_fmt, stream.average_rate) == ("yuv420p", 5)
        frames = frames_of(out / f"{name}-frames")
        assert frames.shape == (6, 16, 24, 3)
        luma = [np.dot(pixels, [0.299, 0.587, 0.114]).flatten() for pixels in (np.stack(decoded), frames)]
        assert np.corrcoef(*luma)[0, 1] > 0.95  # noise is no easy picture, and yuv420p blurs its colours
        gif = Image.open(out / f"{name}.gif")
        assert (gif.n_frames, gif.info["duration"], gif.size) == (6, 200, (24, 16))
    assert Image.open(out / "contact-sheet.png").height > 2 * 96


def test_nothing_is_overwritten_unless_asked(make) -> None:
    out = make("a", "a", "--seed", 1)
    assert sorted(path.name for path in out.glob("*.mp4")) == ["a-seed1-2.mp4", "a-seed1.mp4"]
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    make("a", "--seed", 1, "--steps", 1)
    assert {name: (out / name).read_bytes() for name in before} == before
    make("a", "--seed", 1, "--steps", 1, "--overwrite")
    assert sorted(path.name for path in out.glob("*.mp4")) == ["a-seed1-2.mp4", "a-seed1-3.mp4", "a-seed1.mp4"]
    assert (out / "a-seed1.mp4").read_bytes() == (out / "a-seed1-3.mp4").read_bytes() != before["a-seed1.mp4"]


def test_a_clip_can_be_made_again(make, image: Path) -> None:
    out = make(
        "a", "--image", image, "--seed", 7, "--steps", 3, "--frames", 10, "--window", 4, "--solver", "heun",
        "--set", "guidance_interval=[0.2,0.9]", "--negative-prompt", "b", "--png",
    )  # fmt: skip
    make("--again", out / "a-seed7.json", "--png", of_run=False)
    assert np.array_equal(frames_of(out / "a-seed7-frames"), frames_of(out / "a-seed7-2-frames"))
    assert (out / "a-seed7.mp4").read_bytes() == (out / "a-seed7-2.mp4").read_bytes()
    assert json.loads((out / "a-seed7.json").read_text()) == json.loads((out / "a-seed7-2.json").read_text())
    Image.new("RGB", (16, 16)).save(image)
    with pytest.raises(UserError, match=r"image.png: has changed since the clip was made"):
        make("--again", out / "a-seed7.json", of_run=False)
    with pytest.raises(UserError, match="--again makes a clip as it was"):
        make("--again", out / "a-seed7.json", "--steps", 4)
    with pytest.raises(UserError, match=r"image.png: not the JSON that generate.py writes"):
        make("--again", image)


def test_a_file_s_lines_have_options_of_their_own(make, image: Path, tmp_path: Path) -> None:
    lines = [
        {"prompt": "a", "name": "one", "seed": 5, "num_frames": 2},
        {"prompt": "a"},
        {"prompt": "a", "name": "three", "num_steps": 1, "image": "image.png", "fps": 8, "guidance_scale": 1.0},
    ]
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n\n".join(json.dumps(line) for line in lines))
    out = make("--prompts-file", file, "--seed", 9, "--png")
    assert len(frames_of(out / "one-frames")) == 2
    assert len(frames_of(out / "a-seed9-frames")) == 4
    fitted = np.asarray(Image.open(image).resize((24, 16), Image.Resampling.LANCZOS).crop((4, 0, 20, 16)))
    assert np.abs(frames_of(out / "three-frames")[0].astype(int) - fitted).mean() < 3
    record = json.loads((out / "three.json").read_text())["request"]
    assert (record["seed"], record["fps"], record["sampling"]["num_steps"]) == (9, 8.0, 1)
    assert Path(record["image"]) == image.resolve()


def test_a_video_is_continued(make, tmp_path: Path) -> None:
    given = np.random.default_rng(0).integers(256, size=(6, 16, 16, 3), dtype=np.uint8)
    write_mp4(tmp_path / "given.mp4", given, 4.0)
    data = load_config(None, (*TINY, "data.num_frames=6")).data
    decoded = next(read_windows(tmp_path / "given.mp4", data)).frames
    out = make("a", "--video", tmp_path / "given.mp4", "--overlap", 3, "--frames", 11, "--png")
    frames = frames_of(out / "a-seed0-frames")
    assert len(frames) == 11
    assert np.array_equal(frames[:6], decoded)


def test_a_clip_is_the_same_whatever_else_is_made(make, tmp_path: Path) -> None:
    out = make("a", "b", "c", "--png")
    make("b", "--png")
    assert np.array_equal(frames_of(out / "b-seed0-frames"), frames_of(out / "b-seed0-2-frames"))


def test_without_a_run_the_model_that_comes_with_the_project_makes_emoji(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["generate.py", "an animated emoji of a crocodile", "--steps", "1", "--png"])
    generate.main()
    frames = frames_of(tmp_path / "clips/an-animated-emoji-of-a-crocodile-seed0-frames")
    assert frames.shape == (16, 64, 64, 3)


def test_a_run_can_be_missed(make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--weights x\.safetensors needs the run that it is of: name that with --run"):
        make("a", "--weights", "x.safetensors", of_run=False)
    monkeypatch.setattr(generate, "EMOJI", tmp_path / "emoji")
    with pytest.raises(UserError, match="emoji, which comes with the project, is not there: name a run folder"):
        make("a", of_run=False)
    assert not (tmp_path / "clips").exists()


def test_two_programs_in_a_folder_take_no_name_from_each_other(make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second runs from start to end while the first computes its clips, of the same names."""
    alone = generate.run_jobs
    names = [Path("a-seed0"), Path("a-seed0-2")]

    def with_another(*arguments: object, **options: object) -> np.ndarray:
        monkeypatch.setattr(generate, "run_jobs", alone)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", [*sys.argv, "--steps", "3"])
            generate.main()
        return alone(*arguments, **options)

    monkeypatch.setattr(generate, "run_jobs", with_another)
    out = make("a")
    assert sorted(path.stem for path in out.glob("*.mp4")) == [name.name for name in names]
    second, first = (out / name for name in names)
    for stem, num_steps in ((second, 3), (first, 2)):
        record = json.loads(stem.with_suffix(".json").read_text())
        assert record["request"]["sampling"]["num_steps"] == num_steps
        before = stem.with_suffix(".mp4").read_bytes()
        again = make("--again", stem.with_suffix(".json"), "--overwrite", of_run=False)
        assert (again / "a-seed0.mp4").read_bytes() == before


def test_a_name_is_taken_also_where_there_is_a_clip_without_a_record(tmp_path: Path) -> None:
    record = generate.Record(generate.ClipRequest(prompt="a"), tmp_path, "ema", "fp32", None, {}, {})
    (planned,) = generate.name_clips(tmp_path, [record.request], False)
    (tmp_path / "a-seed0.json").touch()
    (tmp_path / "a-seed0-2.mp4").touch()
    assert record.write(planned, False).stem == tmp_path / "a-seed0-3"


def test_the_contact_sheet_shows_no_more_than_can_be_held(make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "MOST_SHOWN", 2)
    heights = [Image.open(make(*"abc"[:number], "--overwrite") / "contact-sheet.png").height for number in (1, 2, 3)]
    assert heights[0] < heights[1] == heights[2]


def test_files_of_prompts_from_other_systems(make, tmp_path: Path) -> None:
    """With Windows' mark at the beginning and its ends of lines, and a line separator within a prompt."""
    (tmp_path / "a.txt").write_bytes("\ufeffred\r\nblue\r\n".encode())
    (tmp_path / "b.jsonl").write_text('\ufeff{"prompt": "one\u2028two"}\n')
    for name, prompts in (("a.txt", ["blue", "red"]), ("b.jsonl", ["one\u2028two"])):
        out = make("--prompts-file", tmp_path / name)
        records = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
        assert [record["request"]["prompt"] for record in records] == prompts
        shutil.rmtree(out)


@pytest.mark.distributed
@pytest.mark.slow
def test_ranks_share_the_clips_and_change_none(run: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    words = [f"clip {number}" for number in range(4)]
    words.append("a prompt of more words than are read, which the second rank of two encodes")
    prompts.write_text("\n".join(json.dumps({"prompt": p, "num_frames": 2 + 2 * (i % 2)}) for i, p in enumerate(words)))
    for num_ranks in (1, 2):
        arguments = ("--run", run, "--out", tmp_path / str(num_ranks), "--prompts-file", prompts, "--gif")
        processes = start_ranks(num_ranks, *arguments, program=SCRIPTS / "generate.py")
        codes, outputs = zip(*ends(processes, 300), strict=True)
        assert codes == (0,) * num_ranks, outputs
        assert "contact-sheet.png" in outputs[0]
        assert outputs[0].count("the prompt is longer than its text encoder reads") == 1
        assert all("step" not in output and ".mp4" not in output for output in outputs[1:])
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / str(n)).iterdir()} for n in (1, 2))
    assert len(one) == 5 * 3 + 1
    assert one == two


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a", "sed": 1}', "prompts.jsonl, line 2: sed: unknown key; did you mean seed?"),
        ('{"prompt": "a", "steps": 1}', "line 2: steps: unknown key; did you mean num_steps?"),
        ('{"prompt": "a", "num_frames": "x"}', "line 2: num_frames = 'x': input should be a valid integer"),
        ('{"prompt": "a", "solver": "rk4"}', "line 2: solver = 'rk4': input should be 'euler'"),
        ('{"seed": 1}', "line 2: prompt: must be given"),
        ("a dog", "line 2: not JSON"),
        ("[1]", "line 2: must be an object"),
        ('{"prompt": "b", "name": "first"}', "line 2: name = 'first': line 1 has it already"),
        ('{"prompt": "b", "name": "../x"}', "line 2: name = '../x'"),
        ('{"prompt": "b", "image": "gone.png"}', "'b': {tmp}/gone.png: there is no such image"),
        ('{"prompt": "b", "image": "prompts.jsonl"}', "'b': {tmp}/prompts.jsonl: cannot be read as an image"),
        ('{"prompt": "b", "video": "prompts.jsonl"}', "'b': {tmp}/prompts.jsonl: is text, not a video"),
        ('{"prompt": "b", "width": 20}', "'b': width is 20, which is not a multiple of 8"),
    ],
)
def test_mistakes_in_a_file_name_the_line_or_the_prompt(make, tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a", "name": "first"}\n' + line)
    with pytest.raises(UserError) as raised:
        make("--prompts-file", tmp_path / "prompts.jsonl")
    assert message.format(tmp=tmp_path) in str(raised.value)
    assert not list((tmp_path / "clips").glob("*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("a", "--set", "guidance_scal=3"),
            "sampling.guidance_scal: unknown key; did you mean sampling.guidance_scale",
        ),
        (("a", "--prompts-file", "gone.jsonl"), "gone.jsonl: there is no such file of prompts"),
        (("a", "--image", "gone.png"), "gone.png: there is no such image"),
        ((), "no prompt: give some"),
    ],
)
def test_mistakes_on_the_command_line(make, arguments: tuple, message: str) -> None:
    with pytest.raises(UserError) as raised:
        make(*arguments)
    assert message in str(raised.value)


def test_a_prompt_that_is_cut_and_a_clip_that_is_too_long_are_said(make, capsys: pytest.CaptureFixture) -> None:
    make("one two three four five six seven eight nine", "--frames", 8)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(told) == 2
    assert "is longer than those of training" in told[0]
    assert "the prompt is longer than its text encoder reads" in told[1]
