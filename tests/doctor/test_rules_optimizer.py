"""The rules of the optimizer, its parameters and the size of its steps, on runs written by hand."""

from __future__ import annotations

import math

import pytest

from dimwise.doctor.finding import NotChecked
from dimwise.doctor.rules import RULES, optimizer, rates, ties
from dimwise.doctor.rules.trace import loss_series
from dimwise.doctor.seen import FULL_STEPS, ActivationSeen, LossSeen, RootSeen, SchedulerSeen, Seen

from ._tape import Tape, line, only, silent

FAMILY = [
    *(optimizer.parameters_not_in_optimizer, optimizer.optimizer_holds_stale_parameters),
    *(optimizer.parameters_never_change, optimizer.no_gradient_reaches, optimizer.decay_on_norm_or_bias),
    *(ties.shared_weights_untied, rates.lr_too_high, rates.lr_too_low),
    *(rates.exploding_gradients, rates.vanishing_gradients),
]


def network(n: int = 20, layers: int = 3, **tape) -> Tape:
    made = Tape(**tape).healthy(n)
    for i in range(layers):
        made.layer(f"layers.{i}", i)
    return made


@pytest.mark.parametrize("rule", FAMILY, ids=lambda r: r.__name__)
def test_silent_on_nothing_and_on_a_usual_run(rule):
    assert silent(rule(Seen()))
    assert silent(rule(network().seen))
    assert f"{rule.__module__}:{rule.__name__}" in RULES.values()


# -- parameters-not-in-optimizer


def without(tape: Tape, *paths: str, **facts) -> Tape:
    for path in paths:
        layer = tape.seen.roots[0].layers[path]
        layer.optimizers, layer.changed = (), False
        for name, value in facts.items():
            setattr(layer, name, value)
    return tape


def test_a_last_layer_that_no_optimizer_holds():
    found = only(optimizer.parameters_not_in_optimizer(without(network(), "layers.2").seen))
    assert found.severity == "error"
    assert "layers.2 (Linear 64×64)" in found.evidence
    assert "(train.py:12) stepped 20 times" in found.evidence
    assert found.module == "layers.2"


def test_layers_in_a_plain_list():
    found = only(optimizer.parameters_not_in_optimizer(without(network(), "layers.0", registered=False).seen))
    assert found.severity == "error"
    assert "nn.ModuleList" in found.remedy


def test_a_backbone_left_out_is_a_hint():
    tape = without(network(), "layers.0", "layers.1")
    assert only(optimizer.parameters_not_in_optimizer(tape.seen)).severity == "hint"
    stem = without(network(), "layers.0")
    assert only(optimizer.parameters_not_in_optimizer(stem.seen)).severity == "hint"


@pytest.mark.parametrize("facts", [{"requires_grad": False}, {"n_grad": 0}, {"changed": True}])
def test_layers_left_out_on_purpose(facts):
    tape = without(network(), "layers.2")
    for name, value in facts.items():
        setattr(tape.seen.roots[0].layers["layers.2"], name, value)
    assert optimizer.parameters_not_in_optimizer(tape.seen) is None


def perceptual(*, training: bool) -> Tape:
    tape = network()
    tape.seen.roots[1] = RootSeen(1, "Decoder", n_train_forwards=20, outputs_meet_loss=True)
    tape.layer("fc", 0, root=1, optimizers=(), changed=False)
    tape.forward(1, training=training)
    return tape


def test_a_held_layer_that_is_never_called_does_not_stand_first():
    tape = without(network(), "layers.0")
    tape.layer("attention.out_proj", -1)
    assert only(optimizer.parameters_not_in_optimizer(tape.seen)).severity == "hint"
    cut_off = cut("layers.0")
    cut_off.layer("attention.out_proj", -1)
    assert only(optimizer.no_gradient_reaches(cut_off.seen)).severity == "error"


def test_a_whole_network_left_out():
    assert only(optimizer.parameters_not_in_optimizer(perceptual(training=True).seen)).severity == "error"
    assert optimizer.parameters_not_in_optimizer(perceptual(training=False).seen) is None
    trained = perceptual(training=True)
    trained.seen.roots[1].layers["fc"].init = {"std": 0.3, "absmax": 2.0, "mean": 0.0, "fan_in": 64, "fan_out": 64}
    assert only(optimizer.parameters_not_in_optimizer(trained.seen)).severity == "hint"


