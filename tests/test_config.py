from pathlib import Path

import pytest

from video_dit.config import Config, ConfigError, describe, dump, load_config


def test_an_empty_config_is_the_schema_s_defaults() -> None:
    assert load_config() == Config()


def test_a_dumped_config_reads_back_equal(tmp_path: Path) -> None:
    config = load_config(None, ["model.depth=3", "training.betas=[0.9, 0.99]", "deepspeed.zero_optimization.stage=1"])
    (tmp_path / "config.toml").write_text(dump(config))
    assert load_config(tmp_path / "config.toml") == config


def test_overrides_win_over_the_file_and_words_need_no_quotes(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("seed = 5\n[model]\ndepth = 3\n[data]\nsplit = 'test'\n")
    config = load_config(tmp_path / "run.toml", ["model.depth=4", "diffusion.loss=data", "data.fps=12"])
    assert (config.seed, config.model.depth, config.data.split) == (5, 4, "test")
    assert (config.diffusion.loss, config.data.fps) == ("data", 12.0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.deph=3", r"model.deph: unknown key; did you mean model.depth\?"),
        ("depth=3", r"depth: unknown key; did you mean model.depth\?"),
        ("modle.depth=3", r"modle: unknown key; did you mean model"),
        ("model.xyz=3", r"model.xyz: unknown key; known here: model.name, model.preset, model.patch_size"),
        ("model.depth=x", r"model.depth = 'x': input should be a valid integer"),
        ("model.depth=0", r"model.depth = 0: input should be greater than or equal to 1"),
        ("training.zero_stage=7", r"training.zero_stage = 7: input should be 0, 1, 2 or 3"),
        ("model.patch_size=[1, 2]", r"model.patch_size"),
        ("model.depth", r"override 'model.depth' has no '='"),
        ("seed.depth=3", r"override 'seed.depth=3': 'seed' is a value, not a table"),
    ],
)
def test_mistakes_are_named_with_what_was_meant(override: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("seed = 1\n")
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "run.toml", [override])


BERT = ("text_encoder.name=transformers", 'text_encoder.models=["bert"]')


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.num_heads=5"], r"model.hidden_size is 256, which model.num_heads = 5 does not divide: use 255 or 260"),
        (["model.hidden_size=21", "model.num_heads=3"], r"num_heads is 7, and must be even and at least 6"),
        (["model.rotary_split=[16, 24, 26]"], r"rotary_split is \[16, 24, 26\].* = 64, such as \[16, 24, 24\]"),
        (["model.rotary_split=[15, 25, 24]"], r"rotary_split is \[15, 25, 24\], and must be even numbers"),
        (["model.hidden_size=18", "model.num_heads=3"], r"hidden_size is 18, and must be a multiple of 4 for sincos"),
        (["model.patch_size=[3, 4, 4]"], r"frames is 8, .* multiple of 3, .*model.patch_size.*use 6 or 9"),
        (["model.depth=4", "autoencoder.name=haar", "data.height=20"], r"height is 10, which is not a multiple of 4"),
        (["model.name=u_vit", "model.attention_pattern=window"], r"attention_pattern is for model.name = mmdit or dit"),
        (["model.name=dit", "model.dual_attention_blocks=[0]"], r"is for model.name = mmdit, not dit: leave it out"),
        (["model.dit_conditioning=adaln"], r"model.dit_conditioning is for model.name = dit, not mmdit: leave it out"),
        (["model.dual_attention_blocks=[6]"], r"dual_attention_blocks names block 6, and .* are 0 to 5"),
        (["model.single_stream_blocks=6"], r"single_stream_blocks is 6, and must leave one of model.depth = 6"),
        (["model.window_size=[2, 3, 3]"], r"model.window_size is \[2, 3, 3\], and must be odd"),
        (["model.text_split=4", "model.attention_pattern=factorised"], r"text_split does not go with .* factorised"),
        (["model.name=u_vit", "model.given_frames=true"], r"given_frames needs a timestep.*use model.name = mmdit"),
        (["autoencoder.tile_size=[8, 16, 32]"], r"overlap is \[4, 28, 28\], and must be less than .* = \[8, 16, 32\]"),
        (["autoencoder.name=diffusers"], r"autoencoder.model is for .* = diffusers, which needs it: .* pixel or haar"),
        (["autoencoder.model=vae"], r"autoencoder.model is for autoencoder.name = diffusers"),
        (["text_encoder.name=transformers"], r"text_encoder.models is for .* which needs it: .*name = hash"),
        (["text_encoder.hidden_layer=-2"], r"text_encoder.hidden_layer is not for text_encoder.name = hash: leave it"),
        ([*BERT, "text_encoder.width=4"], r"text_encoder.width is not for text_encoder.name = transformers"),
        ([*BERT, "text_encoder.max_lengths=[7, 8]"], r"max_lengths has 2 numbers for 1 models: give one for each, or"),
        (["model.spatial_position=learned", "model.position_grid=[16, 2]"], r"position_grid is \[16, 2\].*or more"),
        (["model.attention_backend=flash"], r"model.attention_backend = 'flash': input should be 'auto', 'sdpa'"),
    ],
)  # fmt: skip
def test_models_that_cannot_be_built_are_refused_when_the_config_is_read(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["diffusion.stratified=true", "diffusion.per_frame_noise=true"], r"per_frame_noise draws several: leave one"),
        (["model.given_frames=true", "diffusion.first_frame=0.7", "diffusion.continuation=0.6"], r"add up to 1.3"),
        (["diffusion.first_frame=0.5"], r"a model that cannot be told: set model.given_frames = true"),
        (
            ["diffusion.first_frame=0.5", "diffusion.per_frame_noise=true"],
            r"model.patch_size is \[2, 4, 4\], and must begin with 1 where frames are given",
        ),
        (["diffusion.per_frame_noise=true", "model.name=u_vit"], r"per_frame_noise .* adaptive norms alone"),
        (["diffusion.process=edm", "sampling.zero_init=0.04"], r"zero_init is for diffusion.process = rectified_flow"),
        (["sampling.guidance_interval=[0.8, 0.2]"], r"guidance_interval is \[0.8, 0.2\], and must ascend"),
        (["diffusion.mode_scale=2.0"], r"diffusion.mode_scale = 2.0: input should be less than or equal to 1.75"),
        (["diffusion.process=ddpm"], r"diffusion.process = 'ddpm': input should be 'rectified_flow', 'cosine', 'edm'"),
    ],
)
def test_objectives_that_contradict_themselves_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, overrides)


