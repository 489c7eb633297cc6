"""Weights of Stable Diffusion 3 and 3.5, in diffusers' format, as those of a VideoDiT."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor, nn

from video_dit.errors import UserError
from video_dit.models.weights import differing_weights

NAMES = {
    # SD3Transformer2DModel                    VideoDiT
    "context_embedder": "text_embedder",
    "time_text_embed.timestep_embedder.linear_1": "conditioning_embedder.timestep.linear_in",
    "time_text_embed.timestep_embedder.linear_2": "conditioning_embedder.timestep.linear_out",
    "time_text_embed.text_embedder.linear_1": "conditioning_embedder.pooled_text.linear_in",
    "time_text_embed.text_embedder.linear_2": "conditioning_embedder.pooled_text.linear_out",
    "pos_embed.proj": "video_embedder",
    "norm_out.linear": "norm_out.linear",
    "proj_out": "proj_out",
}
"""Of the ends."""

BLOCK_NAMES = {
    # JointTransformerBlock                    JointTransformerBlock
    "norm1.linear": "video.norm.linear",
    "attn.to_q": "video.to_q.linear",
    "attn.to_k": "video.to_k.linear",
    "attn.to_v": "video.to_v.linear",
    "attn.norm_q": "video.to_q.norm",
    "attn.norm_k": "video.to_k.norm",
    "attn.to_out.0": "video.to_out",
    "attn2.to_q": "video.dual_attention.to_q.linear",
    "attn2.to_k": "video.dual_attention.to_k.linear",
    "attn2.to_v": "video.dual_attention.to_v.linear",
    "attn2.norm_q": "video.dual_attention.to_q.norm",
    "attn2.norm_k": "video.dual_attention.to_k.norm",
    "attn2.to_out.0": "video.dual_attention.to_out",
    "ff.net.0.proj": "video.feed_forward.linear_in",
    "ff.net.2": "video.feed_forward.linear_out",
    "norm1_context.linear": "texts.0.norm.linear",
    "attn.add_q_proj": "texts.0.to_q.linear",
    "attn.add_k_proj": "texts.0.to_k.linear",
    "attn.add_v_proj": "texts.0.to_v.linear",
    "attn.norm_added_q": "texts.0.to_q.norm",
    "attn.norm_added_k": "texts.0.to_k.norm",
    "attn.to_add_out": "texts.0.to_out",
    "ff_context.net.0.proj": "texts.0.feed_forward.linear_in",
    "ff_context.net.2": "texts.0.feed_forward.linear_out",
}
"""Of a block. With `context_pre_only` diffusers keeps the text's queries, which nothing reads; here there are none."""


class Checkpoint(NamedTuple):
    """config: what SD3Transformer2DModel was built with; weights: by diffusers' names."""

    config: Mapping[str, Any]
    weights: dict[str, Tensor]


def read_checkpoint(folder: Path) -> Checkpoint:
    """From the folder of a pipeline or of its transformer.

    Raises:
        UserError: the folder holds no SD3 transformer.
    """
    config = read_config(folder)
    files = sorted(_transformer(folder).glob("*.safetensors"))
    if not files:
        raise UserError(f"{_transformer(folder)} has no *.safetensors: only such weights are read")
    weights: dict[str, Tensor] = {}
    for file in files:
        weights |= load_file(file)
    return Checkpoint(config, weights)


def read_config(folder: Path) -> dict[str, Any]:
    """What the SD3Transformer2DModel in such a folder was built with.

    Raises:
        UserError: the folder holds no SD3 transformer.
    """
    folder = _transformer(folder)
    config_file = folder / "config.json"
    if not config_file.exists():
        raise UserError(
            f"{folder} has no config.json: name the folder of an SD3 or SD3.5 checkpoint in diffusers' format"
        )
    config: dict[str, Any] = json.loads(config_file.read_text(encoding="utf-8"))
    if config.get("_class_name") != "SD3Transformer2DModel":
        raise UserError(f"{config_file} is of a {config.get('_class_name')}, not of an SD3Transformer2DModel")
    return config


def _transformer(folder: Path) -> Path:
    return folder / "transformer" if (folder / "transformer").is_dir() else folder


def model_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """The [model] table of a VideoDiT that equals this SD3 frame by frame, until its temporal blocks are trained."""
    hidden_size = config["num_attention_heads"] * config["attention_head_dim"]
    if config["caption_projection_dim"] != hidden_size:
        raise UserError(f"caption_projection_dim is {config['caption_projection_dim']}, and must be {hidden_size}")
    patch_size, max_size = config["patch_size"], config["pos_embed_max_size"]
    qk_norms = {None: "none", "rms_norm": "rms", "layer_norm": "layer"}
    qk_norm = config.get("qk_norm")  # SD3 is older than this key and than dual attention
    if qk_norm not in qk_norms:
        raise UserError(f"qk_norm is {qk_norm} in the checkpoint's config.json, and must be one of {list(qk_norms)}")
    return {
        "name": "mmdit",
        "patch_size": (1, patch_size, patch_size),
        "hidden_size": hidden_size,
        "depth": config["num_layers"],
        "num_heads": config["num_attention_heads"],
        "qk_norm": qk_norms[qk_norm],
        "dual_attention_blocks": tuple(config.get("dual_attention_layers", ())),
        "attention_pattern": "factorised",
        "rotary": False,
        "spatial_position": "sincos",
        "temporal_position": "learned",
        "position_grid": (max_size, max_size),
        "position_scale": config["sample_size"] // patch_size / max_size,
    }


def renamed(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The weights by the names of a VideoDiT.

    Raises:
        UserError: a weight has no place in it.
    """
    last_block = checkpoint.config["num_layers"] - 1
    weights = {}
    for name, tensor in checkpoint.weights.items():
        layer, _, kind = name.rpartition(".")
        if name == "pos_embed.pos_embed":  # computed, not learned
            continue
        if name == "pos_embed.proj.weight":
            tensor = rearrange(tensor, "d c ph pw -> d (ph pw c)")
        if layer in NAMES:
            weights[f"{NAMES[layer]}.{kind}"] = tensor
            continue
        blocks, _, rest = layer.partition(".")
        index, _, part = rest.partition(".")
        if blocks != "transformer_blocks" or part not in BLOCK_NAMES:
            raise UserError(f"the checkpoint holds {name}, which an SD3 transformer does not have")
        if int(index) == last_block and part in ("attn.add_q_proj", "attn.norm_added_q"):
            continue
        weights[f"backbone.blocks.{index}.{BLOCK_NAMES[part]}.{kind}"] = tensor
    return weights


def load_spatial(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Sets what an SD3 knows of: all but the temporal parts, and but the ends whose width is another.

    Raises:
        UserError: the checkpoint and the model do not fit.
    """
    own = model.state_dict()
    ends = {name.partition(".")[0] for name in NAMES.values()}
    different = differing_weights(own, weights)
    of_other_width = {name for name in different & own.keys() & weights.keys() if name.partition(".")[0] in ends}
    temporal = {name for name in own if "temporal" in name}
    if misfits := different - of_other_width - temporal:
        raise UserError(f"the checkpoint does not fit its config: {len(misfits)} weights, such as {min(misfits)}")
    model.load_state_dict({name: weights[name] for name in weights.keys() - of_other_width}, strict=False)
