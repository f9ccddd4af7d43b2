from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dimwise.data.augment import AugmentConfig, augment, mix
from dimwise.errors import DataError

sides = st.integers(3, 9)
seeds = st.integers(0, 2**31)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(n=6, channels=3, height=8, width=8, seed=0, *, channels_last=False):
    x = torch.randn(n, channels, height, width, generator=generator(seed))
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


def slow_shift(x, most, seed):
    """One image after the other, by slicing."""
    places = torch.randint(0, 2 * most + 1, (2, len(x)), generator=generator(seed))
    out = torch.zeros_like(x)
    h, w = x.shape[2:]
    for i in range(len(x)):
        down, right = places[0, i].item() - most, places[1, i].item() - most
        for row in range(h):
            for column in range(w):
                if 0 <= row + down < h and 0 <= column + right < w:
                    out[i, :, row, column] = x[i, :, row + down, column + right]
    return out


@settings(max_examples=25, deadline=None)
@given(sides, sides, st.integers(1, 3), st.sampled_from([1, 3]), st.booleans(), seeds)
def test_shifted_crop_equals_a_slow_reference(height, width, most, channels, last, seed):
    x = batch(4, channels, height, width, channels_last=last)
    made = augment(x, AugmentConfig(crop=most), generator(seed))
    assert torch.equal(made, slow_shift(x, most, seed))


@settings(max_examples=20, deadline=None)
@given(st.booleans(), st.integers(0, 3), st.integers(0, 8), st.booleans(), seeds)
def test_same_generator_seed_same_output_and_input_untouched(flip, crop, cutout, last, seed):
    x = batch(channels_last=last)
    before = x.clone()
    config = AugmentConfig(flip=flip, crop=crop, cutout=cutout)
    assert torch.equal(augment(x, config, generator(seed)), augment(x, config, generator(seed)))
    assert torch.equal(x, before)


@pytest.mark.parametrize("last", [False, True])
def test_memory_order_and_type_are_kept(last):
    config = AugmentConfig(flip=True, crop=2, cutout=3)
    for dtype in (torch.float32, torch.bfloat16, torch.uint8):
        x = batch(channels_last=last).mul(50).to(dtype)
        made = augment(x, config, generator())
        order = torch.channels_last if last else torch.contiguous_format
        assert made.dtype == dtype
        assert made.is_contiguous(memory_format=order)


@pytest.mark.parametrize("config", [AugmentConfig(mixup=1.0), AugmentConfig(cutmix=1.0)])
def test_mixing_keeps_channels_last(config):
    mixed, _ = mix(batch(channels_last=True), torch.arange(6), 6, config, generator())
    assert mixed.is_contiguous(memory_format=torch.channels_last)


def test_memory_order_does_not_change_the_numbers():
    config = AugmentConfig(flip=True, crop=2, cutout=3)
    plain = augment(batch(), config, generator(5))
    assert torch.equal(plain, augment(batch(channels_last=True), config, generator(5)))


def test_all_off_gives_back_the_same_objects():
    x, y = batch(), torch.tensor([0, 1, 2, 0, 1, 2])
    assert augment(x, AugmentConfig(), generator()) is x
    same_x, same_y = mix(x, y, 3, AugmentConfig(), generator())
    assert same_x is x
    assert same_y is y


def test_flip_mirrors_some_and_only_mirrors():
    x = batch(64)
    made = augment(x, AugmentConfig(flip=True), generator())
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(made, x, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(made, x, strict=True)]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True))
    assert 16 < sum(mirrored) < 48


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 8), seeds)
def test_cutout_blanks_one_square_and_nothing_else(side, seed):
    x = torch.ones(5, 2, 8, 9)
    made = augment(x, AugmentConfig(cutout=side), generator(seed))
    for image in made:
        assert torch.equal(image[0], image[1])
        rows, columns = (image[0] == 0).nonzero(as_tuple=True)
        height, width = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
        assert height <= side
        assert width <= side
        assert len(rows) == height * width  # a full rectangle
        touches = rows.min() == 0 or rows.max() == 7 or columns.min() == 0 or columns.max() == 8
        assert touches or (height == side and width == side)


