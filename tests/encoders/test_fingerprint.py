"""Which encoder it is, told from files: tiny ones with random weights."""

import shutil
from pathlib import Path

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from video_dit.config import AutoencoderConfig, CaptionerConfig, TextEncoderConfig, load_config
from video_dit.encoders.fingerprint import check_encoders, encoder_fingerprint, encoder_fingerprints
from video_dit.errors import UserError

WEIGHTS = "diffusion_pytorch_model.safetensors"


def of_autoencoder(folder: Path | str, **keys: object) -> str | None:
    return encoder_fingerprint(AutoencoderConfig(name="diffusers", model=str(folder), **keys))  # type: ignore[arg-type]


def of_text_encoder(*folders: Path, **keys: object) -> str | None:
    models = tuple(map(str, folders))
    return encoder_fingerprint(TextEncoderConfig(name="transformers", models=models, **keys))  # type: ignore[arg-type]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), latent_channels=4,
    ).save_pretrained(tmp_path / "tiny")  # fmt: skip
    return tmp_path / "tiny"


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    (tmp_path / "bert/vocab.txt").write_text("[PAD]\n[UNK]\na\nb\nc\nd\ne\nf\n")
    return tmp_path / "bert"


def test_the_same_model_elsewhere_and_computed_otherwise_is_the_same(tiny: Path, tmp_path: Path) -> None:
    whole = of_autoencoder(tiny)
    assert whole is not None
    assert len(whole) == 32
    shutil.copytree(tiny, tmp_path / "copy")
    shutil.copytree(tiny, tmp_path / "pipeline/vae")
    assert of_autoencoder(tmp_path / "copy") == of_autoencoder(tmp_path / "pipeline") == whole
    assert of_autoencoder(tiny, dtype="bf16", tile_size=(1, 8, 8), tile_overlap=(0, 1, 1)) == whole


def test_every_tensor_and_setting_counts(tiny: Path) -> None:
    """Of each tensor all numbers, or every second one, are moved a little, as training does."""
    seen = {of_autoencoder(tiny)}
    weights = load_file(tiny / WEIGHTS)
    for name, tensor in weights.items():
        moved = tensor.flatten().clone()
        moved[::2] += 1e-3
        save_file({**weights, name: moved.view_as(tensor)}, tiny / WEIGHTS, metadata={"format": "pt"})
        seen.add(of_autoencoder(tiny))
    assert len(seen) == 1 + len(weights)
    save_file(weights, tiny / WEIGHTS, metadata={"format": "pt"})
    assert of_autoencoder(tiny) in seen
    config = (tiny / "config.json").read_text()
    (tiny / "config.json").write_text(config.replace('"scaling_factor": 1.0', '"scaling_factor": 2.0'))
    assert of_autoencoder(tiny) not in seen
    (tiny / "config.json").write_text(config.replace("_diffusers_version", "transformers_version"))
    assert of_autoencoder(tiny) in seen


def test_text_encoders_differ_by_vocabulary_order_and_length(bert: Path, tmp_path: Path) -> None:
    shutil.copytree(bert, tmp_path / "other")
    (tmp_path / "other/vocab.txt").write_text("[PAD]\n[UNK]\nf\ne\nd\nc\nb\na\n")
    other = tmp_path / "other"
    seen = [
        of_text_encoder(bert), of_text_encoder(other), of_text_encoder(bert, other), of_text_encoder(other, bert),
        of_text_encoder(bert, max_lengths=(5,)), of_text_encoder(bert, mask_padding=False),
    ]  # fmt: skip
    assert None not in seen
    assert len(set(seen)) == len(seen)
    assert of_text_encoder(bert, dtype="bf16") == seen[0]


def of_captioner(model: Path | str, **keys: object) -> str | None:
    return encoder_fingerprint(CaptionerConfig(name="transformers", model=str(model), **keys))  # type: ignore[arg-type]