@pytest.mark.parametrize(("in_turn", "severity"), [(True, "error"), (False, "hint")])
def test_a_generator_whose_optimizer_was_given_the_discriminator(in_turn, severity):
    tape = perceptual(training=True)
    tape.seen.roots[1].outputs_meet_loss = False
    tape.add_optimizer(1)
    for who in (0, 1) * 4 if in_turn else (0,) * 4 + (1,) * 4:
        tape.event("step", who, None, grads="some")
    found = only(optimizer.parameters_not_in_optimizer(tape.seen))
    assert found.severity == severity


@pytest.mark.parametrize(("readied", "severity"), [(True, "warning"), (False, "hint")])
def test_a_new_network_in_front_that_the_script_readies_for_training(readied, severity):
    tape = perceptual(training=True)
    tape.seen.roots[1].outputs_meet_loss = False
    tape.seen.roots[1].readied = readied
    assert only(optimizer.parameters_not_in_optimizer(tape.seen)).severity == severity
    tape.seen.roots[1].layers["fc"].init |= {"absmax": 2.0}  # trained before: chosen not to train on
    assert only(optimizer.parameters_not_in_optimizer(tape.seen)).severity == "hint"


# -- optimizer-holds-stale-parameters


def replaced() -> Tape:
    tape = without(network(), "layers.2")
    told = tape.seen.optimizers[0]
    told.n_stale_tensors = told.n_without_grad = 2
    return tape


def test_an_optimizer_built_too_early():
    found = only(optimizer.optimizer_holds_stale_parameters(replaced().seen))
    assert "holds 2 of 4 tensors" in found.evidence
    assert "layers.2" in found.evidence
    assert optimizer.parameters_not_in_optimizer(replaced().seen) is None  # told once


def test_a_network_made_anew_for_the_next_fold():
    fold = replaced()
    told = fold.seen.optimizers[0]
    told.n_without_grad, told.n_homeless, told.roots = 0, 2, ()
    assert "were trained before" in only(optimizer.optimizer_holds_stale_parameters(fold.seen)).evidence
    later = replaced()  # another network is only differentiated, after the optimizer's last step
    told = later.seen.optimizers[0]
    told.n_without_grad, told.n_homeless, told.roots = 0, 2, ()
    for event in later.seen.of("step"):
        event.step = -1
    assert optimizer.optimizer_holds_stale_parameters(later.seen) is None


def test_free_parameters_and_other_heads_are_well():
    free = replaced()
    free.seen.optimizers[0].n_without_grad = 0
    assert optimizer.optimizer_holds_stale_parameters(free.seen) is None
    heads = network()
    heads.seen.optimizers[0].n_stale_tensors = heads.seen.optimizers[0].n_without_grad = 2
    assert optimizer.optimizer_holds_stale_parameters(heads.seen) is None


# -- parameters-never-change


def still(n: int = 20, lr: float = 0.1) -> Tape:
    tape = network(n, lr=lr)
    tape.seen.optimizers[0].n_unchanged = 4
    for layer in tape.seen.roots[0].layers.values():
        layer.changed = False
    return tape


def test_nothing_changes():
    zero = only(optimizer.parameters_never_change(still(lr=0.0).seen))
    assert "the rate was 0 at all 20 steps" in zero.evidence
    rounded = only(optimizer.parameters_never_change(still(lr=1e-9).seen))
    assert "smaller than the number format resolves" in rounded.evidence
    frozen = still()
    frozen.seen.optimizers[0].n_frozen, frozen.seen.optimizers[0].n_unchanged = 4, 0
    assert "4 of 4" in only(optimizer.parameters_never_change(frozen.seen)).evidence


def test_stillness_that_is_meant():
    assert optimizer.parameters_never_change(still(4).seen) is None
    warm = still(12, lr=0.0)
    warm.seen.schedulers[0] = SchedulerSeen(0, "LambdaLR", 0, n_steps=1)
    assert optimizer.parameters_never_change(warm.seen) is None
    toggled = still()
    toggled.seen.roots[0].layers["layers.0"].changed = True
    assert optimizer.parameters_never_change(toggled.seen) is None


