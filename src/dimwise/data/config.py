"""What a recipe may say about data: where it is, what is learnt from it, how it is split."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dimwise.recipe import config


@config
class DataConfig:
    """Which data, and how it is cut into train, valid and test."""

    source: Literal["digits", "mnist", "fashion", "cifar10", "cifar100", "npz", "folder", "csv"] = "digits"
    """A named set, or your own: npz (arrays), folder (class = sub-folder of images), csv (a table).
    Default: digits, which is real and needs no download."""
    path: str = ""
    """For npz, folder and csv: the file or folder, relative to here or to the data folder. Default: none."""
    target: str = ""
    """For csv: the column to predict; several, separated by commas, make several outputs. Default: none."""
    task: Literal["auto", "classification", "multilabel", "regression"] = "auto"
    """What is learnt; auto looks at the targets and notes what it found. Default: auto."""
    valid_frac: Annotated[float, Field(gt=0, le=0.45)] = 0.1
    """Fraction (0 to 0.45) held out for choices, of what is not an official test set. Default: a tenth, as usual."""
    test_frac: Annotated[float, Field(gt=0, le=0.45)] = 0.2
    """Fraction (0 to 0.45) held out for the report, where no official test set exists. Default: a fifth, as usual."""
    split_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Rules the split alone, so runs of different train.seed are scored on the same inputs. Default: 0."""
    train_limit: Annotated[int, Field(ge=0)] = 0
    """Most training inputs to keep, in the classes' own proportions; 0 keeps all. Default: all."""
    image_size: Annotated[int, Field(ge=0, le=4096)] = 0
    """For folder: height and width in pixels; 0 takes the size of the first image. Default: 0."""
    skip_corrupt: bool = False
    """For folder: leave out images that cannot be read, and say so. Default: no, a broken file stops the run."""
