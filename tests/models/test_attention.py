"""Attention against PyTorch's own, and what it promises to those who cut heads out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dimwise.errors import ModelError
from dimwise.models import build
from dimwise.models._attention import Attention, Block, Positions


def test_it_computes_what_pytorchs_own_attention_computes() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.k.weight, ours.v.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.k.bias, ours.v.bias]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0])
    seen = torch.tensor([[True] * 5, [True, True, False, False, False]])
    masked = theirs(x, x, x, key_padding_mask=~seen)[0]
    torch.testing.assert_close(ours(x, seen[:, None, None]), masked)
    assert not torch.allclose(ours(x), masked)


def test_a_head_can_be_cut_out_of_the_four_layers() -> None:
    torch.manual_seed(0)
    whole = Attention(12, 3)
    with torch.no_grad():
        whole.out.weight[:, 4:8] = 0  # the second head says nothing
    x = torch.randn(2, 5, 12)
    expected = whole(x)
    rest = [0, 1, 2, 3, 8, 9, 10, 11]
    for layer in (whole.q, whole.k, whole.v):
        layer.weight, layer.bias = nn.Parameter(layer.weight[rest]), nn.Parameter(layer.bias[rest])
    whole.out.weight = nn.Parameter(whole.out.weight[:, rest])
    torch.testing.assert_close(whole(x), expected)


def test_a_block_adds_to_what_it_is_given() -> None:
    block, x = Block(8, 2, 16), torch.randn(2, 3, 8)
    with torch.no_grad():
        block.attention.out.weight.zero_(), block.attention.out.bias.zero_()
        block.fc2.weight.zero_(), block.fc2.bias.zero_()
    assert torch.equal(block(x), x)


def test_positions_put_the_token_first_and_draw_anew() -> None:
    torch.manual_seed(0)
    positions, x = Positions(4, 8, token=True), torch.zeros(2, 4, 8)
    y = positions(x)
    assert y.shape == (2, 5, 8)
    torch.testing.assert_close(y[1, 0], (positions.token + positions.places[:, :1])[0, 0])
    torch.testing.assert_close(y[1, 1:], positions.places[0, 1:])
    assert 0.01 < float(positions.places.detach().std()) < 0.03
    before = positions.places.clone()
    positions.reset_parameters()
    assert not torch.equal(positions.places, before)
    assert Positions(4, 8, token=False)(x).shape == (2, 4, 8)


def test_wider_networks_have_more_heads_as_published() -> None:
    with torch.device("meta"):
        small, base = (build("deit_tiny", (3, 224, 224), 1000, width=w) for w in (2.0, 4.0))
    assert sum(p.numel() for p in small.parameters()) == 22_050_664  # DeiT-S, table 1: 22 M
    assert sum(p.numel() for p in base.parameters()) == 86_567_656  # DeiT-B: 86 M
    assert small.blocks[0].attention.head_dim == base.blocks[0].attention.head_dim == 64


@pytest.mark.parametrize(("name", "patch"), [("vit", 4), ("deit_tiny", 16)])
def test_images_that_patches_do_not_cover_are_refused(name: str, patch: int) -> None:
    with pytest.raises(ModelError, match=rf"{name} cannot cut images of {patch} × {2 * patch + 2} pixels into patches"):
        build(name, (3, patch, 2 * patch + 2), 5)
    assert build(name, (3, patch, 2 * patch), 5, width=0.1).eval()(torch.zeros(1, 3, patch, 2 * patch)).shape == (1, 5)