def in_vain(n: int = 40, **facts) -> Tape:
    tape = Tape()
    tape.seen.optimizers.clear()
    for _ in range(n):
        tape.forward(trained=True, training=facts.get("training", True))
        tape.backward((), beyond=facts.get("beyond", 0))
    tape.batches(0, purpose="train", n_batches=n, n_rows=32 * n, n_hashed=facts.get("n_hashed", 320))
    for i in range(3):
        tape.layer(f"layers.{i}", i, optimizers=(), changed=False)
    return tape


def test_an_update_by_hand_that_changes_nothing():
    found = only(optimizer.parameters_never_change(in_vain().seen))
    assert "train.py:48 loss.backward() ran 40 times" in found.evidence
    assert "p -= lr * p.grad" in found.remedy
    for meant in ({"n": 19}, {"training": False}, {"beyond": 1}, {"n_hashed": 1280}):
        assert optimizer.parameters_never_change(in_vain(**meant).seen) is None
    moved = in_vain()
    moved.event("manual_step", 0, None, stale=False, grad_norm=1.0)
    assert optimizer.parameters_never_change(moved.seen) is None
    trained = in_vain()
    for layer in trained.seen.roots[0].layers.values():
        layer.init |= {"absmax": 0.9}
    assert optimizer.parameters_never_change(trained.seen) is None  # the Fisher information of a trained network


# -- no-gradient-reaches


def cut(*paths: str) -> Tape:
    tape = network()
    for path in paths:
        layer = tape.seen.roots[0].layers[path]
        layer.n_grad, layer.n_grad_missing, layer.changed = 0, 20, False
    return tape


def test_a_cut_graph():
    found = only(optimizer.no_gradient_reaches(cut("layers.0", "layers.1").seen))
    assert found.severity == "error"
    assert "no gradient at 20 steps" in found.evidence
    assert "between layers.1 and layers.2" in found.remedy
    assert only(optimizer.no_gradient_reaches(cut("layers.1").seen)).severity == "hint"


def test_a_loss_made_anew():
    tape = Tape()
    for _ in range(20):
        tape.zero()
        tape.forward()
        tape.loss()
        tape.seen.n_backward += 1
        tape.step(grads="none", n_backward=0)
    assert "20 backward passes" in only(optimizer.no_gradient_reaches(tape.seen)).evidence
    assert silent(optimizer.parameters_never_change(tape.seen))


def test_graphs_that_end_on_purpose():
    assert optimizer.no_gradient_reaches(cut("layers.2").seen) is None  # a pooler nobody uses
    head_only = without(cut("layers.0"), "layers.0")
    assert optimizer.no_gradient_reaches(head_only.seen) is None
    other_task = cut("layers.0")
    other_task.seen.roots[0].layers["layers.0"].calls_train = 0
    assert optimizer.no_gradient_reaches(other_task.seen) is None


# -- decay-on-norm-or-bias, shared-weights-untied


def test_decay_on_norm_or_bias():
    tape = network(kind="AdamW")
    tape.seen.optimizers[0].groups[0]["weight_decay"] = 0.01
    found = only(optimizer.decay_on_norm_or_bias(tape.seen))
    assert found.severity == "hint"
    assert "decays by 0.01 also 2" in found.evidence
    tape.seen.optimizers[0].groups[0]["weight_decay"] = 1e-4
    assert optimizer.decay_on_norm_or_bias(tape.seen) is None
    tape.seen.optimizers[0].groups[0] |= {"weight_decay": 0.01, "n_small": 0}
    assert optimizer.decay_on_norm_or_bias(tape.seen) is None


def test_shared_weights_untied():
    tape = network()
    tape.seen.roots[0].untied = [("layers.0.weight", "layers.2.weight")]
    tape.seen.roots[0].layers["layers.0"].weight_norm = [(0, 3.0)]
    tape.seen.roots[0].layers["layers.2"].weight_norm = [(0, 4.0)]
    found = only(ties.shared_weights_untied(tape.seen))
    assert "norms now 3 and 4" in found.evidence
    assert "model.layers.2.weight = model.layers.0.weight" in found.remedy
    tape.seen.roots[0].n_train_forwards = 0
    assert ties.shared_weights_untied(tape.seen) is None


