"""The recipe as a whole: the parts of all rooms in one frozen dataclass, built in or from a file."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import Field

from dimwise import recipe as machinery
from dimwise.data.augment import AugmentConfig
from dimwise.data.config import DataConfig
from dimwise.errors import RecipeError, nearest
from dimwise.fold._steps import parse
from dimwise.fold.cast import CastConfig
from dimwise.fold.distill import DistillConfig
from dimwise.fold.equalise import EqualiseConfig
from dimwise.fold.fuse import FuseConfig
from dimwise.fold.lowrank import LowrankConfig
from dimwise.fold.one_vs_rest import OneVsRestConfig
from dimwise.fold.prune import PruneConfig
from dimwise.fold.qat import QatConfig
from dimwise.fold.quantize import QuantizeConfig
from dimwise.fold.reduce import ReduceConfig
from dimwise.fold.separable import SeparableConfig
from dimwise.fold.share import ShareConfig
from dimwise.fold.sparsify import SparsifyConfig
from dimwise.models.config import ModelConfig
from dimwise.plan.budget import Budget
from dimwise.recipe import config
from dimwise.ship.config import ShipConfig
from dimwise.train.config import TrainConfig


@config
class FoldPlan:
    """Which folds are tried, and how each is done."""

    candidates: tuple[str, ...] = ("quantize", "prune", "prune+quantize", "distill", "distill+quantize")
    """Folds in the order in which they are applied, joined by '+' or blanks, each with its own settings in brackets
    when it needs others than those below: "prune(macs=0.3)+quantize". The unfolded model is always a candidate.
    Default: each alone, and int8 on top of the smaller networks, which is usually the smallest of all."""
    time_s: Annotated[float, Field(ge=0)] = 0.0
    """Seconds that a search among compositions may take after these, for the budget; needs optuna. Default: 0, none."""
    distill: DistillConfig = DistillConfig()
    prune: PruneConfig = PruneConfig()
    fuse: FuseConfig = FuseConfig()
    equalise: EqualiseConfig = EqualiseConfig()
    lowrank: LowrankConfig = LowrankConfig()
    qat: QatConfig = QatConfig()
    quantize: QuantizeConfig = QuantizeConfig()
    one_vs_rest: OneVsRestConfig = OneVsRestConfig()
    reduce: ReduceConfig = ReduceConfig()
    cast: CastConfig = CastConfig()
    separable: SeparableConfig = SeparableConfig()
    share: ShareConfig = ShareConfig()
    sparsify: SparsifyConfig = SparsifyConfig()

    def __post_init__(self) -> None:
        read = []
        for candidate in self.candidates:
            try:
                steps = parse(candidate)
            except RecipeError as error:
                raise ValueError(f"what can be folded. {error}") from None
            if not steps:
                raise ValueError("a fold in each candidate; the unfolded model is always one")
            if steps in read:
                raise ValueError(f"each candidate once, not {candidate!r} twice")
            read.append(steps)


@config
class Recipe:
    """Everything a run does."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)] = "recipe"
    """Names the run folder: letters, digits, '_', '.', '-'. Default: the name of the file."""
    summary: str = ""
    """One sentence for the list of recipes. Default: none."""
    doctor: bool = True
    """Whether the doctor watches the first steps of the training; the weights are the same. Default: yes."""
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    fold: FoldPlan = FoldPlan()
    budget: Budget = Budget()
    ship: ShipConfig = ShipConfig()


def recipes() -> dict[str, str]:
    """Name -> summary of the recipes that come with dimwise, in the order of the list.

    Example:
        >>> "digits" in recipes()
        True
    """
    found = {}
    for entry in sorted(_builtin().iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".toml"):
            tree = machinery.parse(entry.read_text("utf-8"), entry.name)
            found[entry.name.removesuffix(".toml")] = str(tree.get("summary", ""))
    return found


def load(name_or_path: str | Path, settings: Sequence[str] = ()) -> Recipe:
    """A built-in recipe by name, or one from a TOML file, with ``key=value`` settings applied.

    Raises:
        RecipeError: for an unknown name, an unreadable file, a wrong key or value.

    Example:
        >>> load("digits", ["train.epochs=3"]).train.epochs
        3
    """
    text, source = _text(str(name_or_path))
    tree = machinery.override(machinery.parse(text, source), settings)
    tree.setdefault("name", Path(source).stem)
    return machinery.build(Recipe, tree, source)


def _text(name: str) -> tuple[str, str]:
    known = recipes()
    if name in known:
        return (_builtin() / f"{name}.toml").read_text("utf-8"), f"recipe {name}"
    path = Path(name)
    if path.is_dir() and (path / "recipe.toml").is_file():
        path = path / "recipe.toml"
    if path.suffix != ".toml" and not path.is_file():
        raise RecipeError(
            f"unknown recipe {name!r}",
            expected="a .toml file or one of: " + ", ".join(known),
            next_step=nearest(name, known),
        )
    try:
        return path.read_text("utf-8"), str(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise RecipeError(f"cannot read recipe {name}: {reason}", next_step="See: dimwise recipe list.") from None


def _builtin() -> resources.abc.Traversable:
    return resources.files("dimwise") / "recipes"
