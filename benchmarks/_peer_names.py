"""Which of the peers' findings names which mistake, and how one is judged: tables and pure functions.

A finding counts when the mended form does not get it as well. It *names* the mistake when the table below says so (with
generosity: a message that offers the cause as one of a few guesses is let pass), and is a *symptom* otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Finding = Sequence[str]
"""(rule, level, message)."""

OURS = "dimwise"
PEERS = ("torchtest2", "guardtower", "torch-audit", "trainproof", "traincheck")

FOR: dict[str, str] = {
    "torchtest2": "checks a network, its loss and its optimizer on one batch before the training starts; it does not "
    "see the loop. Called once, with the first batch of the script's loop.",
    "guardtower": "audits the wiring of one training step (LoRA, several processes, gradients, optimizer) and watches "
    "activations for NaN; made for fine-tuning. Its audit ran on the first batch and on one of the second epoch, its "
    "monitor for the first sixty steps.",
    "torch-audit": "a linter at run time that patches `forward` and `step`; it looks at batches, gradients, "
    "activations and the optimizer's settings. Patched in before the loop, every step audited.",
    "trainproof": "reads logs and sees neither network nor data; it says itself that it measures the symptoms of a "
    "run. It got a log as trainers write it: a line every five steps, with the evaluation loss where the script has "
    "one.",
    "traincheck": "infers invariants from traces of a run known to be good and checks another run against them; made "
    "for silent errors deep in libraries and loops. The mended form was its reference.",
}
"""What each is for, and how it was called."""

HINTS: dict[str, frozenset[str]] = {"torch-audit": frozenset({"TA200", "TA201", "TA203"})}
"""Advice about speed, which a tool gives on healthy networks by intention: no false alarm."""

LOUD = frozenset({"warning", "error", "WARN", "FAIL", "ERROR", "FATAL"})
ERRORS = frozenset({"error", "FAIL", "ERROR", "FATAL"})

NAMES: dict[str, dict[str, tuple[tuple[str, str], ...]]] = {
    "torchtest2": {
        "parameters-not-in-optimizer": (("optimizer_coverage", ""),),
        "optimizer-holds-stale-parameters": (("optimizer_coverage", ""),),
        "parameters-never-change": (("params_change", ""),),
        "no-gradient-reaches": (("gradient_flow", ""),),
        "unused-modules": (("gradient_flow", "unused in forward"),),
        "initial-loss-off": (("initial_loss", ""),),
        "bad-initialisation": (("initial_loss", "init"), ("gradient_magnitude", "init")),
        "unnormalised-input": (("initial_loss", "input normalisation"),),
        "exploding-gradients": (("gradient_magnitude", ""),),
        "vanishing-gradients": (("gradient_magnitude", ""),),
        "dropout-in-eval": (("eval_determinism", ""),),
        "lr-too-low": (("overfit_batch", "lr may be too low"), ("overfit_batch", "check the learning rate")),
        "lr-too-high": (("overfit_batch", "lr too high"), ("overfit_batch", "check the learning rate")),
        "output-labels-mismatch": (("overfit_batch", "targets match outputs"), ("loss", "")),
        "loss-broadcasts": (("loss", "broadcast"), ("loss", "shape")),
        "loss-not-finite": (("loss", "nan"), ("loss", "inf"), ("overfit_batch", "the loss became")),
        "nan-origin": (("gradient_magnitude", "division of zero"),),
        "dead-activations": (("gradient_flow", "dead ReLU"),),
        "constant-input": (("output_varies", ""),),
    },
    "guardtower": {
        "train-in-eval-mode": (("train_mode", ""),),
        "parameters-not-in-optimizer": (("optimizer_coverage", ""),),
        "optimizer-holds-stale-parameters": (("optimizer_coverage", ""),),
        "no-gradient-reaches": (("grad_connectivity", "NO gradient"),),
        "unused-modules": (("grad_connectivity", "NO gradient"),),
        "dead-activations": (("dead_relu", ""),),
        "exploding-gradients": (("grad_norms", "large"),),
        "vanishing-gradients": (("grad_norms", "tiny"),),
        "lr-too-high": (("grad_norms", "lower LR"),),
        "bad-initialisation": (("dead_relu", "bad init"),),
        "loss-not-finite": (("loss", "non-finite"),),
        "nan-origin": (("nonfinite", "forward"), ("monitor", "")),
        "parameters-never-change": (("frozen", ""),),
        "replicas-out-of-sync": (("dist_wrap", ""),),
    },
    "torch-audit": {
        "unnormalised-input": (("TA301", ""),),
        "train-valid-preprocessing-differs": (("TA301", ""),),
        "constant-input": (("TA302", ""),),
        "wrong-axis-order": (("TA303", ""),),
        "batchnorm-tiny-batch": (("TA304", ""),),
        "loss-not-finite": (("TA100", ""),),
        "exploding-gradients": (("TA102", ""),),
        "lr-too-high": (("TA102", ""),),
        "dead-activations": (("TA105", ""), ("TA103", "")),
        "backward-never-called": (("TA104", ""),),
        "no-gradient-reaches": (("TA104", ""),),
        "decay-on-norm-or-bias": (("TA402", ""),),
        "bias-before-norm": (("TA400", ""),),
        "unused-modules": (("TA500", ""),),
    },
    "trainproof": {
        "loss-not-finite": (("TP-NAN", ""),),
        "exploding-gradients": (("TP-GRAD-SPIKE", ""),),
        "parameters-never-change": (("TP-ZERO-LR", ""),),
        "scheduler-misused": (("TP-ZERO-LR", ""), ("TP-ZERO-LR-PARTIAL", "")),
        "no-gradient-reaches": (("TP-ZERO-GRAD", ""),),
        "loader-starves-trainer": (("TP-LOADER-BOUND", ""),),
    },
    "traincheck": {
        "missing-zero-grad": (("zero_grad() always occurs", ""),),
        "zero-grad-before-step": (("zero_grad() always precedes", ""), ("zero_grad() changes Parameter.grad:", "")),
        "optimizer-never-steps": (("step() always occurs", ""), ("always precedes Adam.step()", "")),
        "backward-never-called": (("backward() always occurs", ""), ("backward() always precedes", "")),
        "train-in-eval-mode": (("train() always", ""), ("training", "")),
        "parameters-not-in-optimizer": (("step() changes Parameter.data", ""),),
        "optimizer-holds-stale-parameters": (("step() changes Parameter.data", ""),),
        "no-gradient-reaches": (("Parameter.grad", ""),),
    },
}
"""peer -> mistake -> (rule, text in its message) pairs, any of which names it. TrainCheck's rules are its invariants:
there the first text has to be part of one."""

CLASSIC = frozenset(
    {
        "unnormalised-input",
        "missing-zero-grad",
        "train-in-eval-mode",
        "validate-in-train-mode",
        "lr-too-high",
        "lr-too-low",
        "softmax-before-cross-entropy",
        "parameters-not-in-optimizer",
        "no-gradient-reaches",
        "labels-carry-no-signal",
        "train-valid-leak",
        "dead-activations",
        "no-shuffle",
        "train-valid-preprocessing-differs",
    }
)
"""Mistakes that were written down, and tried on four of the peers, before the doctor had a rule."""


def new_findings(broken: Sequence[Finding], mended: Sequence[Finding]) -> list[Finding]:
    """What is said about the broken form and, by rule, not about the mended one."""
    usual = {one[0] for one in mended}
    return [one for one in broken if one[0] not in usual]


def names(peer: str, slug: str, finding: Finding) -> bool:
    """Whether a finding names the mistake."""
    rule, _, message = finding
    if peer == OURS:
        return rule == slug
    for wanted, part in NAMES[peer].get(slug, ()):
        if (wanted in rule if peer == "traincheck" else wanted == rule) and part in message:
            return True
    return False


def mark(peer: str, slug: str, broken: Sequence[Finding], mended: Sequence[Finding]) -> str:
    """``N`` names the cause, ``S`` shows a symptom, ``-`` is silent.

    Example:
        >>> mark("torch-audit", "constant-input", [("TA302", "WARN", "near-zero variance")], [])
        'N'
    """
    new = new_findings(broken, mended)
    if any(names(peer, slug, one) for one in new):
        return "N"
    return "S" if new else "-"


def alarms(peer: str, mended: Sequence[Finding]) -> list[Finding]:
    """What is wrong to say about a mended form: warnings and errors, without advice about speed."""
    return [one for one in mended if one[1] in LOUD and one[0] not in HINTS.get(peer, ())]


Row = Mapping[str, Any]
"""{"slug", "arch", "peers": {peer: {"mark", "alarms", ...}}} of one mistake."""


def counts(rows: Sequence[Row], peer: str) -> dict[str, int]:
    """How often each mark was given, how many mistakes were tried, how many mended forms got an alarm, an error."""
    cells = [row["peers"][peer] for row in rows if peer in row["peers"]]
    told = {m: sum(cell["mark"] == m for cell in cells) for m in ("N", "S", "-")}
    told["tried"] = len(cells)
    told["alarms"] = sum(bool(cell["alarms"]) for cell in cells)
    told["errors"] = sum(any(one[1] in ERRORS for one in cell["alarms"]) for cell in cells)
    return told


def together(rows: Sequence[Row]) -> dict[str, int]:
    """The best mark of all peers for each mistake, counted."""
    best = []
    for row in rows:
        marks = {cell["mark"] for peer, cell in row["peers"].items() if peer != OURS}
        best.append(next((m for m in ("N", "S") if m in marks), "-"))
    return {m: best.count(m) for m in ("N", "S", "-")}
