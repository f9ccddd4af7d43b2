"""The rules of the loop, its modes and its schedule, on loops written by hand."""

from __future__ import annotations

import math

import pytest

from dimwise.doctor.finding import NotChecked
from dimwise.doctor.rules import RULES, loop, modes, schedule
from dimwise.doctor.rules import losses as losses_
from dimwise.doctor.seen import LoaderSeen, RootSeen, SchedulerSeen, Seen

from ._tape import TEST, Tape, line, only, silent

FAMILY = [
    *(loop.missing_zero_grad, loop.zero_grad_before_step, loop.optimizer_never_steps, loop.backward_never_called),
    *(
        loop.accumulation_not_scaled,
        loop.clip_without_effect,
        losses_.loss_not_finite,
        losses_.graph_retained,
        losses_.unseeded,
    ),
    *(modes.train_in_eval_mode, modes.validate_in_train_mode, modes.grad_in_validation, schedule.scheduler_misused),
]


@pytest.mark.parametrize("rule", FAMILY, ids=lambda r: r.__name__)
def test_nothing_seen_nothing_said(rule):
    assert silent(rule(Seen()))
    assert f"{rule.__module__}:{rule.__name__}" in RULES.values()


@pytest.mark.parametrize("rule", [r for r in FAMILY if r is not losses_.unseeded], ids=lambda r: r.__name__)
def test_a_usual_loop_is_well(rule):
    assert silent(rule(Tape().healthy(30).seen))


# -- missing-zero-grad


def never_cleared(n: int) -> Tape:
    tape = Tape()
    for i in range(n):
        tape.forward()
        tape.backward()
        tape.step(stale=i > 0, grad_norm=1.0 + i)
    return tape


def test_missing_zero_grad_counts_and_names_the_line():
    found = only(loop.missing_zero_grad(never_cleared(20).seen))
    assert "train.py:48 loss.backward() was called 20 times with no zero_grad between" in found.evidence
    assert "gradient norm grew 20×" in found.evidence
    assert "train.py:50" in found.remedy
    assert found.cure == {"kind": "zero_grad"}


def test_missing_zero_grad_when_cleared_only_every_other_time():
    tape = Tape()
    for i in range(20):
        if i % 2 == 0:
            tape.zero()
        tape.backward()
        tape.step(stale=i % 2 == 1)
    assert "10 of 20 steps" in only(loop.missing_zero_grad(tape.seen)).evidence


def test_missing_zero_grad_needs_three_in_a_row():
    assert loop.missing_zero_grad(never_cleared(3).seen) is None
    assert loop.missing_zero_grad(never_cleared(4).seen)


def gan(n: int) -> Tape:
    tape = Tape()
    tape.seen.roots[1] = RootSeen(1, "Generator")
    tape.add_optimizer(1, "Adam", roots=(1,))
    for _ in range(n):
        tape.zero(0)
        tape.backward((0,), at=30)
        tape.backward((0,), at=31)
        tape.step(0, n_backward=2)
        tape.zero(1)
        tape.backward((0, 1), at=40)
        tape.step(1)
    return tape


def lbfgs(n: int, *, clears: bool = True) -> Tape:
    tape = Tape(kind="LBFGS")
    for _ in range(n):
        tape.step(closure=True, n_backward=0, grads="some", stale=True)
        for _ in range(5):
            if clears:
                tape.zero()
            tape.forward()
            tape.backward()
    return tape


def test_adversaries_and_closures_are_well():
    for tape in (gan(20), lbfgs(10)):
        for rule in (loop.missing_zero_grad, loop.zero_grad_before_step, loop.optimizer_never_steps):
            assert silent(rule(tape.seen))
        assert silent(loop.accumulation_not_scaled(tape.seen))


def test_a_closure_that_never_clears_is_named():
    assert "5" in only(loop.missing_zero_grad(lbfgs(8, clears=False).seen)).evidence


def test_updates_by_hand_that_never_clear():
    tape = Tape()
    tape.seen.optimizers.clear()
    for i in range(6):
        tape.backward(())
        tape.event("manual_step", 0, None, stale=i > 0, grad_norm=1.0 + i)
    assert "update by hand" in only(loop.missing_zero_grad(tape.seen)).evidence
    for e in tape.seen.of("manual_step"):
        e.facts["stale"] = False
    assert loop.missing_zero_grad(tape.seen) is None


# -- zero-grad-before-step


