"""The three programs on pretrained encoders: tiny ones, with random weights."""

import re
import shutil
from pathlib import Path

import diffusers
import pytest
import transformers
from launch import run_script
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from data.dataset import ClipDataset
from data.order import Position
from video_dit.contracts import TextSegment

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A Wan and a BERT."""
    folder = tmp_path_factory.mktemp("encoders")
    diffusers.AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1).save_pretrained(
        folder / "wan"
    )
    words = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "a", "red", "circle", "moves", "left"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder / "bert")
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertModel(config).save_pretrained(folder / "bert")
    return folder / "wan", folder / "bert"


def test_from_videos_to_a_clip(encoders: tuple[Path, Path], shapes_videos: Path, tmp_path: Path) -> None:
    wan, bert = encoders
    shards, run = tmp_path / "shards", tmp_path / "run"
    settings = (
        "data.fps=8", "data.num_frames=5", "data.height=16", "data.width=16", "autoencoder.name=diffusers",
        f"autoencoder.model={wan}", "text_encoder.name=transformers", f'text_encoder.models=["{bert}"]',
        "text_encoder.max_lengths=[4]",
    )  # fmt: skip
    made = run_script("preprocess.py", shapes_videos, "--out", shards, "--workers", 1, *settings)
    assert made.returncode == 0, made.stderr
    assert f"  60  with a caption cut to 4 tokens (text encoder: {bert})\n" in made.stdout
    dataset = ClipDataset(shards, seed=0)
    assert dataset.text_segments() == (TextSegment((0, 4), (0, 16), (0, 16), str(bert)),)
    assert dataset[Position(0, 0)][0].latents.shape == (16, *dataset.info.encoded.grid) == (16, 2, 2, 2)

    model = ("model.patch_size=[1,1,1]", "model.hidden_size=32", "model.depth=1", "model.num_heads=2")
    train = ("train.py", "--data", shards, "--run", run, "training.steps=2", "training.batch_size=4", *model)
    trained = run_script(*train)
    assert trained.returncode == 0, trained.stderr
    clips = run_script("generate.py", "--run", run, "--out", tmp_path / "clips", "--steps", 2, "a red circle")
    assert clips.returncode == 0, clips.stderr
    eight = ("--out", tmp_path / "eight", "--workers", 0, *settings, "data.num_frames=8")
    refused = run_script("preprocess.py", shapes_videos, *eight)
    assert (refused.returncode, "takes 4k + 1 frames: use 5 or 9" in refused.stderr) == (2, True)

    shutil.copytree(wan, tmp_path / "moved")
    longer = (*train, "training.steps=3", f"autoencoder.model={tmp_path / 'moved'}")
    gone_on = run_script(*longer, "--verify")
    assert gone_on.returncode == 0, gone_on.stderr
    assert f"changed since this run began: autoencoder.model: '{wan}' before" in gone_on.stdout
    file = tmp_path / "moved/diffusion_pytorch_model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    generate = ("generate.py", "--run", run, "--out", tmp_path / "other", "a red circle")
    for program, source in ((longer, shards), (generate, run)):
        refused = run_script(*program)
        assert refused.returncode == 2
        told = rf"error: {source} was made with the autoencoder \w{{32}}, and .*moved\) of this config is \w{{32}}: "
        assert re.search(told, refused.stderr)
    shutil.rmtree(tmp_path / "moved")
    alone = run_script(*longer, "training.steps=4")
    assert alone.returncode == 0, alone.stderr
    assert "moved) is not on this machine, and could not be compared with that of" in alone.stdout
    shard = next(shards.glob("shard-*.arrow"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    refused = run_script(*longer, "--verify")
    assert (refused.returncode, f"{shard} holds other bytes than were written" in refused.stderr) == (2, True)
