"""Rules about the network, on observations written by hand: named with their numbers, silent on look-alikes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from tests.doctor._parts import AT, batches, findings, layer, loss, one, root, seen, silent, why

from dimwise.doctor.rules import activations, layers, model
from dimwise.doctor.seen import ActivationSeen, OptimizerSeen, Seen


def act(function: str, path: str = "relu", **facts: Any) -> ActivationSeen:
    return ActivationSeen(path, function, **{"order": 2, "shape": (32, 64), **facts})


def looks(value: float, n: int = 5) -> list[tuple[int, float]]:
    return [(i, value) for i in range(n)]


# softmax-before-cross-entropy


def test_softmax_is_named_with_the_floor_it_puts_under_the_loss() -> None:
    found = one(
        model.softmax_before_cross_entropy(
            seen(losses=(loss(input_fn="SoftmaxBackward0", rows_sum_to_one=1, n_watched=1, activation_place=AT),))
        )
    )
    assert found.severity == "error"
    assert "1 of 1 watched calls at train.py:48" in found.evidence
    assert f"{math.log(math.e + 9) - 1:.3f}" in found.evidence
    assert found.cure == {"kind": "drop_softmax"}
    assert found.place == AT


def test_softmax_seen_as_the_networks_last_module_or_by_its_rows_alone() -> None:
    last = root(activations=(act("softmax", "head.softmax", is_last=True),))
    odd = loss(input_fn="ViewBackward0", rows_sum_to_one=2, n_watched=2)
    assert one(model.softmax_before_cross_entropy(seen(net=last, losses=(odd,)))).module == "head.softmax"
    assert silent(model.softmax_before_cross_entropy(seen(losses=(odd,))))
    many = loss(input_fn="ViewBackward0", rows_sum_to_one=9, n_watched=9)
    assert one(model.softmax_before_cross_entropy(seen(losses=(many,)))).severity == "error"


def test_nll_loss_of_probabilities_is_a_warning() -> None:
    found = one(model.softmax_before_cross_entropy(seen(losses=(loss("nll_loss", rows_sum_to_one=20),))))
    assert found.severity == "warning"
    assert "log_softmax" in found.remedy


@pytest.mark.parametrize(
    "healthy",
    [
        loss(),
        loss("nll_loss", input_fn="LogSoftmaxBackward0"),
        loss("nll_loss", input_fn="LogBackward0"),
        loss(rows_sum_to_one=7),  # now and then
        loss(input_fn="SoftmaxBackward0", rows_sum_to_one=20, n_outputs=1),
    ],
)
def test_softmax_is_silent(healthy: Any) -> None:
    assert silent(model.softmax_before_cross_entropy(seen(losses=(healthy,))))


def test_softmax_not_checked() -> None:
    assert "no cross_entropy" in why(model.softmax_before_cross_entropy(Seen()))


# sigmoid-before-bce-with-logits

BCE = "binary_cross_entropy_with_logits"


def test_sigmoid_is_named_at_the_first_call() -> None:
    found = one(
        model.sigmoid_before_bce_with_logits(
            seen(losses=(loss(BCE, input_fn="SigmoidBackward0", in_unit_range=1, n_watched=1),))
        )
    )
    assert found.severity == "error"
    assert "0.731" in found.evidence
    assert found.cure == {"kind": "drop_sigmoid"}


def test_a_range_alone_needs_calls_and_no_linear_map() -> None:
    def told(**facts: Any) -> Any:
        return model.sigmoid_before_bce_with_logits(seen(losses=(loss(BCE, **facts),)))

    assert one(told(input_fn="ViewBackward0", in_unit_range=20)).severity == "warning"
    assert silent(told(input_fn="ViewBackward0", in_unit_range=19, n_watched=19))
    assert silent(told(input_fn="AddmmBackward0", in_unit_range=20))
    assert silent(told(input_fn="SigmoidBackward0", in_unit_range=3))


def test_sigmoid_with_plain_bce_is_right() -> None:
    right = loss("binary_cross_entropy", input_fn="SigmoidBackward0", in_unit_range=20)
    assert "no binary_cross_entropy_with_logits" in why(model.sigmoid_before_bce_with_logits(seen(losses=(right,))))


# initial-loss-off


def test_first_loss_far_above_chance() -> None:
    found = one(model.initial_loss_off(seen(batches(), losses=(loss(first_value=46.1),), net=root(layer("fc")))))
    assert found.severity == "warning"
    assert "46.100" in found.evidence
    assert "2.303" in found.evidence
    assert "20.0 times" in found.evidence
    assert "model.fc.weight" in found.remedy


def test_first_loss_because_of_raw_inputs_names_them() -> None:
    raw = batches(mean=120.0, std=70.0)
    found = one(model.initial_loss_off(seen(raw, losses=(loss(first_value=46.1),))))
    assert found.cure == {"kind": "normalise"}


def test_first_loss_a_little_off_or_of_tokens_is_a_hint() -> None:
    assert one(model.initial_loss_off(seen(batches(), losses=(loss(first_value=6.0),)))).severity == "hint"
    tied = seen(batches(floating=False), losses=(loss(first_value=60.0),))
    assert one(model.initial_loss_off(tied)).severity == "hint"


def test_first_loss_of_tokens_that_does_not_come_down_soon() -> None:
    def tied(last: float) -> Seen:
        falling = [(i, 60.0 - i, 0) for i in range(19)] + [(19, last, 0)]
        return seen(batches(floating=False), losses=(loss(first_value=60.0),), loss_history=falling)

    found = one(model.initial_loss_off(tied(9.0)))
    assert found.severity == "warning"
    assert "after 20 steps it was still 9.000" in found.evidence
    assert one(model.initial_loss_off(tied(2.2))).severity == "hint"


@pytest.mark.parametrize("value", [0.02, 2.3, 4.5])
def test_first_loss_near_or_below_chance_is_silent(value: float) -> None:
    assert silent(model.initial_loss_off(seen(losses=(loss(first_value=value),))))


@pytest.mark.parametrize(
    "other",
    [
        loss("mse_loss", chance=None, first_value=9e6),
        loss(weighted=True, first_value=99.0),
        loss(first_value=99.0, input_shape=(32, 32), n_outputs=32),
        loss(first_value=99.0, input_shape=(64, 63), n_outputs=63),
        loss(first_value=math.nan),
    ],
)
def test_first_loss_without_chance_is_not_checked(other: Any) -> None:
    assert "no unweighted classification loss" in why(model.initial_loss_off(seen(losses=(other,))))


# output-labels-mismatch


def test_a_label_without_output() -> None:
    error = {"type": "IndexError", "message": "Target 10 is out of bounds.", "place": AT}
    found = one(model.output_labels_mismatch(seen(losses=(loss(),), error=error)))
    assert found.severity == "error"
    assert "label 10" in found.evidence
    assert "10 outputs" in found.evidence
    assert "11 outputs" in found.remedy


def test_one_output_and_targets_outside() -> None:
    single = loss(n_outputs=1, first_value=0.0)
    assert "first loss 0" in one(model.output_labels_mismatch(seen(losses=(single,)))).evidence
    outside = loss(BCE, target_low=-1.0, target_high=1.0)
    assert "from -1 to 1" in one(model.output_labels_mismatch(seen(losses=(outside,)))).evidence


def test_outputs_that_are_never_a_label_are_a_hint() -> None:
    few = batches(n_classes=1000)
    found = one(model.output_labels_mismatch(seen(few, losses=(loss(n_outputs=1000),))))
    assert found.severity == "hint"
    assert "1000 outputs; 640 rows had only 10 labels (0 to 9)" in found.evidence


def test_labels_that_start_at_one_are_a_hint() -> None:
    off: dict[str, Any] = {"n_classes": 11, "label_counts": dict.fromkeys(range(1, 11), 64)}
    for floating in (True, False):
        found = one(model.output_labels_mismatch(seen(batches(**off, floating=floating), losses=(loss(n_outputs=11),))))
        assert found.severity == "hint"
        assert "11 outputs; the labels of 640 rows run from 1 to 10" in found.evidence


@pytest.mark.parametrize(
    ("group", "healthy"),
    [
        (batches(), loss()),
        (batches(n_classes=5000, floating=False), loss(n_outputs=5000)),
        (batches(n_classes=65, label_counts=dict.fromkeys(range(1, 65), 64)), loss(n_outputs=65)),
        (batches(n_classes=5, label_counts=dict.fromkeys(range(1, 5), 8)), loss(n_outputs=5)),
        (batches(n_classes=100, label_dims=3), loss(n_outputs=100)),
        (batches(n_classes=65537, label_counts={0: 640}), loss(n_outputs=65537)),
        (batches(n_classes=1000, label_counts=dict.fromkeys(range(400), 1)), loss(n_outputs=1000)),
        (batches(n_classes=1000, label_changes=3), loss(n_outputs=1000)),
        (batches(), loss("binary_cross_entropy", target_low=0.0, target_high=1.0)),
        (batches(), loss("mse_loss", target_low=-3.0, target_high=900.0)),
        (batches(), loss(n_outputs=1, first_value=0.0, n_calls=1)),
    ],
)
def test_outputs_fit(group: Any, healthy: Any) -> None:
    assert silent(model.output_labels_mismatch(seen(group, losses=(healthy,))))


def test_outputs_not_checked() -> None:
    assert "no classification loss" in why(model.output_labels_mismatch(Seen()))


# loss-broadcasts


def mse(output: tuple[int, ...], target: tuple[int, ...]) -> Seen:
    return seen(losses=(loss("mse_loss", shapes_differ=1, n_watched=1, input_shape=output, target_shape=target),))


@pytest.mark.parametrize(("output", "target"), [((32, 1), (32,)), ((32,), (32, 1)), ((32, 1), (1, 32)), ((32,), (32,))])
def test_every_output_against_every_target(output: tuple[int, ...], target: tuple[int, ...]) -> None:
    found = one(model.loss_broadcasts(mse(output, target)))
    assert found.severity == "error"
    assert "(32, 32): 1024 pairs for 32 outputs" in found.evidence
    assert "view_as" in found.remedy


@pytest.mark.parametrize(
    ("output", "target"),
    [((32, 1), (1,)), ((32, 4), (32, 1)), ((32, 51, 1), (32, 1, 51)), ((1, 1), (1,)), ((32, 1), (32, 8))],
)
def test_broadcasts_on_purpose(output: tuple[int, ...], target: tuple[int, ...]) -> None:
    assert silent(model.loss_broadcasts(mse(output, target)))


def test_handwritten_losses() -> None:
    told = {"step": 0, "place": "train.py:48", "output_shape": [32, 1], "difference_shape": [32, 32]}
    found = one(model.loss_broadcasts(seen(broadcasts=[told])))
    assert "1024 pairs for 32 outputs" in found.evidence
    assert (found.place.file, found.place.line) == ("train.py", 48) if found.place else False
    assert silent(model.loss_broadcasts(seen(broadcasts=[{**told, "both_grad": True}])))
    assert silent(model.loss_broadcasts(seen(broadcasts=[{**told, "shapes": [[32, 1], [1, 32]]}])))
    assert why(model.loss_broadcasts(Seen())) == "no loss was computed"


# dead-activations


def dead(fraction: float, n: int = 5, zeros: float = 0.9, **facts: Any) -> Seen:
    where = act("relu", dead_frac=looks(fraction, n), zero_frac=looks(zeros, n), **facts)
    return seen(net=root(layer("fc"), activations=(where,)))


def test_dead_units() -> None:
    found = one(activations.dead_activations(dead(1.0)))
    assert found.severity == "error"
    assert "100 % of 64 units were zero for all 32 values at each of the last 3 looks" in found.evidence
    assert one(activations.dead_activations(dead(0.85))).severity == "warning"
    assert one(activations.dead_activations(dead(0.65))).severity == "hint"


def test_units_that_die_on_the_way_blame_the_rate() -> None:
    died = act("relu", dead_frac=[(0, 0.1), (1, 0.2), *((s, 1.0) for s in range(2, 8))])
    found = one(activations.dead_activations(seen(net=root(layer("fc"), activations=(died,)))))
    assert "since step 2" in found.evidence
    assert found.step == 2
    assert found.cure == {"kind": "lr", "factor": 0.1}


@pytest.mark.parametrize(
    "healthy",
    [
        dead(0.0, zeros=0.9),  # sparse, all alive
        dead(0.5),
        dead(1.0, n=2),
        dead(0.9, shape=(4, 64)),  # four rows
        dead(0.9, shape=(1, 64, 3, 3)),
        dead(1.0, shape=(32, 1)),  # one output: five looks are few
        dead(1.0, shape=(32,)),  # a hinge
    ],
)
def test_sparse_is_not_dead(healthy: Seen) -> None:
    assert silent(activations.dead_activations(healthy))


def test_units_that_take_turns_and_frozen_layers_are_silent() -> None:
    where = act("relu", "body.relu", dead_frac=looks(0.85))
    turns = root(layer("body.fc", always_dead_frac=0.05), layer("head"), activations=(where,))
    assert silent(activations.dead_activations(seen(net=turns)))
    frozen = root(layer("body.fc", requires_grad=False), layer("head"), activations=(where,))
    assert silent(activations.dead_activations(seen(net=frozen)))
    assert "no ReLU" in why(activations.dead_activations(Seen()))


def test_units_off_for_rows_that_are_all_the_same_say_nothing() -> None:
    net = root(layer("fc"), activations=(act("relu", dead_frac=looks(0.9)),))
    assert one(activations.dead_activations(seen(batches(), net=net)))
    assert silent(activations.dead_activations(seen(batches(n_constant=20), net=net)))


def test_a_recurrent_cell_is_told_once() -> None:
    cells = tuple(act("relu", f"fc → ({i})" if i > 1 else "fc →", dead_frac=looks(1.0)) for i in range(1, 5))
    assert one(activations.dead_activations(seen(net=root(layer("fc"), activations=cells)))).module == "fc"


# saturated-activations


def tanh(fraction: float, **facts: Any) -> ActivationSeen:
    return act("tanh", "tanh", saturated_frac=looks(fraction), **facts)


def test_saturated_hidden_units() -> None:
    before = layer("fc1", order=1, grad_norm=[(4, 1.5e-9)])
    net = root(before, layer("fc2", order=3), activations=(tanh(0.97),))
    found = one(activations.saturated_activations(seen(net=net)))
    assert found.severity == "warning"
    assert "97 % of its outputs" in found.evidence
    assert "'fc1' before it: 1.5e-09" in found.evidence
    assert "xavier" in found.remedy
    net = root(before, layer("fc2", order=3), activations=(tanh(0.75),))
    assert one(activations.saturated_activations(seen(net=net))).severity == "warning"  # it even started there
    learnt = act("tanh", "tanh", saturated_frac=[(0, 0.1), *looks(0.75)])
    net = root(before, layer("fc2", order=3), activations=(learnt,))
    assert one(activations.saturated_activations(seen(net=net))).severity == "hint"


@pytest.mark.parametrize("healthy", [tanh(0.5), tanh(1.0, is_last=True), tanh(1.0, order=9), tanh(1.0, order=0)])
def test_outputs_and_moderate_ones_are_silent(healthy: ActivationSeen) -> None:
    net = root(layer("fc1", order=1), layer("fc2", order=3), activations=(healthy,))
    assert silent(activations.saturated_activations(seen(net=net)))


def test_open_gates_are_silent() -> None:
    gate = act("sigmoid", "cell →", saturated_frac=looks(0.95))
    state = act("tanh", "cell → (2)", saturated_frac=looks(0.1))
    net = root(layer("cell", order=1), layer("head", order=3), activations=(gate, state))
    assert silent(activations.saturated_activations(seen(net=net)))
    assert "no sigmoid" in why(activations.saturated_activations(Seen()))


# bad-initialisation


def init(**facts: Any) -> dict[str, Any]:
    return {"mean": 0.0, "std": 0.07, "constant": False, "zero": False, "fan_in": 64, **facts}


SAME = init(mean=0.5, std=0.0, constant=True)
ZERO = init(std=0.0, constant=True, zero=True)


def test_equal_weights() -> None:
    found = one(layers.bad_initialisation(seen(net=root(layer("fc1", init=SAME), layer("fc2", order=2)))))
    assert found.severity == "error"
    assert "fc1.weight (64, 64) were 0.5" in found.evidence


def test_zero_weights() -> None:
    both = root(layer("fc1", init=ZERO), layer("fc2", order=2, init=ZERO))
    assert "2 of 2 weight matrices" in one(layers.bad_initialisation(seen(net=both))).evidence
    stuck = root(layer("fc1", init=ZERO, n_grad=9, n_grad_zero=9), layer("fc2", order=2), layer("fc3", order=3))
    assert "zero at all 9 watched passes" in one(layers.bad_initialisation(seen(net=stuck))).evidence


def test_large_weights_need_the_loss_as_a_witness() -> None:
    net = root(layer("fc1", init=init(std=1.0, fan_in=784)), layer("fc2", order=2))
    found = one(layers.bad_initialisation(seen(net=net, losses=(loss(first_value=46.0),))))
    assert found.severity == "warning"
    assert "standard deviation 1 with 784 inputs" in found.evidence
    assert "0.0505" in found.evidence
    assert "20.0 times" in found.evidence
    assert one(layers.bad_initialisation(seen(net=net))).severity == "hint"
    assert silent(layers.bad_initialisation(seen(net=net, losses=(loss(first_value=0.4),))))  # pretrained


def test_large_weights_of_a_regression_need_the_outputs_as_a_witness() -> None:
    for size, severity in ((2e5, "warning"), (20.0, "hint")):
        net = root(layer("fc1", init=init(std=1.0, fan_in=784)), layer("fc2", order=2), first_output_size=size)
        found = one(layers.bad_initialisation(seen(batches(), net=net, losses=(loss("mse_loss", chance=None),))))
        assert found.severity == severity
        assert ("200000 times as large as the inputs" in found.evidence) == (severity == "warning")


@pytest.mark.parametrize(
    "healthy",
    [
        root(layer("fc1"), layer("head", order=2, init=ZERO)),
        root(layer("fc1"), layer("head", order=2, init=SAME)),
        root(layer("a"), layer("lora_B", order=2, init=ZERO, n_grad_zero=0), layer("head", order=3)),
        root(layer("blur", init=SAME, requires_grad=False), layer("head", order=2)),
        root(layer("fc"), layer("depthwise", "Conv2d", 2, shape=(64, 1, 3, 3), init=SAME), layer("head", order=3)),
        root(layer("bn", "BatchNorm1d", shape=(64,), init=init(mean=1.0, constant=True)), layer("head", order=2)),
        root(layer("position", "Embedding", init=ZERO), layer("fc", order=2), layer("head", order=3)),
        root(layer("fc", init=init(std=1.0, fan_in=2)), layer("head", order=2)),
        root(layer("fc", init=init(std=1.0)), layer("n", "LayerNorm", 2, shape=(64,)), layer("head", order=3)),
    ],
)
def test_healthy_starts(healthy: Any) -> None:
    assert silent(layers.bad_initialisation(seen(net=healthy)))


def test_starts_not_checked() -> None:
    assert "no layer" in why(layers.bad_initialisation(Seen()))


# dropout-in-eval


def test_dropout_in_eval() -> None:
    net = root(n_eval_forwards=5, functional_dropout_in_eval=10, dropout_place=AT)
    found = one(layers.dropout_in_eval(seen(net=net)))
    assert "10 calls of F.dropout(training=True) in 5 evaluation passes" in found.evidence
    assert "training=self.training" in found.remedy
    loose = root(n_eval_forwards=5, unregistered_dropout_in_eval=5, dropout_place=AT)
    assert "ModuleList" in one(layers.dropout_in_eval(seen(net=loose))).remedy
    own = root(n_eval_forwards=5, own_noise_in_eval=5, dropout_place=AT)
    assert "if not self.training" in one(layers.dropout_in_eval(seen(net=own))).remedy


def test_dropout_that_goes_off_is_silent() -> None:
    assert silent(layers.dropout_in_eval(seen(net=root(n_eval_forwards=5))))
    assert silent(layers.dropout_in_eval(seen(net=root(n_grad_eval_forwards=5, n_mode_modules=2))))
    assert "no network was evaluated" in why(layers.dropout_in_eval(seen()))


# batchnorm-tiny-batch


def norm(rows: list[int], values: list[int] | None = None, kind: str = "BatchNorm1d") -> Seen:
    return seen(net=root(layer("bn", kind, shape=(64,), batch_n=rows, batch_rows=values or rows)))


def test_tiny_batches() -> None:
    found = one(layers.batchnorm_tiny_batch(norm([2] * 9, [2048] * 9, "BatchNorm2d")))
    assert "typically 2 rows, 2048 values a channel, in 9 watched calls" in found.evidence
    assert found.cure == {"kind": "batch_size", "size": 32}
    assert findings(layers.batchnorm_tiny_batch(norm([4] * 9)))


def test_a_single_row_is_refused() -> None:
    error = {"type": "ValueError", "message": "Expected more than 1 value per channel when training, got [1, 64]"}
    found = one(layers.batchnorm_tiny_batch(seen(error=error)))
    assert "drop_last=True" in found.remedy
    assert "[1, 64]" in found.evidence


@pytest.mark.parametrize(
    "healthy",
    [
        norm([32] * 9),
        norm([32, 32, 3] * 5),
        norm([64, 2] * 9),
        norm([16] * 9),
        norm([2] * 4),
        norm([4] * 9, [400] * 9, "BatchNorm2d"),
    ],
)
def test_enough_rows(healthy: Seen) -> None:
    assert silent(layers.batchnorm_tiny_batch(healthy))


def test_norms_not_checked() -> None:
    assert "no batch norm" in why(layers.batchnorm_tiny_batch(norm([2] * 9, kind="SyncBatchNorm")))
    assert "no batch norm" in why(layers.batchnorm_tiny_batch(seen(net=root(layer("bn", "BatchNorm2d")))))


# nan-origin


def nan(what: str, last: float = math.nan, **facts: Any) -> Seen:
    told = {"step": 7, "module": "block.log", "kind": "Log", "what": what}
    return seen(net=root(nan=told), loss_history=[(6, 1.25, 0), (7, last, 0)], **facts)


@pytest.mark.parametrize("what", ["output", "weights", "loss", "gradient"])
def test_where_a_nan_comes_from(what: str) -> None:
    found = one(layers.nan_origin(nan(what)))
    assert found.severity == "error"
    assert f"step 7: {what} of 'block.log' (Log)" in found.evidence
    assert "1.25" in found.evidence
    assert (found.module, found.step) == ("block.log", 7)


def test_masks_scalers_and_inputs_are_silent() -> None:
    assert silent(layers.nan_origin(nan("output", last=1.2)))
    scaler = OptimizerSeen(0, "SGD", roots=(0,), fused_or_scaled=True)
    assert silent(layers.nan_origin(nan("gradient", last=1.2, optimizers={0: scaler})))
    assert silent(layers.nan_origin(nan("input")))
    assert silent(layers.nan_origin(Seen()))


# unused-modules, bias-before-norm


def test_unused_modules() -> None:
    found = one(layers.unused_modules(seen(net=root(layer("aux"), unused=["aux", "old.fc"]))))
    assert found.severity == "hint"
    assert "2 modules of Net were not called in 20 training passes: aux, old.fc" in found.evidence
    teacher = root(layer("teacher.fc", requires_grad=False), unused=["teacher"])
    assert silent(layers.unused_modules(seen(net=teacher)))
    assert silent(layers.unused_modules(seen()))
    assert "fewer than 10" in why(layers.unused_modules(seen(net=root(n_train_forwards=9, unused=["aux"]))))


def test_bias_before_norm() -> None:
    def net(kind: str, **facts: Any) -> Seen:
        conv = layer("conv", "Conv2d", bias_feeds=kind, bias_feeds_path="bn", shape=(64, 3, 3, 3))
        return seen(net=root(conv, layer("bn", kind, 2, shape=(64,), **facts)))

    found = one(layers.bias_before_norm(net("BatchNorm2d", batch_n=[32])))
    assert found.severity == "hint"
    assert "conv → bn; 64 parameters" in found.evidence
    assert "bias=False" in found.remedy
    assert silent(layers.bias_before_norm(net("BatchNorm2d")))  # frozen in evaluation mode
    assert silent(layers.bias_before_norm(net("LayerNorm")))
    assert silent(layers.bias_before_norm(net("GroupNorm")))
    assert silent(layers.bias_before_norm(Seen()))