def test_zero_grad_before_step_names_all_three_lines():
    tape = Tape()
    for _ in range(20):
        tape.backward()
        tape.zero(at=49)
        tape.step(grads="none")
    found = only(loop.zero_grad_before_step(tape.seen))
    for part in ("train.py:49", "train.py:48", "train.py:50", "20 of 20 steps"):
        assert part in found.evidence
    assert "to before loss.backward() at train.py:48" in found.remedy


def test_zero_grad_before_step_keeps_quiet_without_a_backward_pass():
    tape = Tape()
    for _ in range(20):
        tape.zero()
        tape.step(grads="none", n_backward=0)
    assert loop.zero_grad_before_step(tape.seen) is None


def test_a_second_network_cleared_before_the_step_is_well():
    tape = Tape()
    for _ in range(20):
        tape.backward()
        tape.zero(None, at=49)  # a module's: another network, or a part
        tape.step(grads="some")
    assert loop.zero_grad_before_step(tape.seen) is None


# -- optimizer-never-steps, backward-never-called


def passes_only(n: int) -> Tape:
    tape = Tape()
    for _ in range(n):
        tape.zero()
        tape.forward()
        tape.backward()
    return tape


def test_optimizer_never_steps():
    found = only(loop.optimizer_never_steps(passes_only(20).seen))
    assert "20 times; its step() was called 0 times" in found.evidence
    assert found.severity == "error"
    assert loop.optimizer_never_steps(passes_only(9).seen) is None


def test_an_adversary_that_never_steps_is_a_warning():
    tape = gan(20)
    tape.seen.events = [e for e in tape.seen.events if not (e.kind == "step" and e.who == 1)]
    tape.seen.optimizers[1].n_steps = 0
    assert only(loop.optimizer_never_steps(tape.seen)).severity == "warning"


def test_an_optimizer_of_a_later_phase_is_well():
    tape = Tape()
    tape.add_optimizer(1)
    tape.healthy(20, reached=(0, 1))
    tape.layer("fc", 0, optimizers=(0, 1))
    assert loop.optimizer_never_steps(tape.seen) is None


def test_attribution_is_not_checked():
    tape = passes_only(20)
    tape.seen.optimizers.clear()
    said = loop.optimizer_never_steps(tape.seen)
    assert isinstance(said, NotChecked)
    assert "20 backward passes" in said.why


def test_backward_never_called():
    tape = Tape()
    for _ in range(20):
        tape.zero(had_grads=False)
        tape.forward()
        tape.loss()
        tape.step(grads="none", n_backward=0)
    found = only(loop.backward_never_called(tape.seen))
    assert "called 20 times, backward() 0 times" in found.evidence
    for e in tape.seen.of("step"):
        e.facts["grads"] = "some"  # torch.autograd.grad, or forward differentiation
    assert loop.backward_never_called(tape.seen) is None


def test_backward_and_step_both_forgotten():
    tape = Tape()
    for _ in range(20):
        tape.forward()
        tape.loss()
    assert "20 times in training mode" in only(loop.backward_never_called(tape.seen)).evidence
    for e in tape.seen.of("loss"):
        e.facts["training"] = False
    assert loop.backward_never_called(tape.seen) is None


# -- accumulation-not-scaled


def accumulated(n: int, k: int, kind: str = "SGD", **facts) -> Tape:
    tape = Tape(kind=kind)
    for _ in range(n):
        for _ in range(k):
            tape.forward()
            tape.backward(**facts)
        tape.step(n_backward=k, grad_norm=4.0)
        tape.zero()
    return tape


def test_accumulation_not_scaled():
    found = only(loop.accumulation_not_scaled(accumulated(5, 4).seen))
    assert "ran 4 times for each of 5 steps" in found.evidence
    assert "(loss / 4).backward()" in found.remedy
    assert found.cure == {"kind": "scale_loss", "divisor": 4}
    assert found.severity == "warning"
    assert only(loop.accumulation_not_scaled(accumulated(5, 4, "AdamW").seen)).severity == "hint"
    assert loop.accumulation_not_scaled(accumulated(2, 4).seen) is None


@pytest.mark.parametrize("facts", [{"scaled": True}, {"reduction": "sum"}, {"retain": True}, {"create_graph": True}])
def test_accumulation_that_is_meant(facts):
    assert loop.accumulation_not_scaled(accumulated(5, 4, **facts).seen) is None


# -- clip-without-effect


