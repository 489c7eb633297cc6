"""[training]: the loop."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from video_dit.config.table import Autocast, Count, CountOrZero, Fraction, NotNegative, Positive, Table

EmaWidth = Annotated[float, Field(gt=0, le=0.28)]


class TrainingConfig(Table):
    """The loop, the optimizer and what is kept."""

    steps: Count = Field(1000, description="optimizer steps")
    batch_size: Count = Field(32, description="samples per step, over all ranks together")
    batch_by_tokens: bool = Field(
        False,
        description="batches of smaller clips have as many more samples, a multiple, as have no more tokens than "
        "batch_size of the largest",
    )
    image_weight: Positive = Field(
        1.0, description="how often clips of one frame are shown, against those of more; 1: as often"
    )
    micro_batch_size: Count | None = Field(
        None, description="samples per rank and forward pass; none: batch_size / ranks; smaller saves memory"
    )
    sequence_parallel: Count = Field(
        1, description="ranks that share the tokens of each clip, and with them the activations' memory (Ulysses)"
    )
    optimizer: Literal["adamw", "adamw_8bit", "muon"] = Field(
        "adamw",
        description="adamw_8bit: a quarter of AdamW's memory, and its averages rounded; muon: orthogonalized momentum "
        "for the blocks' matrices, AdamW elsewhere; ZeRO 0 to 2, no clipping",
    )
    learning_rate: Positive = Field(1e-3, description="peak learning rate of AdamW")
    muon_learning_rate: Positive = Field(0.03, description="peak learning rate of Muon's matrices")
    betas: tuple[Fraction, Fraction] = Field((0.9, 0.95), description="of AdamW")
    weight_decay: NotNegative = Field(
        0.0, description="times the learning rate: of AdamW, and of Muon's matrices, whose rate is larger"
    )
    schedule: Literal["constant", "cosine", "wsd"] = Field(
        "cosine", description="of the learning rates after the warm-up; wsd: constant, then linearly to zero"
    )
    decay_fraction: Fraction = Field(0.3, description="last share of the steps, over which wsd goes to zero")
    warmup_steps: CountOrZero = Field(50, description="linear warm-up")
    gradient_clipping: NotNegative = Field(1.0, description="largest norm of the gradient; 0: none")
    precision: Autocast = Field(
        "fp32",
        description="bf16: products in bfloat16 under autocast; weights and optimizer stay in fp32; fp16: in float16, "
        "with a scaled loss; for GPUs without bfloat16",
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        2, description="DeepSpeed ZeRO: 1 shards the optimizer over the ranks, 2 the gradients too, 3 the weights too"
    )
    offload_optimizer: Literal["none", "cpu"] = Field(
        "none", description="where the optimizer's state is kept and its step taken; cpu: ZeRO 1 to 3"
    )
    offload_parameters: Literal["none", "cpu"] = Field("none", description="where the weights wait; cpu: ZeRO 3")
    compile: bool = Field(False, description="hands each block to torch.compile: slow at first, then faster")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.99, description="of the averaged weights; early on (1 + step) / (10 + step) when that is less"
    )
    ema_widths: tuple[EmaWidth, ...] = Field(
        (),
        description="of power-function averages, kept beside that of ema_decay: the deviation of the steps that an "
        "average weighs, as a share of all steps so far; [0.05, 0.1] lets scripts/average.py make any between",
    )
    snapshot_every: Count = Field(
        500, description="steps between snapshots of the ema_widths, which all stay; the last step always has them"
    )
    log_every: Count = Field(10, description="steps between progress lines; validation and samples have one before")
    checkpoint_every: Count = Field(500, description="steps between checkpoints; the last step always has one")
    validate_every: Count = Field(500, description="steps between losses on the clips of train.py --validation")
    validation_clips: Count = Field(64, description="at most so many of these clips, the same each time")
    sample_every: CountOrZero = Field(
        0, description="steps between clips from the averaged weights, as the last step has them too; 0: none at all"
    )
    sample_prompts: tuple[str, ...] = Field(
        (), description="of these clips, in turn; none: the run's example_prompts.txt, or no prompt"
    )
    num_samples: Count = Field(4, description="how many of these clips are made each time, from the same noise")
    spike_factor: NotNegative = Field(
        10.0, description="a loss above so many times the median of the last spike_window losses is a spike; 0: none is"
    )
    spike_window: Count = Field(100, description="steps of that median; before there are so many, no loss is a spike")
    on_spike: Literal["skip", "stop"] = Field(
        "skip",
        description="what becomes of a step whose loss is a spike, or whose loss or gradient is not finite: skip "
        "leaves the weights and the optimizer as they are, stop also ends the run; alarms/ names its samples",
    )
    max_skipped_steps: Count = Field(10, description="after so many in a row the run ends")
    trackers: tuple[Literal["wandb", "trackio"], ...] = Field(
        (), description="where curves and clips go besides TensorBoard; the package of that name must be installed"
    )
    tracker_project: str = Field("video-dit", description="what the run belongs to there; its name is its folder's")
    initial_weights: Path | None = Field(
        None,
        description="what a new run starts from: a run folder or an exported model, of which it takes the averaged "
        "weights, or a safetensors file, such as scripts/from_sd3.py writes",
    )
    train_only: tuple[str, ...] = Field(
        (),
        description="patterns of names of weights, such as 'backbone.*.norm.*', of which only these are trained; "
        "none: all, or where lora.rank is set the adapters alone",
    )
    freeze: tuple[str, ...] = Field(
        (), description="patterns of names of weights, such as 'text_embedder.*', that are not trained"
    )
    keep_checkpoints: Count = Field(2, description="how many of the latest checkpoints stay")
    step_time_limit: NotNegative = Field(
        1800.0,
        description="seconds after which a step or a start that does not end ends the run and says who waits; 0: none",
    )
    num_workers: CountOrZero = Field(0, description="processes that load data, per rank; 0: none")