def test_a_tie_by_copying_is_a_warning():
    tape = network()
    tape.seen.roots[0].copied = [("embed.weight", "layers.2.weight")]
    found = only(ties.shared_weights_untied(tape.seen))
    assert (found.severity, found.module) == ("warning", "layers.2")
    assert "model.layers.2.weight = model.embed.weight" in found.remedy


# -- rates


def run(losses: list[float], moves: list[float], *, norm: float = 1.0, **facts) -> Tape:
    tape = Tape(kind="Adam", lr=1.0)
    for value in losses:
        tape.zero()
        tape.forward()
        tape.backward(value=value, **facts)
        tape.step()
    root = tape.seen.roots[0]
    root.update_ratio = list(enumerate(moves))
    root.grad_norm = [(i, norm) for i in range(len(moves))]
    for i in range(3):
        tape.layer(f"layers.{i}", i)
    return tape


THROWN = [50.0, 0.7, 0.5, *[0.2] * 17]


def test_lr_too_high():
    found = only(rates.lr_too_high(run([2.3, 400.0, 90.0, 50.0, *[3.0] * 16], THROWN).seen))
    assert "at step 0 the median layer of Net moved by 50× its own size" in found.evidence
    assert "rose to 400 and is 3 after 20 passes" in found.evidence
    assert "lr=0.001" in found.remedy
    assert found.cure == {"kind": "lr", "factor": 0.001}
    assert rates.lr_too_high(run([2.3, 400.0, math.nan, *[math.nan] * 17], THROWN).seen)
    assert rates.lr_too_high(run([2.3] * 20, [0.4] * 20).seen)  # stuck, and thrown about at each step
    ruins = only(rates.lr_too_high(run([2.3, 5.0, 4.9, *[1.0] * 17], THROWN).seen))
    assert ruins.severity == "warning"  # it learns all the same


@pytest.mark.parametrize(
    ("losses", "moves", "facts"),
    [
        ([2.3, 3.0, 2.9, *[1.0] * 17], THROWN, {}),  # survived
        ([2.3, 5.0, 4.9, *[1.0] * 17], [0.5] * 20, {}),  # survived, and so did some of the initial weights
        ([2.3, 8.0, 8.0, *[8.0] * 17], [0.01] * 20, {}),  # an adversary: small steps
        ([2.3, 8.0, 8.0, *[8.0] * 17], THROWN, {"loss": None}),  # a policy's loss
        ([2.3, 400.0, 400.0], THROWN[:3], {}),  # too few
        ([2.3] * 20, [0.5, *[0.05] * 19], {}),  # a large first step, labels without signal
        ([2.3, 2.2, *[math.nan] * 18], [0.01, 0.01, *[math.nan] * 18], {}),  # a gradient that was NaN
    ],
)
def test_steps_that_are_not_too_high(losses, moves, facts):
    assert rates.lr_too_high(run(losses, moves, **facts).seen) is None


def test_a_rate_is_not_judged_while_gradients_add_up():
    tape = run([2.3, 400.0, 90.0, 50.0, *[3.0] * 16], THROWN)
    for event in tape.seen.of("step")[1:]:
        event.facts["stale"] = True
    assert rates.lr_too_high(tape.seen) is None


@pytest.mark.parametrize(("rows", "n"), [(1, 0), (32, 20)])
def test_sums_of_losses_are_compared_on_batches_only(rows, n):
    tape = Tape()
    for _ in range(20):
        tape.loss(input_shape=(rows, 10))
        tape.backward(loss=None)
        tape.step()
    assert len(loss_series(tape.seen, 0)) == n


def test_lr_too_low():
    found = only(rates.lr_too_low(run([2.3] * 60, [1e-7] * 60).seen))
    assert "in 60 steps" in found.evidence
    assert "at most by 1e-07" in found.evidence
    assert found.cure is not None
    assert found.cure["factor"] > 1
    said = rates.lr_too_low(run([2.3] * 20, [1e-7] * 20).seen)
    assert said == [NotChecked("lr-too-low", "needs 50 watched steps, saw 20")]