def clipped(n: int, *, fresh: bool, **facts) -> Tape:
    tape = Tape()
    for _ in range(n):
        tape.zero()
        tape.backward()
        tape.step()
        tape.clip(fresh=fresh, **facts)
    return tape


def test_clip_without_effect():
    found = only(loop.clip_without_effect(clipped(20, fresh=False).seen))
    assert "ran 20 times; 20 of them not between" in found.evidence
    assert "train.py:48" in found.remedy
    empty = only(loop.clip_without_effect(clipped(20, fresh=True, total_norm=0.0).seen))
    assert "norm of 0 all 20 times" in empty.evidence


def test_clipping_that_works_or_only_reads():
    assert loop.clip_without_effect(clipped(20, fresh=True).seen) is None
    assert loop.clip_without_effect(clipped(20, fresh=False, max_norm=math.inf).seen) is None
    assert loop.clip_without_effect(clipped(2, fresh=False).seen) is None


# -- losses


def losses(*values: float) -> Tape:
    tape = Tape()
    for value in values:
        tape.zero()
        tape.backward(value=value)
        tape.step()
    return tape


def test_loss_not_finite():
    found = only(losses_.loss_not_finite(losses(2.0, 40.0, 9e5, math.nan, math.nan).seen))
    assert found.severity == "error"
    assert "nan at step 3" in found.evidence
    assert "40" in found.evidence
    assert "lr=0.01" in found.remedy
    assert only(losses_.loss_not_finite(losses(2.0, math.inf, *[2.0] * 8).seen)).severity == "warning"


def test_losses_that_recover_under_a_scaler_are_well():
    tape = losses(2.0, math.inf, *[2.0] * 8)
    tape.seen.optimizers[0].fused_or_scaled = True
    assert losses_.loss_not_finite(tape.seen) is None


def test_graph_retained():
    tape = Tape()
    for i in range(20):
        tape.zero()
        tape.backward(alive=max(0, i - 5))
        tape.step()
    found = only(losses_.graph_retained(tape.seen))
    assert "graphs of 14 losses" in found.evidence
    assert "loss.item()" in found.remedy
    for e in tape.seen.of("backward"):
        e.facts["retain"] = True
    assert "detach" in only(losses_.graph_retained(tape.seen)).remedy


def test_a_window_of_losses_is_bounded():
    tape = Tape()
    for i in range(60):
        tape.backward(alive=min(10, max(0, i - 5)))
        tape.step()
    assert losses_.graph_retained(tape.seen) is None
    assert losses_.graph_retained(Tape().healthy(30, alive=1).seen) is None


def test_unseeded_is_a_hint():
    tape = Tape().healthy(3)
    assert only(losses_.unseeded(tape.seen)).severity == "hint"
    tape.seen.seeded = True
    assert losses_.unseeded(tape.seen) is None


# -- modes


def trained_in(n: int, *trainings: bool) -> Tape:
    tape = Tape()
    for _ in range(n):
        tape.zero()
        for training in trainings:
            tape.forward(training=training)
        tape.backward()
        tape.step()
    return tape


def test_train_in_eval_mode():
    found = only(modes.train_in_eval_mode(trained_in(20, False).seen))
    assert "at 20 steps in a row" in found.evidence
    assert "all 2 of its Dropout and BatchNorm" in found.evidence
    assert found.cure == {"kind": "train_mode"}


def test_train_in_eval_mode_after_an_evaluation():
    tape = Tape().healthy(10)
    tape.forward(training=False, grad=False, at=TEST)
    for _ in range(5):
        tape.zero()
        tape.forward(training=False)
        tape.backward()
        tape.step()
    found = only(modes.train_in_eval_mode(tape.seen))
    assert "at 5 steps in a row (from step 10)" in found.evidence
    assert "evaluated at train.py:60" in found.evidence


def test_eval_mode_that_is_meant():
    assert modes.train_in_eval_mode(trained_in(20, False, True).seen) is None  # an attack before the training pass
    frozen = trained_in(20, True)
    for e in frozen.seen.of("forward"):
        e.facts["modes"] = (0, 2)  # norms frozen inside a network in training mode
    assert modes.train_in_eval_mode(frozen.seen) is None
    head = trained_in(20, False)
    for e in head.seen.of("forward"):
        e.facts["modes"] = (1, 1)  # everything in evaluation mode, then the head back to training
    assert modes.train_in_eval_mode(head.seen) is None
    plain = trained_in(20, False)
    plain.seen.roots[0].n_mode_modules = 0
    assert modes.train_in_eval_mode(plain.seen) is None
    assert modes.train_in_eval_mode(trained_in(2, False).seen) is None


