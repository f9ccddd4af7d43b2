"""Rules about the data, on observations written by hand: named with their numbers, silent on look-alikes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from tests.doctor._parts import AT, batches, findings, layer, loader, loss, one, root, seen, silent, why

from dimwise.doctor.finding import Place
from dimwise.doctor.rules import axes, data, datasets, labels
from dimwise.doctor.seen import Seen

RAW: dict[str, Any] = {"mean": 33.3, "std": 78.6, "low": 0.0, "high": 255.0}


def columns(**facts: Any) -> dict[str, Any]:
    """A table of 20 columns."""
    return {"shape": (20,), "channel_mean": [0.0] * 20, "channel_std": [1.0] * 20, "first_layer": "Linear", **facts}


# unnormalised-input


def test_raw_images() -> None:
    found = one(data.unnormalised_input(seen(batches(**RAW))))
    assert found.severity == "warning"
    assert "640 training rows: mean 33.3, standard deviation 78.6, from 0 to 255" in found.evidence
    assert "/ 255" in found.remedy
    assert found.cure == {"kind": "normalise"}


def test_one_wild_column_a_moderate_scale_and_a_tiny_one() -> None:
    wild = columns(channel_mean=[0.0] * 19 + [51000.0], channel_std=[1.0] * 19 + [9000.0], mean=9.0, std=3.0)
    found = one(data.unnormalised_input(seen(batches(**wild))))
    assert found.severity == "warning"
    assert "channel 19 has mean 5.1e+04" in found.evidence
    assert one(data.unnormalised_input(seen(batches(**columns(mean=12.0))))).severity == "hint"
    tiny = batches(**columns(std=1e-4, low=-3e-4, high=3e-4))
    assert one(data.unnormalised_input(seen(tiny))).severity == "hint"


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"mean": 0.13, "std": 0.31, "low": 0.0, "high": 1.0},
        {**RAW, "first_layer": "BatchNorm2d"},
        columns(mean=1.0, std=5.8, low=-10.0, high=10.0, channel_std=[5.8] * 20),
        columns(mean=0.0001, std=0.01, low=0.0, high=1.0),  # one-hot of ten thousand
        {**RAW, "n_batches": 2},
        {"mean": math.nan},
    ],
)
def test_scales_that_are_fine(facts: dict[str, Any]) -> None:
    assert silent(data.unnormalised_input(seen(batches(**facts))))


def test_a_norm_behind_the_first_layer_takes_the_scale_out() -> None:
    net = root(layer("conv", "Conv2d", 1), layer("bn", "BatchNorm2d", 2), layer("fc", order=3))
    assert silent(data.unnormalised_input(seen(batches(**RAW), net=net)))
    late = root(layer("conv", "Conv2d", 1), layer("fc", order=2), layer("bn", "BatchNorm1d", 3))
    assert findings(data.unnormalised_input(seen(batches(**RAW), net=late)))


@pytest.mark.parametrize(("kind", "fed", "quiet"), [("LayerNorm", None, False), ("LayerNorm", "LayerNorm", True),
                                                    ("BatchNorm1d", None, True)])  # fmt: skip
def test_a_norm_on_a_branch_of_a_residual_stream_takes_no_scale_out(kind: str, fed: str | None, quiet: bool) -> None:
    embed = layer("embed", n_params=4160, bias_feeds=fed)
    net = root(embed, layer("block.norm", kind, order=2), layer("head", order=3))
    assert silent(data.unnormalised_input(seen(batches(**RAW), net=net))) is quiet
    unused = root(layer("bn", "BatchNorm2d", 0), layer("conv", "Conv2d", 1), layer("fc", order=2))
    assert findings(data.unnormalised_input(seen(batches(**RAW), net=unused)))


def test_tokens_have_no_scale() -> None:
    assert "no numeric" in why(data.unnormalised_input(seen(batches(floating=False))))
    assert "no numeric" in why(data.unnormalised_input(Seen()))


# nan-in-input


def test_holes() -> None:
    found = one(data.nan_in_input(seen(batches(n_nan=3), loss_history=[(0, math.nan, 0)])))
    assert found.severity == "error"
    assert "3 of 640 watched rows for training" in found.evidence
    masked = seen(batches(n_nan=3), loss_history=[(0, 2.3, 0)])
    assert one(data.nan_in_input(masked)).severity == "hint"
    assert silent(data.nan_in_input(seen(batches())))
    assert silent(data.nan_in_input(seen(batches(), batches("eval", 1), loss_history=[(0, math.nan, 0)])))
    assert "no inputs" in why(data.nan_in_input(Seen()))


# constant-input


def test_constant_inputs() -> None:
    found = one(data.constant_input(seen(batches(n_constant=20, std=0.0))))
    assert found.severity == "error"
    assert "20 of 20 batches" in found.evidence
    assert one(data.constant_input(seen(batches("eval", n_constant=20)))).severity == "warning"


@pytest.mark.parametrize(
    "facts",
    [
        {"n_constant": 2},
        {"n_constant": 20, "sizes": [1] * 20},
        {"n_constant": 20, "shape": (1,)},
        {"n_identical": 19},  # one batch overfitted
    ],
)
def test_inputs_that_differ(facts: dict[str, Any]) -> None:
    assert silent(data.constant_input(seen(batches(**facts))))


WORDS: dict[str, Any] = {
    "floating": False,
    "shape": (16,),
    "first_layer": "Embedding",
    "table_rows": 5000,
    "n_tokens": 1,
}


def test_a_text_of_unknown_words() -> None:
    found = one(data.constant_input(seen(batches(**WORDS))))
    assert found.severity == "error"
    assert "looked up only 1 of the 5000 entries of Embedding" in found.evidence


@pytest.mark.parametrize(
    "facts",
    [{"n_tokens": 3}, {"table_rows": 2, "n_tokens": 2}, {"shape": ()}, {"n_rows": 64}, {"purpose": "eval"}],
)
def test_words_that_differ_and_flags(facts: dict[str, Any]) -> None:
    assert silent(data.constant_input(seen(batches(**{**WORDS, **facts}))))


def test_constant_not_checked() -> None:
    assert "fewer than 3" in why(data.constant_input(seen(batches(n_constant=20, floating=False))))
    assert "fewer than 3" in why(data.constant_input(seen(batches(n_constant=2, n_batches=2))))


# workers-share-seed

RNG = ["dataset.rng (numpy Generator)"]


def test_workers_with_one_generator() -> None:
    found = one(data.workers_share_seed(seen(loaders=(loader(n_workers=4, generators=RNG),))))
    assert "4 worker processes at train.py:48" in found.evidence
    assert "dataset.rng (numpy Generator)" in found.evidence
    assert "worker_init_fn" in found.remedy
    assert "every epoch" in one(data.workers_share_seed(seen(loaders=(loader(n_workers=1, generators=RNG),)))).title


def test_workers_that_are_seeded_alike() -> None:
    told = loader(n_workers=4, worker_init=True, alike_in_workers=["numpy.random"])
    found = one(data.workers_share_seed(seen(loaders=(told,))))
    assert "numpy.random stood in the same state in all 4 worker processes at train.py:48" in found.evidence
    assert "torch.initial_seed()" in found.remedy


def test_workers_that_are_seeded_or_draw_nothing() -> None:
    assert silent(data.workers_share_seed(seen(loaders=(loader(n_workers=4, generators=RNG, worker_init=True),))))
    assert silent(data.workers_share_seed(seen(loaders=(loader(n_workers=4),))))
    alone = seen(loaders=(loader(generators=RNG), loader(n_workers=4, generators=RNG, trains=False)))
    assert "no training loader with worker" in why(data.workers_share_seed(alone))


# input-mutated


def test_written_batches_and_changed_arrays() -> None:
    place = Place("model.py", 12)
    found = one(data.input_mutated(seen(batches(base_mutations=20, mutated_place=place))))
    assert "written to 20 times at model.py:12 in 20 batches" in found.evidence
    assert found.place == place
    changed = loader(n_iterations=2, arrays_changed=["dataset.images"], dataset="Mine")
    found = one(data.input_mutated(seen(batches(), loaders=(changed,))))
    assert found.severity == "warning"
    assert "dataset.images of Mine differed between two of 2 epochs" in found.evidence
    order = loader(n_iterations=2, arrays_changed=["dataset.permutation"])
    assert one(data.input_mutated(seen(batches(), loaders=(order,)))).severity == "hint"


@pytest.mark.parametrize(
    "healthy",
    [
        seen(batches()),
        seen(batches(base_mutations=2)),
        seen(batches(base_mutations=5)),
        seen(batches(base_mutations=20), batches("eval", 1, sizes=[1] * 20, n_batches=200)),  # an agent's buffer
        seen(batches(), loaders=(loader(n_iterations=2, arrays_changed=["dataset.cache"]),)),
        seen(batches(), loaders=(loader(n_iterations=2, arrays_changed=["dataset.images"], trains=False),)),
    ],
)
def test_data_that_stays(healthy: Seen) -> None:
    assert silent(data.input_mutated(healthy))


def test_mutation_not_checked() -> None:
    assert "no inputs" in why(data.input_mutated(Seen()))


# wrong-axis-order


def test_a_network_that_writes_into_its_input() -> None:
    found = one(data.input_mutated(seen(batches(mutated_inside=19))))
    assert "in 19 of 20 passes at train.py:48" in found.evidence
    assert silent(data.input_mutated(seen(batches(mutated_inside=2))))


SMOOTH = {"row_apart": 0.1, "row_apart_if_last": 0.2, "unrelated": 0.6}


def scrambled(**facts: Any) -> Any:
    told = {"path": "conv1", "kind": "Conv2d", "shape": [32, 3, 32, 48], "in_channels": 3, **SMOOTH, **facts}
    return axes.wrong_axis_order(seen(net=root(layer("conv1", "Conv2d"), first_input_layout=told)))


def test_images_reshaped_where_axes_had_to_be_swapped() -> None:
    found = one(scrambled(row_apart=0.6))
    assert (found.severity, found.module) == ("error", "conv1")
    assert "read as (32, 32, 48, 3) they differ by 0.2" in found.evidence
    assert "x.permute(0, 3, 1, 2)" in found.remedy


@pytest.mark.parametrize(
    "facts",
    [
        {},  # photographs read rightly
        {"row_apart": 1.1, "row_apart_if_last": 1.1, "unrelated": 1.1},  # noise
        {"row_apart": 0.6, "row_apart_if_last": 0.4, "unrelated": 0.4},  # some pattern of values that are unrelated
        {"row_apart": 0.6, "shape": [2, 3, 32, 48]},  # two images may be odd
    ],
)
def test_images_that_were_not(facts: dict[str, Any]) -> None:
    assert silent(scrambled(**facts))


def layout(shape: list[int], channels: int) -> Seen:
    told = {"path": "conv1", "kind": "Conv2d", "shape": shape, "in_channels": channels}
    return seen(net=root(first_input_layout=told))


def test_channels_last() -> None:
    found = one(axes.wrong_axis_order(layout([32, 28, 28, 1], 28)))
    assert found.severity == "error"
    assert "(32, 28, 28, 1)" in found.evidence
    assert "x.permute(0, 3, 1, 2)" in found.remedy
    assert found.module == "conv1"
    assert one(axes.wrong_axis_order(layout([8, 48, 64, 3], 48))).severity == "warning"


def test_channels_last_that_pytorch_refused() -> None:
    message = (
        "Given groups=1, weight of size [16, 3, 3, 3], expected input[32, 32, 32, 3] to have 3 channels, "
        "but got 32 channels instead"
    )
    found = one(axes.wrong_axis_order(seen(error={"type": "RuntimeError", "message": message, "place": AT})))
    assert "wants 3 channels on axis 1 and got 32" in found.evidence
    assert found.place == AT
    other = message.replace("[32, 32, 32, 3]", "[32, 1, 28, 28]").replace("got 32", "got 1")
    assert "no convolution" in why(axes.wrong_axis_order(seen(error={"type": "RuntimeError", "message": other})))


@pytest.mark.parametrize(
    ("shape", "channels"),
    [([32, 3, 32, 32], 3), ([32, 1, 28, 28], 1), ([32, 64, 128, 1], 64), ([32, 17, 8, 8], 17), ([32, 4, 100], 4)],
)
def test_channels_first(shape: list[int], channels: int) -> None:
    assert silent(axes.wrong_axis_order(layout(shape, channels)))


# train-valid-preprocessing-differs


def valid(**facts: Any) -> Any:
    return batches("eval", 1, **facts)


def differs(train: Any, other: Any) -> Any:
    return datasets.train_valid_preprocessing_differs(seen(train, other))


def test_validation_left_raw() -> None:
    train = batches(mean=0.0, std=1.0, low=-0.4242, high=2.8215)
    found = one(differs(train, valid(mean=0.1307, std=0.3081, low=0.0, high=1.0)))
    assert found.severity == "error"
    assert "mean 0.131, standard deviation 0.308, range 0 to 1" in found.evidence
    assert "spread 0.308 times, shift 0.13" in found.evidence
    half = differs(batches(mean=-0.05, std=0.5, low=-1.0, high=1.0), valid(mean=0.475, std=0.25, low=0.0, high=1.0))
    assert one(half).severity == "warning"


def test_validation_table_left_raw() -> None:
    raw = columns(mean=40.0, std=30.0, channel_mean=[40.0] * 20, channel_std=[12.0] * 20)
    assert one(differs(batches(**columns()), valid(**raw))).severity == "warning"
    inside = columns(mean=0.4, std=0.2, low=0.0, high=1.0, channel_mean=[0.2, 0.6] * 10, channel_std=[0.2] * 20)
    assert one(differs(batches(**columns(low=-2.3, high=3.5)), valid(**inside))).severity == "warning"  # other scaler
    tiny = columns(mean=0.05, std=0.02, low=0.0, high=0.1, channel_mean=[0.05] * 20, channel_std=[0.02] * 20)
    assert one(differs(batches(**columns(low=-2.3, high=3.5)), valid(**tiny))).severity == "warning"
    either = columns(channel_mean=[4.0] * 6 + [0.0] * 14, channel_std=[1.0] * 6 + [5.0] * 6 + [1.0] * 8)
    assert one(differs(batches(**columns()), valid(**either))).severity == "warning"  # 6 shifted, 6 others stretched


@pytest.mark.parametrize(
    ("train", "other"),
    [
        (batches(), valid()),
        (batches(mean=0.3, std=0.2, low=0, high=1), valid(mean=0.5, std=0.27, low=0, high=1)),  # jitter
        (batches(mean=0.3, std=0.6, low=-1.8, high=2.9), valid(mean=0.3, std=0.3, low=0, high=1)),  # denoising
        (batches(**columns()), valid(**columns(mean=1.5, channel_mean=[1.5] * 20))),  # drift
        (batches(**columns()), valid(**columns(channel_std=[9.0] + [1.0] * 19, std=2.2))),  # one heavy column
        (
            batches(**columns()),
            valid(**columns(channel_std=[9.0] * 5 + [1.0] * 15, channel_mean=[4.0] * 5 + [0.0] * 15)),
        ),
        (batches(std=0.0), valid()),
        (
            batches(**columns(low=-2.3, high=2.5)),
            valid(**columns(mean=-1.1, std=0.32, low=-2.0, high=-0.3, channel_std=[0.32] * 20)),
        ),  # windows of a series in a quiet season
    ],
)
def test_prepared_alike(train: Any, other: Any) -> None:
    assert silent(differs(train, other))


def test_preprocessing_not_checked() -> None:
    spoilt = batches(mean=-9.0, mutated_inside=19, **{k: v for k, v in columns().items() if k != "first_layer"})
    assert "too few rows" in why(differs(spoilt, valid(**columns())))
    assert "too few rows" in why(differs(batches(), valid(n_rows=8)))
    assert "too few rows" in why(datasets.train_valid_preprocessing_differs(Seen()))


# train-valid-leak


def leak(*others: Any, train: Any = None) -> Any:
    return datasets.train_valid_leak(seen(train or batches(), *others))


def test_part_of_the_validation_set_was_trained_on() -> None:
    found = one(leak(valid(in_train=160)))
    assert found.severity == "error"
    assert "160 of 640 evaluated rows at train.py:48 are equal to training rows" in found.evidence
    assert "25 %" in found.evidence
    copied = valid(in_train=160, n_hashed=570, shape=(30,), n_varied=28)  # rows repeat, yet their numbers do not
    assert one(leak(copied)).severity == "error"
    by_place = one(leak(valid(shared_indices=64, n_hashed=0)))
    assert "64 of 640 rows come from the same places" in by_place.evidence
    assert one(leak(valid(shared_indices=1))).severity == "hint"


def test_all_of_it_alone() -> None:
    assert one(leak(valid(in_train=640))).severity == "hint"  # the training set: perhaps a monitor
    assert one(leak(valid(in_train=100, n_hashed=100, n_distinct_of=100, dataset_rows=100))).severity == "error"


def test_a_training_set_that_was_drawn_in_part_is_the_training_set() -> None:
    drawn = batches(fresh=[(8, 32)] * 20)  # a quarter of what is drawn is new: three quarters were seen
    assert one(leak(valid(in_train=480), train=drawn)).severity == "hint"
    assert one(leak(valid(in_train=240), train=drawn)).severity == "error"  # half of what the training set would share
    assert silent(leak(valid(in_train=480), batches("eval", 2, in_train=5), train=drawn))
    both = valid(in_train=480, dataset_rows=0, n_hashed=960, batch_in_train=[(480, 640), (0, 320)])
    assert silent(leak(both, train=drawn))  # two sets through one line
    whole = valid(in_train=640, n_hashed=2560, n_distinct_of=2560)
    first_epoch = seen(batches(fresh=[(32, 32)] * 20), whole, n_steps=800, n_watched_steps=200)
    assert one(datasets.train_valid_leak(first_epoch)).severity == "hint"


@pytest.mark.parametrize(
    "groups",
    [
        (valid(),),
        (valid(in_train=30),),  # natural duplicates
        (valid(in_train=640), batches("eval", 2, in_train=5)),  # a monitor beside a clean set
        (valid(in_train=300, n_hashed=300, shape=(6,)),),  # a table of few categories
        (valid(in_train=640, shape=(), floating=False, n_varied=1, dataset_rows=200),),  # words, one a row
        (valid(in_train=600, trained_first=10),),  # an agent
        (valid(in_train=640, trained_first=200), valid(in_train=5)),  # a monitor that began before all was drawn
        (valid(in_train=640, root=7),),  # another network
        (valid(in_train=640), batches(key=3, root=7)),  # a teacher is asked about its student's batches
        (valid(in_train=480, dataset_rows=0, batch_in_train=[(32, 32), (0, 32)] * 10),),  # two sets through one line
    ],
)
def test_no_leak(groups: Any) -> None:
    told = leak(*groups)
    assert not findings(told)


def test_whole_batches_that_are_shared_may_be_another_set() -> None:
    found = one(leak(valid(in_train=192, dataset_rows=0, batch_in_train=[(32, 32), (32, 32), (0, 32)])))
    assert found.severity == "hint"
    assert "whole batches are shared and whole batches are not" in found.evidence


def test_overfitting_a_batch_is_a_check() -> None:
    little = batches(n_hashed=32)
    assert silent(leak(valid(in_train=32, n_hashed=32, n_distinct_of=32), train=little))


def table(n_shared: int, twin_pairs: int) -> Any:
    """143 evaluated rows of seven numbers, of which training, 500 distinct rows, has some as well."""
    narrow: dict[str, Any] = {"shape": (7,), "first_layer": "Linear", "row_pairs": 10_000, "twin_pairs": twin_pairs}
    told = valid(in_train=n_shared, n_hashed=143, n_distinct_of=150, dataset_rows=0, **narrow)
    return leak(told, train=batches(n_hashed=500, **narrow))


def test_rows_of_few_categories_are_equal_by_chance() -> None:
    assert silent(table(50, twin_pairs=10))  # 500 others at 0.1 %: up to half of the rows
    assert one(table(100, twin_pairs=10)).severity == "error"  # more than chance gives
    assert one(table(50, twin_pairs=0)).severity == "error"  # rows that never repeat
    assert one(table(143, twin_pairs=100)).severity == "error"  # all of them: no matter how often rows repeat


def test_leak_not_checked() -> None:
    assert "no evaluation" in why(leak())
    assert "no evaluation" in why(leak(valid(n_hashed=5, dataset_rows=0)))


# no-shuffle

IN_ORDER: dict[str, Any] = {
    "classes_per_batch": [(1, 32)] * 20,
    "batch_labels": [i // 2 for i in range(20)],
    "label_changes": 9,
}
SEQUENTIAL = loader(shuffle=False, sampler="SequentialSampler")


def order(*loaders: Any, **facts: Any) -> Any:
    return labels.no_shuffle(seen(batches(**facts), loaders=loaders))


def test_rows_in_order_of_the_label() -> None:
    found = one(order(SEQUENTIAL, **IN_ORDER))
    assert found.severity == "error"
    assert "1.00 distinct labels on average, at random 9.66" in found.evidence
    assert "1.45 % of neighbouring rows, at random 90 %" in found.evidence
    assert "SequentialSampler" in found.evidence
    assert "shuffle=True" in found.remedy
    assert found.cure == {"kind": "shuffle"}
    assert "randperm" in one(order(**IN_ORDER)).remedy  # slices, no loader


def test_one_label_only_is_named_within_twenty_steps() -> None:
    first = {**IN_ORDER, "label_counts": {0: 640}, "label_changes": 0, "batch_labels": [0] * 20}
    assert one(order(SEQUENTIAL, **first)).severity == "warning"
    assert silent(order(SEQUENTIAL, **{**first, "label_counts": {0: 150}}))
    assert silent(order(SEQUENTIAL, **{**first, "weighted_loss": True}))
    assert silent(order(**first))  # MoCo's labels are all 0


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"label_changes": 9},  # episodes: sorted inside, all classes there
        {**IN_ORDER, "n_identical": 19},
        {**IN_ORDER, "classes_per_batch": [(8, 32)] * 20, "label_changes": 140},
        {**IN_ORDER, "batch_labels": [0, 1] * 10, "n_classes": 2, "label_counts": {0: 320, 1: 320}},  # real, fake
        {**IN_ORDER, "classes_per_batch": [(1, 2)] * 20},
    ],
)
def test_order_that_is_fine(facts: dict[str, Any]) -> None:
    assert silent(order(**facts))


def test_a_shuffled_loader_is_believed() -> None:
    assert silent(order(loader(), **IN_ORDER))


@pytest.mark.parametrize("facts", [{"label_dims": 2}, {"label_dims": 0, "label_counts": {}}, {"classes_per_batch": []}])
def test_order_not_checked(facts: dict[str, Any]) -> None:
    assert "fewer than 5" in why(order(SEQUENTIAL, **{**IN_ORDER, **facts}))


# labels-carry-no-signal

CHANCE = {"accuracy": 0.102, "chance": 0.1, "n": 500.0, "z": 0.15}


def signal(now: float = 2.31, steps: int = 200, group: Any = None, **facts: Any) -> Any:
    history = [(i, now, 0) for i in range(min(steps, 60))]
    told = facts.pop("losses", (loss(),))
    others = facts.pop("others", ())
    return labels.labels_carry_no_signal(
        seen(group or batches(knn=CHANCE, **facts), *others, n_steps=steps, loss_history=history, losses=told)
    )


def test_labels_without_signal() -> None:
    found = one(signal())
    assert found.severity == "warning"
    assert "500 rows agree in 10.2 % of cases, chance 10 % (0.1 standard deviations)" in found.evidence
    assert "after 200 steps the training loss is 2.310" in found.evidence
    assert "gives 2.303" in found.evidence
    assert one(signal(steps=30)).severity == "hint"


def test_voting_for_the_commonest_label_is_no_signal() -> None:
    votes = {"accuracy": 0.9, "chance": 0.82, "majority": 0.9, "n": 500.0, "z": 4.7}
    group = batches(label_counts={0: 576, 1: 64}, n_classes=2, knn=votes)
    assert "chance 82 %" in one(signal(0.33, group=group)).evidence


def test_learnt_by_heart() -> None:
    found = one(signal(0.1, others=(valid(loss_first=[4.2] * 9),)))
    assert "the validation loss 4.200" in found.evidence


@pytest.mark.parametrize(
    "told",
    [
        signal(1.9),
        signal(0.1, others=(valid(loss_first=[0.2] * 9),)),
        signal(group=batches(knn={**CHANCE, "accuracy": 0.18, "z": 6.0})),
        signal(losses=(loss(reduction="none"),)),
        signal(losses=(loss(weighted=True),)),
        signal(losses=(loss(input_shape=(32, 32)),)),
        signal(weighted_loss=True),
        signal(n_made=10),  # an adversary
    ],
)
def test_labels_with_signal(told: Any) -> None:
    assert silent(told)


def test_signal_not_checked() -> None:
    for told in (signal(steps=10), signal(group=batches()), signal(floating=False)):
        assert "fewer than 200" in why(told)
    assert "fewer than 200" in why(signal(group=batches(knn={**CHANCE, "n": 64.0})))


# class-imbalance


def counts(*n: int, **facts: Any) -> Any:
    return batches(label_counts=dict(enumerate(n)), n_classes=len(n), **facts)


def test_imbalance_is_a_hint_with_the_weights() -> None:
    found = one(labels.class_imbalance(seen(counts(950, 50), losses=(loss(),))))
    assert found.severity == "hint"
    assert "label 0 950 times, label 1 50 times (19 to 1); always saying 0 scores 95 %" in found.evidence
    assert "torch.tensor([0.526, 10])" in found.remedy


@pytest.mark.parametrize(
    "healthy",
    [
        seen(counts(600, 400)),
        seen(counts(950, 50, weighted_loss=True)),
        seen(counts(950, 50), losses=(loss(weighted=True),)),
        seen(counts(950, 50), losses=(loss(reduction="none"),)),
        seen(counts(950, 50, **IN_ORDER), loaders=(SEQUENTIAL,)),
        seen(counts(950)),
    ],
)
def test_balance_that_is_fine(healthy: Seen) -> None:
    assert silent(labels.class_imbalance(healthy))


@pytest.mark.parametrize("group", [counts(30, 1), counts(950, 50, floating=False), counts(950, 50, label_dims=3)])
def test_imbalance_not_checked(group: Any) -> None:
    assert "fewer than 20" in why(labels.class_imbalance(seen(group)))
