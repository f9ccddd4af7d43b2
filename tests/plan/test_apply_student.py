"""Which student a composition's distillation teaches."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dimwise import fold
from dimwise.data.sets import Data, Normalise, Split
from dimwise.fold._steps import parse
from dimwise.plan.apply import Subject, _fold_network
from dimwise.train import TrainConfig


@pytest.mark.parametrize(
    ("text", "n_layers"), [("distill", 1), ("distill(depth=0.5, scale=1)", 3), ("distill(inherit=true, scale=1)", 5)]
)
def test_what_keeps_part_of_the_teacher_is_made_from_it(text: str, n_layers: int) -> None:
    split = Split(torch.randn(8, 3), torch.zeros(8, dtype=torch.int64))
    data = Data("rows", split, split, split, ("a", "b", "c"), Normalise(1.0, (0.0,) * 3, (1.0,) * 3))
    teacher = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)), nn.Linear(3, 3, bias=False))
    subject = Subject(teacher, student=lambda _, __: nn.Linear(3, 3))
    made, _ = _fold_network(parse(text)[0], teacher, subject, fold.evidence(data, train=TrainConfig()), False)
    assert sum(isinstance(m, nn.Linear) for m in made.modules()) == n_layers