def validated(*, loss: bool, training: bool = True, **record) -> Tape:
    tape = Tape().healthy(10)
    tape.batches(7, **record)
    for _ in range(4):
        tape.forward(training=training, grad=False, at=TEST, batch=7)
        if loss:
            tape.loss(grad=False, training=training)
    tape.seen.roots[0].outputs_meet_loss = True
    return tape


@pytest.mark.parametrize("loss", [True, False])
def test_validate_in_train_mode(loss):
    found = only(modes.validate_in_train_mode(validated(loss=loss).seen))
    assert "train.py:60" in found.evidence
    assert "ran 4 times" in found.evidence
    assert ("4 times into a loss" in found.evidence) == loss
    assert found.cure == {"kind": "eval_mode"}


def test_training_mode_without_gradients_that_is_meant():
    assert modes.validate_in_train_mode(validated(loss=True, training=False).seen) is None
    assert modes.validate_in_train_mode(validated(loss=True, in_train=128).seen) is None  # hard examples
    assert modes.validate_in_train_mode(validated(loss=False, in_train=128).seen) is None  # update_bn
    assert modes.validate_in_train_mode(validated(loss=False, n_identical=3).seen) is None  # Monte Carlo dropout
    generator = validated(loss=False)
    generator.seen.roots[0].outputs_meet_loss = False
    assert modes.validate_in_train_mode(generator.seen) is None
    target = validated(loss=True)
    target.seen.roots[0].n_train_forwards = 0
    assert modes.validate_in_train_mode(target.seen) is None
    dry = validated(loss=False)
    dry.seen.events = dry.seen.events[:-3]
    assert modes.validate_in_train_mode(dry.seen) is None


def test_grad_in_validation():
    tape = Tape().healthy(10)
    for _ in range(4):
        tape.event("forward", 0, line(TEST, "evaluate"), training=False, grad=True, modes=(0, 2), trained=False)
    tape.seen.roots[0].n_grad_eval_forwards = 4
    found = only(modes.grad_in_validation(tape.seen))
    assert found.severity == "hint"
    assert "ran 4 times" in found.evidence
    assert "evaluate" in found.remedy
    tape.seen.roots[0].n_grad_eval_forwards = 2
    assert modes.grad_in_validation(tape.seen) is None


# -- the schedule


