"""What training may be told: every switch, its unit, its range and the reason of its default."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dimwise.recipe import config


@config
class TrainConfig:
    """How a network is trained."""

    epochs: Annotated[int, Field(ge=1, le=100_000)] = 10
    """Passes over the training split. Default: what the guide's MNIST network takes."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Inputs per optimizer step (with accumulate > 1: per forward pass). Default: common for small images."""
    optimizer: Literal["sgd", "nesterov", "adam", "adamw"] = "adam"
    """sgd uses plain momentum, nesterov looks ahead, adamw decouples weight decay. Default: needs least tuning."""
    lr: Annotated[float, Field(gt=0, le=100)] = 1e-3
    """Peak learning rate, no unit. Default: Adam's own."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of sgd and nesterov; for adam and adamw it is beta 1. Default: the usual one."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """L2 strength on weight matrices and kernels; never on norms and biases. Default: off."""
    schedule: Literal["constant", "cosine", "onecycle"] = "constant"
    """Learning rate over the run: constant, down half a cosine, or linearly up then down to zero. Default: none."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs of linear rise from zero before constant and cosine. Default: none; large rates need 1 to 5."""
    peak_frac: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """For onecycle: fraction of the run at which the peak is reached. Default: a quarter, as in fast CIFAR recipes."""
    init: Literal["default", "he"] = "default"
    """he: normal weights of deviation √(2/fan), zero biases, for ReLU networks (fan: outputs of a convolution,
    inputs of a dense layer); default: PyTorch's own. Default: default."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Part of the target spread evenly over the classes. Default: off; 0.1 is common."""
    clip_norm: Annotated[float, Field(ge=0)] = 0.0
    """Largest norm of the whole gradient; 0 switches clipping off. Default: off; 1.0 is common for RNNs."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Forward passes per optimizer step; k passes of b inputs give the gradient of one pass of k·b. Default: 1."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the running average of the weights per step, used for scoring; 0 switches it off. Default: off."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Epochs without a better validation loss before stopping; 0 never stops early. Default: never."""
    keep: Literal["best", "last"] = "best"
    """Which weights the run ends with: those of the best validation score, or the last. Default: best."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of forward and backward; auto times the candidates on the first batch. Default: auto."""
    layout: Literal["auto", "contiguous", "channels_last"] = "auto"
    """Memory order of image batches; auto as above. Default: auto."""
    compile: Literal["auto", "yes", "no"] = "no"
    """torch.compile: takes 6 to 30 s at first; auto times it too. Default: no, since small networks lose by it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it runs; auto takes CUDA when there is one. Default: auto."""
    threads: Annotated[int, Field(ge=0)] = 0
    """Compute threads; 0 takes all cores, or one where measuring shows that more hardly help. Default: 0."""
    checkpoint_every_s: Annotated[float, Field(ge=0)] = 20.0
    """Seconds between checkpoints (at step boundaries); 0 saves after every step. Default: a loss of 20 s at most."""
    eval_every: Annotated[int, Field(ge=1)] = 1
    """Epochs between scorings on the validation split. Default: each."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Rules initialisation, order, augmentation and dropout. With precision, layout and threads named, a run repeats
    bit for bit on the same machine; "auto" follows the clock, and the run records what it chose. Default: 0."""
