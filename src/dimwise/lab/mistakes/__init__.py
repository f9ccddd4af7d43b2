"""The gallery of mistakes: each rule of the doctor as one script, broken by default and healed by ``--mended``.

``python -m dimwise.lab.mistakes.missing_zero_grad [--mended] [--arch cnn] [--seed 0] [--epochs 5]`` trains a small
network on scikit-learn's digits and ends with a line ``score=0.9731 name=accuracy``. The scripts are written as users
write them, each loop in another way, so that nobody can tune a rule to one of them. They are run, not imported.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["MISTAKES", "archs", "path", "run", "score"]

MISTAKES: dict[str, str] = {
    # the loop
    "missing-zero-grad": "dimwise.lab.mistakes.missing_zero_grad",
    "zero-grad-before-step": "dimwise.lab.mistakes.zero_grad_before_step",
    "optimizer-never-steps": "dimwise.lab.mistakes.optimizer_never_steps",
    "backward-never-called": "dimwise.lab.mistakes.backward_never_called",
    "train-in-eval-mode": "dimwise.lab.mistakes.train_in_eval_mode",
    "validate-in-train-mode": "dimwise.lab.mistakes.validate_in_train_mode",
    "grad-in-validation": "dimwise.lab.mistakes.grad_in_validation",
    "graph-retained": "dimwise.lab.mistakes.graph_retained",
    "accumulation-not-scaled": "dimwise.lab.mistakes.accumulation_not_scaled",
    "clip-without-effect": "dimwise.lab.mistakes.clip_without_effect",
    "scheduler-misused": "dimwise.lab.mistakes.scheduler_misused",
    "loss-not-finite": "dimwise.lab.mistakes.loss_not_finite",
    "unseeded": "dimwise.lab.mistakes.unseeded",
    # the optimizer and its parameters
    "parameters-not-in-optimizer": "dimwise.lab.mistakes.parameters_not_in_optimizer",
    "optimizer-holds-stale-parameters": "dimwise.lab.mistakes.optimizer_holds_stale_parameters",
    "parameters-never-change": "dimwise.lab.mistakes.parameters_never_change",
    "no-gradient-reaches": "dimwise.lab.mistakes.no_gradient_reaches",
    "lr-too-high": "dimwise.lab.mistakes.lr_too_high",
    "lr-too-low": "dimwise.lab.mistakes.lr_too_low",
    "exploding-gradients": "dimwise.lab.mistakes.exploding_gradients",
    "vanishing-gradients": "dimwise.lab.mistakes.vanishing_gradients",
    "decay-on-norm-or-bias": "dimwise.lab.mistakes.decay_on_norm_or_bias",
    "shared-weights-untied": "dimwise.lab.mistakes.shared_weights_untied",
    # the model
    "softmax-before-cross-entropy": "dimwise.lab.mistakes.softmax_before_cross_entropy",
    "sigmoid-before-bce-with-logits": "dimwise.lab.mistakes.sigmoid_before_bce_with_logits",
    "dead-activations": "dimwise.lab.mistakes.dead_activations",
    "saturated-activations": "dimwise.lab.mistakes.saturated_activations",
    "bad-initialisation": "dimwise.lab.mistakes.bad_initialisation",
    "initial-loss-off": "dimwise.lab.mistakes.initial_loss_off",
    "output-labels-mismatch": "dimwise.lab.mistakes.output_labels_mismatch",
    "loss-broadcasts": "dimwise.lab.mistakes.loss_broadcasts",
    "dropout-in-eval": "dimwise.lab.mistakes.dropout_in_eval",
    "batchnorm-tiny-batch": "dimwise.lab.mistakes.batchnorm_tiny_batch",
    "nan-origin": "dimwise.lab.mistakes.nan_origin",
    "unused-modules": "dimwise.lab.mistakes.unused_modules",
    "bias-before-norm": "dimwise.lab.mistakes.bias_before_norm",
    # the data
    "unnormalised-input": "dimwise.lab.mistakes.unnormalised_input",
    "train-valid-preprocessing-differs": "dimwise.lab.mistakes.train_valid_preprocessing_differs",
    "train-valid-leak": "dimwise.lab.mistakes.train_valid_leak",
    "no-shuffle": "dimwise.lab.mistakes.no_shuffle",
    "labels-carry-no-signal": "dimwise.lab.mistakes.labels_carry_no_signal",
    "class-imbalance": "dimwise.lab.mistakes.class_imbalance",
    "nan-in-input": "dimwise.lab.mistakes.nan_in_input",
    "constant-input": "dimwise.lab.mistakes.constant_input",
    "workers-share-seed": "dimwise.lab.mistakes.workers_share_seed",
    "input-mutated": "dimwise.lab.mistakes.input_mutated",
    "wrong-axis-order": "dimwise.lab.mistakes.wrong_axis_order",
    # memory and speed
    "batch-too-large": "dimwise.lab.mistakes.batch_too_large",
    "loader-starves-trainer": "dimwise.lab.mistakes.loader_starves_trainer",
    "sync-every-step": "dimwise.lab.mistakes.sync_every_step",
    # several processes
    "replicas-out-of-sync": "dimwise.lab.mistakes.replicas_out_of_sync",
    "same-data-on-every-rank": "dimwise.lab.mistakes.same_data_on_every_rank",
    "wrapped-repeatedly": "dimwise.lab.mistakes.wrapped_repeatedly",
}
"""Slug of the rule -> module that shows it."""

_SCORE = re.compile(r"^score=(\S+) name=(\w+)$", re.MULTILINE)


def path(slug: str) -> Path:
    """The script that shows a mistake.

    Errors: ``UserError`` when no script has this name.

    Example:
        >>> path("no-shuffle").name
        'no_shuffle.py'
    """
    if slug not in MISTAKES:
        from dimwise.errors import UserError, nearest

        near = nearest(slug, MISTAKES)
        raise UserError(
            f"the gallery has no mistake '{slug}'", expected=f"one of {len(MISTAKES)} rules", next_step=near
        )
    return Path(__file__).with_name(MISTAKES[slug].rpartition(".")[2] + ".py")


def archs(slug: str) -> tuple[str, ...]:
    """The networks that a script can show its mistake on, read from its text; the script is not imported.

    Example:
        >>> archs("no-shuffle")
        ('cnn', 'lstm', 'transformer')
    """
    for node in ast.parse(path(slug).read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ARCHS":
            told = ast.unparse(node.value)
            return ("cnn", "lstm", "transformer") if told == "ALL" else tuple(ast.literal_eval(node.value))
    return ()


def run(slug: str, *, mended: bool, arch: str | None = None, seed: int = 0, more: Sequence[str] = ()) -> dict[str, Any]:
    """Run one script in a process of its own.

    Args:
        slug: the rule's name, a key of ``MISTAKES``.
        mended: run the cure rather than the mistake.
        arch: one of ``archs(slug)``; None takes the script's own default.
        seed: of weights, order and split.
        more: further arguments of the script, such as ``["--epochs", "1"]``.

    Returns:
        ``{"score", "name", "returncode", "seconds_s", "said"}``; ``score`` and ``name`` are None when the script ended
        before its last line (the mistake ``batch-too-large`` does), ``said`` is the last line of its errors.
    """
    command = [sys.executable, str(path(slug)), *(["--mended"] if mended else []), "--seed", str(seed), *more]
    command += ["--arch", arch] if arch else []
    # The script must find this very package, also where it was not installed.
    here = str(Path(__file__).parents[3])
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))}
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    seconds_s = time.perf_counter() - start
    reached, name = score(done.stdout)
    return {
        "score": reached,
        "name": name,
        "returncode": done.returncode,
        "seconds_s": round(seconds_s, 3),
        "said": (done.stderr.strip().splitlines() or [""])[-1],
    }


def score(printed: str) -> tuple[float | None, str | None]:
    """What a script reached, and what that is; a score named ``loss`` is better when lower.

    Example:
        >>> score("after epoch 0: 0.91\\nscore=0.9731 name=accuracy\\n")
        (0.9731, 'accuracy')
        >>> score("out of memory")
        (None, None)
    """
    found = _SCORE.search(printed)
    return (float(found[1]), found[2]) if found else (None, None)
