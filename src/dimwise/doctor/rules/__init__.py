"""The rules: one family a file, each a plain function from what was seen to findings.

Adding one: its function in the file of its family, its line in :data:`RULES` (or :data:`ACROSS`, when it needs to
compare processes), its pair in the gallery of mistakes, its test.
"""

from __future__ import annotations

_HERE = "dimwise.doctor.rules"

RULES = {
    # the loop
    "missing-zero-grad": f"{_HERE}.loop:missing_zero_grad",
    "zero-grad-before-step": f"{_HERE}.loop:zero_grad_before_step",
    "optimizer-never-steps": f"{_HERE}.loop:optimizer_never_steps",
    "backward-never-called": f"{_HERE}.loop:backward_never_called",
    "train-in-eval-mode": f"{_HERE}.modes:train_in_eval_mode",
    "validate-in-train-mode": f"{_HERE}.modes:validate_in_train_mode",
    "grad-in-validation": f"{_HERE}.modes:grad_in_validation",
    "graph-retained": f"{_HERE}.losses:graph_retained",
    "accumulation-not-scaled": f"{_HERE}.loop:accumulation_not_scaled",
    "clip-without-effect": f"{_HERE}.loop:clip_without_effect",
    "scheduler-misused": f"{_HERE}.schedule:scheduler_misused",
    "loss-not-finite": f"{_HERE}.losses:loss_not_finite",
    "unseeded": f"{_HERE}.losses:unseeded",
    # the optimizer and its parameters
    "parameters-not-in-optimizer": f"{_HERE}.optimizer:parameters_not_in_optimizer",
    "optimizer-holds-stale-parameters": f"{_HERE}.optimizer:optimizer_holds_stale_parameters",
    "parameters-never-change": f"{_HERE}.optimizer:parameters_never_change",
    "no-gradient-reaches": f"{_HERE}.optimizer:no_gradient_reaches",
    "lr-too-high": f"{_HERE}.rates:lr_too_high",
    "lr-too-low": f"{_HERE}.rates:lr_too_low",
    "exploding-gradients": f"{_HERE}.rates:exploding_gradients",
    "vanishing-gradients": f"{_HERE}.rates:vanishing_gradients",
    "decay-on-norm-or-bias": f"{_HERE}.optimizer:decay_on_norm_or_bias",
    "shared-weights-untied": f"{_HERE}.ties:shared_weights_untied",
    # the model (model.py: what meets the loss; activations.py; layers.py)
    "softmax-before-cross-entropy": f"{_HERE}.model:softmax_before_cross_entropy",
    "sigmoid-before-bce-with-logits": f"{_HERE}.model:sigmoid_before_bce_with_logits",
    "dead-activations": f"{_HERE}.activations:dead_activations",
    "saturated-activations": f"{_HERE}.activations:saturated_activations",
    "bad-initialisation": f"{_HERE}.layers:bad_initialisation",
    "initial-loss-off": f"{_HERE}.model:initial_loss_off",
    "output-labels-mismatch": f"{_HERE}.model:output_labels_mismatch",
    "loss-broadcasts": f"{_HERE}.model:loss_broadcasts",
    "dropout-in-eval": f"{_HERE}.layers:dropout_in_eval",
    "batchnorm-tiny-batch": f"{_HERE}.layers:batchnorm_tiny_batch",
    "nan-origin": f"{_HERE}.layers:nan_origin",
    "unused-modules": f"{_HERE}.layers:unused_modules",
    "bias-before-norm": f"{_HERE}.layers:bias_before_norm",
    # the data (data.py: inputs; datasets.py: training against validation; labels.py)
    "unnormalised-input": f"{_HERE}.data:unnormalised_input",
    "train-valid-preprocessing-differs": f"{_HERE}.datasets:train_valid_preprocessing_differs",
    "train-valid-leak": f"{_HERE}.datasets:train_valid_leak",
    "no-shuffle": f"{_HERE}.labels:no_shuffle",
    "labels-carry-no-signal": f"{_HERE}.labels:labels_carry_no_signal",
    "class-imbalance": f"{_HERE}.labels:class_imbalance",
    "nan-in-input": f"{_HERE}.data:nan_in_input",
    "constant-input": f"{_HERE}.data:constant_input",
    "workers-share-seed": f"{_HERE}.data:workers_share_seed",
    "input-mutated": f"{_HERE}.data:input_mutated",
    "wrong-axis-order": f"{_HERE}.axes:wrong_axis_order",
    # memory and speed
    "batch-too-large": f"{_HERE}.memory:batch_too_large",
    "loader-starves-trainer": f"{_HERE}.memory:loader_starves_trainer",
    "sync-every-step": f"{_HERE}.memory:sync_every_step",
}
"""Slug -> function(seen) -> finding(s), None when all is well, or why it cannot tell."""

ACROSS = {
    "replicas-out-of-sync": f"{_HERE}.processes:replicas_out_of_sync",
    "same-data-on-every-rank": f"{_HERE}.processes:same_data_on_every_rank",
    "wrapped-repeatedly": f"{_HERE}.processes:wrapped_repeatedly",
}
"""Slug -> function(list of seen, one a process, by rank) -> the same."""