def test_captioners_differ_by_what_is_in_their_folder(bert: Path, tmp_path: Path) -> None:
    seen = [of_captioner(bert), of_captioner(bert, prompt="What?"), of_captioner(bert, num_frames=2)]
    shutil.copytree(bert, tmp_path / "copy")
    assert of_captioner(tmp_path / "copy", weight=0.1, batch_size=1) == seen[0]
    for name in ("preprocessor_config.json", "chat_template.jinja", "vocab.txt"):
        (bert / name).write_text(name)
        seen.append(of_captioner(bert))
    weights = load_file(bert / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, bert / "model.safetensors")
    seen.append(of_captioner(bert))
    assert None not in seen
    assert len(set(seen)) == len(seen)
    assert of_captioner("org/model") is None


def test_weights_in_pieces_are_all_read(bert: Path, tmp_path: Path) -> None:
    model = transformers.BertModel.from_pretrained(bert)
    model.save_pretrained(tmp_path / "pieces", max_shard_size="3KB")
    pieces = sorted((tmp_path / "pieces").glob("model-*.safetensors"))
    assert len(pieces) > 1
    before = of_text_encoder(tmp_path / "pieces")
    last = load_file(pieces[-1])
    save_file({name: tensor + 1 for name, tensor in last.items()}, pieces[-1], metadata={"format": "pt"})
    assert None is not of_text_encoder(tmp_path / "pieces") != before
    pieces[0].unlink()
    assert of_text_encoder(tmp_path / "pieces") is None


def test_a_model_of_the_hub_is_found_in_its_cache(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the hub's client lays it out: a snapshot, and a reference to it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub/models--org--vae"
    assert of_autoencoder("org/vae") is None
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("abc")
    shutil.copytree(tiny, repository / "snapshots/abc/vae")
    assert of_autoencoder("org/vae") == of_autoencoder("org/vae/vae") == of_autoencoder(tiny)


def test_what_is_not_here_has_none_and_what_is_damaged_is_named(tiny: Path) -> None:
    assert of_autoencoder("/gone") is of_autoencoder("gone/nowhere") is None
    (tiny / WEIGHTS).write_bytes(b"no weights at all")
    with pytest.raises(UserError, match=rf"{WEIGHTS} is damaged .*: fetch the model again"):
        of_autoencoder(tiny)
    (tiny / WEIGHTS).unlink()
    assert of_autoencoder(tiny) is None


def test_those_without_weights_differ_by_their_settings() -> None:
    tables = [AutoencoderConfig(), AutoencoderConfig(name="haar"), TextEncoderConfig(), TextEncoderConfig(width=8)]
    assert len({encoder_fingerprint(table) for table in tables}) == 4
    tiled = AutoencoderConfig(tile_size=(1, 8, 8), tile_overlap=(0, 1, 1))
    assert encoder_fingerprint(tiled) == encoder_fingerprint(AutoencoderConfig())


def test_other_encoders_are_refused_and_both_are_named(tiny: Path) -> None:
    config = load_config(None, ["autoencoder.name=diffusers", f"autoencoder.model={tiny}"])
    made_with = encoder_fingerprints(config)
    assert check_encoders(config, made_with, "shards") == []
    weights = load_file(tiny / WEIGHTS)
    save_file({name: tensor + 1 for name, tensor in weights.items()}, tiny / WEIGHTS, metadata={"format": "pt"})
    ours, theirs = of_autoencoder(tiny), made_with["autoencoder"]
    told = rf"^shards was made with the autoencoder {theirs}, and autoencoder \({tiny}\) of this config is {ours}: "
    with pytest.raises(UserError, match=told):
        check_encoders(config, made_with, "shards")
    shutil.rmtree(tiny)
    assert check_encoders(config, made_with, "shards") == [
        f"autoencoder ({tiny}) is not on this machine, and could not be compared with that of shards"
    ]
    with pytest.raises(UserError, match="made with the text_encoder other"):
        check_encoders(config, {**made_with, "text_encoder": "other"}, "shards")