def scheduled(kind: str, n: int, every: int, *, loader_len: int | None = 100, rates=(), **facts) -> Tape:
    tape = Tape().healthy(n)
    told = SchedulerSeen(0, kind, 0, line(20), line(52), n_steps=n // every, optimizer_steps=n, loader_len=loader_len)
    for name, value in facts.items():
        setattr(told, name, value)
    tape.seen.schedulers[0] = told
    if rates:
        tape.seen.optimizers[0].lr_history = [(i * every, (r,)) for i, r in enumerate(rates)]
    return tape


def test_an_epoch_schedule_with_every_batch_is_told_within_twenty_steps():
    tape = scheduled("StepLR", 20, 1, step_size=10, gamma=0.1, rates=[0.1] * 10 + [0.01] * 10)
    found = only(schedule.scheduler_misused(tape.seen))
    assert "ran 20 times in 20 optimizer steps" in found.evidence
    assert "to 1/1000 after 30 of the 100 batches" in found.evidence
    assert "out of the loop over batches" in found.remedy
    cosine = scheduled("CosineAnnealingLR", 20, 1, total_steps=10)
    assert "T_max of 10" in only(schedule.scheduler_misused(cosine.seen)).evidence


def test_schedules_that_are_meant():
    assert schedule.scheduler_misused(scheduled("StepLR", 20, 1, step_size=1000, gamma=0.1).seen) is None
    assert schedule.scheduler_misused(scheduled("ExponentialLR", 20, 1, gamma=0.999).seen) is None
    assert schedule.scheduler_misused(scheduled("CosineAnnealingLR", 20, 1, total_steps=5000).seen) is None
    assert schedule.scheduler_misused(scheduled("StepLR", 300, 100, step_size=1, gamma=0.1).seen) is None
    assert schedule.scheduler_misused(scheduled("ExponentialLR", 100, 1, gamma=0.9, loader_len=1).seen) is None
    assert schedule.scheduler_misused(scheduled("ExponentialLR", 100, 1, gamma=0.9, loader_len=None).seen) is None


def test_a_warm_up_of_batches_that_counts_epochs():
    def run(rates, **facts):
        tape = scheduled("LambdaLR", 100, 25, rates=rates, base_lr=0.1, **facts)
        tape.seen.finished = True
        return schedule.scheduler_misused(tape.seen)

    found = only(run([0.0, 0.005, 0.01, 0.015]))
    assert found.severity == "warning"
    assert "risen to 0.015, 0.15 of the 0.1" in found.evidence
    assert run([0.0, 0.05, 0.1, 0.1]) is None
    assert run([0.02, 0.04, 0.06, 0.08]) is None
    assert run([0.0, 0.02, 0.01, 0.005]) is None


def cosine_rates(n: int, low: float = 0.0) -> list[float]:
    return [low + 0.1 * (1 + math.cos(math.pi * i / n)) / 2 for i in range(n)]


@pytest.mark.parametrize(
    "rates",
    [
        cosine_rates(200),
        cosine_rates(100) * 2,
        [i / 500 for i in range(200)],
        [0.1 * (1 - i / 200) for i in range(200)],
    ],
    ids=["cosine", "restarts", "warm-up", "linear"],
)
def test_rates_of_healthy_schedules(rates):
    tape = scheduled("LambdaLR", 200, 1, rates=rates)
    tape.seen.finished = True
    assert schedule.scheduler_misused(tape.seen) is None


def test_a_rate_that_dies_early_is_told_whatever_the_schedule():
    tape = scheduled("LambdaLR", 200, 1, loader_len=None, rates=[0.1 * 0.8**i for i in range(200)])
    assert schedule.scheduler_misused(tape.seen) is None  # nobody knows how long it goes on
    tape.seen.finished = True
    found = only(schedule.scheduler_misused(tape.seen))
    assert "after 31 steps it was below 1/1000" in found.evidence
    tape.seen.schedulers[0].kind = "ReduceLROnPlateau"
    assert schedule.scheduler_misused(tape.seen) is None


def test_a_batch_schedule_with_every_epoch_needs_the_whole_run():
    tape = scheduled("OneCycleLR", 200, 50, loader_len=50, total_steps=200, rates=[0.004, 0.0041, 0.0042, 0.0043])
    assert schedule.scheduler_misused(tape.seen) is None
    tape.seen.finished = True
    found = only(schedule.scheduler_misused(tape.seen))
    assert "stepped only 4 times" in found.evidence
    assert "into the loop over batches" in found.remedy
    tape.seen.schedulers[0].total_steps = 20  # it counts epochs
    assert schedule.scheduler_misused(tape.seen) is None


def test_a_schedule_that_is_never_stepped():
    tape = scheduled("StepLR", 200, 1, n_steps=0)
    tape.seen.loaders[0] = LoaderSeen(0, n_iterations=4, trains=True)
    tape.seen.finished = True
    assert "stepped 0 times in 200" in only(schedule.scheduler_misused(tape.seen)).evidence
    tape.seen.schedulers[0].written_line = 61  # it waits for a worse epoch
    found = only(schedule.scheduler_misused(tape.seen))
    assert found.severity == "hint"
    assert "line 61 would step it and was not reached" in found.evidence
    tape.seen.loaders[0].n_iterations = 1  # stopped within its first epoch
    assert schedule.scheduler_misused(tape.seen) is None


def test_a_schedule_stepped_before_the_optimizer():
    def made(later_line: int) -> Tape:
        tape = Tape()
        tape.event("scheduler", 0, line(44), lrs=(0.1,), before_first_step=True)
        tape.healthy(5)
        tape.event("scheduler", 0, line(later_line), lrs=(0.1,), before_first_step=False)
        tape.healthy(5)
        tape.seen.schedulers[0] = SchedulerSeen(
            0, "StepLR", 0, line(20), line(44), n_steps=2, n_before_optimizer=1, optimizer_steps=10
        )
        return tape

    assert "train.py:44" in only(schedule.scheduler_misused(made(44).seen)).evidence
    assert schedule.scheduler_misused(made(52).seen) is None  # a resumed run catches up
    scaled = made(44)
    scaled.seen.optimizers[0].fused_or_scaled = True
    assert schedule.scheduler_misused(scaled.seen) is None
