"""What may be said about the network in a recipe."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from dimwise.errors import nearest
from dimwise.models import MODELS
from dimwise.recipe import config


def known(name: str) -> str:
    """A validator of recipes: the name of a network of the table."""
    if name not in MODELS:
        hint = "A recipe runs no code: name your own with --model." if ":" in name else nearest(name, MODELS)
        raise ValueError(f"a network of `dimwise model list`. {hint}".removesuffix(". "))
    return name


@config
class ModelConfig:
    """Which network, how wide, with how much dropout."""

    name: Annotated[str, AfterValidator(known)] = "small_cnn"
    """A name of `dimwise model list`. Default: small, and takes images of any size."""
    width: Annotated[float, Field(gt=0, le=16)] = 1.0
    """Factor on the channels of each layer, rounded to multiples of 8. Default: the paper's own."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of zeroing a value before the last layer while training. Default: off; 0.2 to 0.5 is common."""