def test_inputs_that_are_no_images_or_too_small():
    with pytest.raises(DataError, match=r"augment\.flip is set for inputs of shape \(4, 10\)"):
        augment(torch.zeros(4, 10), AugmentConfig(flip=True), generator())
    with pytest.raises(DataError, match=r"augment\.crop is 9 for images of 8 pixels; expected at most 8"):
        augment(batch(), AugmentConfig(crop=9), generator())
    with pytest.raises(DataError, match=r"augment\.cutmix is set for inputs of shape \(2, 3\)"):
        mix(torch.zeros(2, 3), torch.tensor([0, 1]), 2, AugmentConfig(cutmix=1.0), generator())


mixes = st.sampled_from([(0.2, 0.0), (0.0, 1.0), (1.0, 1.0)])


@settings(max_examples=40, deadline=None)
@given(mixes, st.integers(1, 9), st.integers(2, 5), seeds)
def test_rows_of_mixed_targets_sum_to_one(alphas, n, n_classes, seed):
    config = AugmentConfig(mixup=alphas[0], cutmix=alphas[1])
    x, y = batch(n), torch.arange(n) % n_classes
    first = mix(x, y, n_classes, config, generator(seed))
    again = mix(x, y, n_classes, config, generator(seed))
    assert first[1].shape == (n, n_classes)
    assert first[1].dtype == torch.float32
    assert torch.allclose(first[1].sum(1), torch.ones(n))
    assert (first[1] >= 0).all()
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


@settings(max_examples=25, deadline=None)
@given(st.floats(0.1, 2.0), seeds)
def test_mixup_mixes_inputs_and_targets_alike(alpha, seed):
    y = torch.arange(6)
    x = torch.nn.functional.one_hot(y, 6).float()[:, :, None, None].expand(6, 6, 2, 2)
    mixed, soft = mix(x, y, 6, AugmentConfig(mixup=alpha), generator(seed))
    assert torch.allclose(mixed, soft[:, :, None, None].expand_as(mixed), atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.1, 2.0), sides, sides, st.booleans(), seeds)
def test_cutmix_weight_is_the_area_that_was_pasted(alpha, height, width, last, seed):
    y = torch.arange(6)
    x = torch.arange(6.0)[:, None, None, None].expand(6, 1, height, width).contiguous()
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    mixed, soft = mix(x, y, 6, AugmentConfig(cutmix=alpha), generator(seed))
    for i in range(6):
        own = (mixed[i] == i).float().mean().item()
        assert soft[i, i].item() == pytest.approx(own, abs=1e-6)


def test_with_both_the_generator_chooses():
    x, y = batch(8), torch.arange(8)
    config = AugmentConfig(mixup=1.0, cutmix=1.0)
    pasted = 0
    for seed in range(40):
        mixed, _ = mix(x, y, 8, config, generator(seed))
        pasted += bool(torch.isin(mixed, x).all())  # CutMix invents no value
    assert 8 < pasted < 32


def test_float_targets_are_mixed_as_they_are():
    x, y = torch.randn(4, 3), torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    _, soft = mix(x, y, 2, AugmentConfig(mixup=1.0), generator(1))
    assert soft.shape == y.shape
    assert torch.allclose(soft.sum(), y.sum())


def test_bytes_become_floats_under_mixup():
    x = batch().mul(50).to(torch.uint8)
    mixed, _ = mix(x, torch.arange(6), 6, AugmentConfig(mixup=1.0), generator())
    assert mixed.dtype == torch.float32


def test_the_beta_share_follows_its_alpha():
    y = torch.tensor([0, 1])
    shares = []
    for seed in range(200):
        _, soft = mix(torch.zeros(2, 1), y, 2, AugmentConfig(mixup=0.2), generator(seed))
        shares.append(soft[0].max().item())
    extreme = sum(share > 0.9 for share in shares) / 200
    assert extreme > 0.6  # Beta(0.2, 0.2) lives at its ends; half the pairings are with itself as well


@pytest.mark.parametrize(
    ("name", "config"), [("mixup", AugmentConfig(mixup=0.5)), ("cutmix", AugmentConfig(cutmix=0.5))]
)
def test_tokens_cannot_be_blended(name, config):
    tokens, targets = torch.tensor([[1, 2], [3, 0]]), torch.tensor([0, 1])
    with pytest.raises(DataError, match=rf"augment\.{name} is set for tokens of texts; expected numbers"):
        mix(tokens, targets, 2, config, torch.Generator())