def test_a_loss_that_only_comes_down_to_chance_stands_still():
    falls = [2.5 - 0.1 * i / 60 for i in range(60)]
    assert silent(rates.lr_too_low(run(falls, [1e-7] * 60).seen))
    tape = run(falls, [1e-7] * 60)
    tape.seen.losses.append(LossSeen("cross_entropy", root=0, chance=math.log(10)))
    assert "loss 2.49 to 2.41" in only(rates.lr_too_low(tape.seen)).evidence


def test_small_steps_that_are_meant():
    assert silent(rates.lr_too_low(run([2.3] * 60, [5e-5] * 60).seen))  # fine-tuning
    assert silent(rates.lr_too_low(run([2.3] * 60, [1e-2, *[1e-8] * 59]).seen))  # end of a schedule
    assert silent(rates.lr_too_low(run([2.3 - i / 60 for i in range(60)], [1e-7] * 60).seen))  # it learns
    late = [2.3] * FULL_STEPS
    assert silent(rates.lr_too_low(run([*late, 2.1, 2.1, 2.1], [3e-5] * len(late)).seen))  # slow, and it learns
    assert not silent(rates.lr_too_low(run([*late, 2.3, 2.3, 2.3], [3e-5] * len(late)).seen))
    assert silent(rates.lr_too_low(run([*[2.3] * 60, *[2.27] * 60], [3e-5] * 120).seen))
    warm = run([2.3] * 60, [1e-7] * 60)
    warm.seen.optimizers[0].lr_history = [(i, (i * 1e-9,)) for i in range(60)]
    assert rates.lr_too_low(warm.seen) == [NotChecked("lr-too-low", "the rate is still rising")]
    trained = run([2.3] * 60, [1e-7] * 60)
    for layer in trained.seen.roots[0].layers.values():
        layer.init |= {"absmax": 0.9}
    assert silent(rates.lr_too_low(trained.seen))


def test_weights_of_one_deviation_are_new():
    tape = run([2.3] * 60, [1e-7] * 60)
    tape.seen.roots[0].layers = fading(1.0, layers=6).seen.roots[0].layers
    for i, layer in enumerate(tape.seen.roots[0].layers.values()):
        layer.init |= {"std": 0.02 * (1 + 0.005 * (-1) ** i), "absmax": 0.09}
    assert only(rates.lr_too_low(tape.seen)).rule == "lr-too-low"
    for i, layer in enumerate(tape.seen.roots[0].layers.values()):
        layer.init |= {"std": 0.02 * 1.2**i}  # trained: each its own
    assert silent(rates.lr_too_low(tape.seen))


# -- gradients


def test_exploding_gradients():
    found = only(rates.exploding_gradients(run([2.3] * 20, [0.01] * 20, norm=5e4).seen))
    assert "1000 times that of cross_entropy itself or more at 20 of the first 20 steps: 50000 at" in found.evidence
    assert "train.py:48" in found.remedy
    assert found.cure == {"kind": "clip", "max_norm": 1.0}
    broken = run([2.3] * 20, [0.01] * 20)
    broken.seen.roots[0].layers["layers.1"].n_grad_nonfinite = 3
    broken.seen.roots[0].layers["layers.1"].first_nonfinite_step = 4
    assert "first at step 4" in only(rates.exploding_gradients(broken.seen)).evidence
    spiky = run([2.3] * 40, [0.01] * 40)
    spiky.seen.roots[0].grad_norm = [(i, 200.0 if i in (20, 25, 30) else 1.0) for i in range(40)]
    assert "shot up 3 times" in only(rates.exploding_gradients(spiky.seen)).evidence


def test_gradients_that_explode_before_five_steps_are_over():
    lost = run([286.0, 9e7, *[math.nan] * 18], [0.9, math.nan, *[math.nan] * 18])
    lost.seen.roots[0].grad_norm = [(0, 5e4), (1, 9e9), *[(i, math.nan) for i in range(2, 20)]]
    assert "at 2 of the first 20 steps" in only(rates.exploding_gradients(lost.seen)).evidence
    assert rates.lr_too_high(lost.seen) is None  # no rate helps a network that multiplies by thousands when built
    lost.seen.roots[0].grad_norm[0] = (0, 3.0)  # the network is sound; the first step of a high rate ruined it
    assert rates.exploding_gradients(lost.seen) is None
    assert rates.lr_too_high(lost.seen)


