"""What a recipe may say about data: where it is, what is learnt from it, how it is split."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dimwise.recipe import config


@config
class DataConfig:
    """Which data, and how it is cut into train, valid and test."""

    source: Literal["digits", "mnist", "fashion", "cifar10", "cifar100", "sst2", "npz", "folder", "csv", "text"] = (
        "digits"
    )
    """A named set, or your own: npz (arrays), folder (class = sub-folder of images), csv (a table), text (lines of
    text and label). Default: digits, which is real and needs no download."""
    path: str = ""
    """For npz, folder, csv and text: the file or folder, relative to here or to the data folder. Default: none."""
    target: str = ""
    """For csv: the column to predict; several, separated by commas, make several outputs. For text: the column of the
    label where the first line is a header; the other columns are the text. Default: none."""
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
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 64
    """For text and sst2: words and marks of a text that are read; the rest is cut off. Default: two to three
    sentences."""
    min_count: Annotated[int, Field(ge=1)] = 2
    """For text and sst2: how often a word must occur in the training texts to be told from unknown ones. Default:
    twice, so that training meets unknown words too."""