def test_a_backend_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("video_dit.config.model.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"model.attention_backend is xformers, which is not installed.*use auto"):
        load_config(None, ["model.attention_backend=xformers"])


def test_presets_fill_in_the_sizes_that_are_not_given(tmp_path: Path) -> None:
    model = load_config(None, ["model.preset=B", "model.depth=3"]).model
    assert (model.hidden_size, model.depth, model.num_heads) == (768, 3, 12)
    config = load_config(None, ["model.preset=sd3", "model.depth=18"])
    assert (config.model.hidden_size, config.model.depth, config.model.num_heads) == (64 * 18, 18, 18)
    (tmp_path / "config.toml").write_text(dump(config))
    assert load_config(tmp_path / "config.toml") == config


def test_a_config_for_preprocessing_needs_no_model_that_fits() -> None:
    assert load_config(None, ["data.num_frames=5"]).data.num_frames == 5


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone.toml: there is no such config file"):
        load_config(tmp_path / "gone.toml")
    (tmp_path / "bad.toml").write_text("[model\n")
    with pytest.raises(ConfigError, match=r"bad.toml: not a TOML file"):
        load_config(tmp_path / "bad.toml")


def test_what_the_shards_were_made_with_is_settled() -> None:
    tables = {"data": {"fps": 12.0, "num_frames": 8}, "autoencoder": {"name": "haar"}}
    config = load_config(None, ["data.fps=12"], fixed=tables)
    assert (config.data.fps, config.data.num_frames, config.autoencoder.name) == (12.0, 8, "haar")
    with pytest.raises(ConfigError, match="autoencoder is 'haar', and must be a table"):
        load_config(None, ["autoencoder=haar"], fixed=tables)
    with pytest.raises(ConfigError, match=r"data.fps is 24, but the shards were made with 12.0"):
        load_config(None, ["data.fps=24"], fixed=tables)


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config().model.depth = 3  # type: ignore[misc]


def test_the_description_names_every_key_with_type_default_and_meaning() -> None:
    lines = describe().splitlines()
    for table, values in Config().model_dump().items():
        for key in values if isinstance(values, dict) and values else [""]:
            name = f"{table}.{key}" if key else table
            assert sum(line.startswith(f"  {name}  (") for line in lines) == 1, name
    assert '  model.qk_norm  (none | rms | layer; default "rms")' in lines
    assert "  model.dual_attention_blocks  (list of any number of int; default [])" in lines
    assert "  model.patch_size  (list of 3 int; default " in describe()
    assert "  model.feed_forward_chunk_size  (int or none; default none)" in lines


def test_every_shipped_config_is_valid_and_says_only_what_differs() -> None:
    files = sorted((Path(__file__).parent.parent / "configs").glob("*.toml"))
    assert files
    defaults = Config().model_dump(mode="json")
    for file in files:
        config = load_config(file).model_dump(mode="json", exclude_unset=True)
        same = [f"{t}.{k}" for t, values in config.items() if isinstance(values, dict) for k in values
                if values[k] == defaults[t].get(k)]  # fmt: skip
        assert same == [], file
        assert file.read_text().startswith("# "), f"{file} does not say what it is for"