def test_gradients_of_squares_are_measured_against_their_own():
    def squares(value: float, **facts) -> Seen:
        return run([value] * 20, [0.01] * 20, norm=5e4, loss="mse_loss", **facts).seen

    assert "own is at most 2" in only(rates.exploding_gradients(squares(1.0))).evidence
    assert rates.exploding_gradients(squares(1e4)) is None  # unscaled targets
    assert rates.exploding_gradients(squares(1.0, reduction="sum")) is None


def test_large_gradients_that_are_meant():
    assert rates.exploding_gradients(run([2.3] * 20, [0.01] * 20, norm=5e4, reduction="sum").seen) is None
    assert rates.exploding_gradients(run([2.3] * 20, [0.01] * 20, norm=5e4, loss="poisson_nll_loss").seen) is None
    clipped = run([2.3] * 20, [0.01] * 20, norm=5e4)
    clipped.clip(fresh=True)
    assert rates.exploding_gradients(clipped.seen) is None
    pixels = run([2.3] * 20, [0.01] * 20, norm=5e4)
    pixels.batches(0, purpose="train", std=77.0)
    assert rates.exploding_gradients(pixels.seen) is None
    converged = run([2.3] * 40, [0.01] * 40)
    converged.seen.roots[0].grad_norm = [(i, 1.0 if i < 5 or i in (20, 25, 30) else 1e-3) for i in range(40)]
    assert rates.exploding_gradients(converged.seen) is None


def fading(factor: float, layers: int = 8, kind: str = "Linear") -> Tape:
    tape = run([2.3] * 20, [0.01] * 20)
    tape.seen.roots[0].layers.clear()
    for i in range(layers):
        made = tape.layer(f"layers.{i}", i, kind=kind)
        made.grad_norm = [(s, 0.1 * factor ** (layers - 1 - i)) for s in range(20)]
    return tape


def test_vanishing_gradients():
    tape = fading(0.1)
    tape.seen.roots[0].activations = [ActivationSeen("act", "sigmoid", place=line(30))]
    found = only(rates.vanishing_gradients(tape.seen))
    assert "after 8 layers" in found.evidence
    assert "1.82e-06 of it" in found.evidence
    assert "instead of sigmoid at train.py:30" in found.remedy


def test_vanishing_gradients_are_not_blamed_on_the_rate():
    tape = fading(0.1)
    for _ in range(40):
        tape.backward(value=2.3)
    tape.seen.roots[0].update_ratio = [(i, 1e-7) for i in range(60)]
    tape.seen.roots[0].grad_norm = [(i, 1.0) for i in range(60)]
    assert rates.lr_too_low(tape.seen) is None
    for layer in tape.seen.roots[0].layers.values():
        layer.grad_norm = [(s, 0.1) for s in range(20)]
    assert rates.lr_too_low(tape.seen)


def test_gradients_that_do_not_vanish():
    assert rates.vanishing_gradients(fading(0.4).seen) is None
    assert rates.vanishing_gradients(fading(1e-3, layers=3).seen) is None
    assert rates.vanishing_gradients(fading(0.1, kind="Embedding").seen) is None
    attention = fading(0.1)  # a query alone gets little; the value beside it, or a norm before it, gets enough
    attention.seen.roots[0].layers["layers.1"].grad_norm = [(s, 0.01) for s in range(20)]
    assert rates.vanishing_gradients(attention.seen) is None
    normed = fading(0.1)
    normed.layer("embedding.norm", 0, kind="LayerNorm", shape=(64,)).grad_norm = [(s, 0.01) for s in range(20)]
    assert rates.vanishing_gradients(normed.seen) is None
    small = fading(0.5)
    for layer in small.seen.roots[0].layers.values():
        layer.grad_norm = [(s, 1e-9) for s in range(20)]  # converged
    assert rates.vanishing_gradients(small.seen) is None
