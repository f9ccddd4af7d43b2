"""Run folders to look at: written as a run writes them, with real digits and real guesses inside."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

RECIPE = """\
name = "digits"
summary = "scikit-learn's 1797 real digits, nothing to download"

[data]
name = "digits"

[model]
name = "cnn"
width = 1.0

[train]
epochs = 24
batch_size = 64
optimizer = "adam"
lr = 0.002
schedule = "onecycle"
precision = "auto"

[budget]
drop = 0.005
latency_ms = 0.05
"""

SLOWER, DROPS = (
    "meets the budget, but is {}× the latency of prune+quantize",
    "validation score drops by {}, allowed 0.0050",
)
STAGES = [
    # name, score, valid, bytes, p50, p95, params, macs, per second, reason
    ("trained", 0.9889, 0.9903, 155_880, 0.2310, 0.2620, 38_970, 312_448, 41_800, ""),
    ("onnx", 0.9889, 0.9903, 161_204, 0.0412, 0.0458, 38_970, 312_448, 96_500, SLOWER.format(2.41)),
    ("quantize", 0.9861, 0.9875, 47_316, 0.0239, 0.0281, 38_970, 312_448, 128_000, SLOWER.format(1.4)),
    ("prune", 0.9861, 0.9861, 60_112, 0.0301, 0.0344, 14_210, 118_032, 151_000, SLOWER.format(1.76)),
    ("prune+quantize", 0.9861, 0.9861, 21_540, 0.0171, 0.0203, 14_210, 118_032, 187_000, "best latency in the budget"),
    ("distill", 0.9750, 0.9764, 24_118, 0.0222, 0.0261, 5_290, 42_312, 240_000, DROPS.format(0.0139)),
    ("distill+quantize", 0.9722, 0.9722, 11_020, 0.0149, 0.0170, 5_290, 42_312, 262_000, DROPS.format(0.0181)),
]  # fmt: skip


@functools.cache
def digits() -> dict[str, NDArray[Any]]:
    """Pictures of a run on scikit-learn's digits: a nearest-centroid model's real mistakes, patches as filters."""
    from sklearn.datasets import load_digits

    images, targets = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(images))
    train, test = order[:1437], order[1437:]
    centres = np.stack([images[train][targets[train] == k].mean(0) for k in range(10)])
    scores = -((images[test][:, None] - centres) ** 2).sum(-1) / 60
    shares = np.exp(scores - scores.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    guess, truth = shares.argmax(1), targets[test]
    confusion = np.zeros((10, 10), np.int64)
    np.add.at(confusion, (truth, guess), 1)
    wrong = np.flatnonzero(guess != truth)
    worst = wrong[np.argsort(-shares[wrong].max(1), kind="stable")][:24]
    pixels = np.rint(images * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    patches = np.lib.stride_tricks.sliding_window_view(pixels[train[:200], 0] / 255.0, (3, 3), axis=(1, 2))
    rows = patches.reshape(-1, 9) - patches.reshape(-1, 9).mean(0)
    basis = np.linalg.svd(rows, full_matrices=False)[2]
    filters = (rng.normal(size=(32, 9)) @ (basis * np.linspace(1, 0.1, 9)[:, None])).reshape(32, 1, 3, 3)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(pixels[test[0], 0] / 255.0, 1), (3, 3))
    maps = np.maximum(np.einsum("hwij,fij->fhw", windows, filters[:, 0]), 0)
    deeper = np.maximum(np.einsum("gf,fhw->ghw", rng.normal(size=(16, 32)), maps), 0)[:, ::2, ::2]
    return {
        "confusion": confusion,
        "mistakes_inputs": pixels[test[worst]],
        "mistakes_truth": truth[worst],
        "mistakes_guess": guess[worst],
        "mistakes_prob": shares[worst].max(1),
        "filters": filters.astype(np.float32),
        "map_input": pixels[test[0]],
        "map_names": np.array(["conv1", "conv2"]),
        "maps_0": maps[:16].astype(np.float32),
        "maps_1": deeper.astype(np.float32),
    }


def metrics(n_epochs: int = 24, n_steps: int = 18, *, ratios: bool = True) -> list[dict[str, Any]]:
    """Records as training writes them: steps and epochs counted from 0."""
    rng = np.random.default_rng(1)
    records: list[dict[str, Any]] = []
    layers = ("conv1", "conv2", "conv3", "fc1", "fc2")
    for epoch in range(n_epochs):
        mean = 2.3 * np.exp(-epoch / 3.0) + 0.02
        for i in range(n_steps):
            step = epoch * n_steps + i
            at = step / (n_epochs * n_steps)
            lr = 0.002 * (at / 0.25 if at < 0.25 else (1 - at) / 0.75)
            loss = float(mean * rng.uniform(0.6, 1.5))
            records.append(
                {
                    "kind": "step",
                    "step": step,
                    "epoch": epoch,
                    "loss": loss,
                    "lr": lr,
                    "images_per_s": 9e4,
                    "t": step / 90,
                }
            )
        fade = np.exp(-epoch / 9)
        row: dict[str, Any] = {
            "kind": "epoch",
            "epoch": epoch,
            "step": epoch * n_steps + n_steps - 1,
            "train_loss": mean,
            "valid_loss": mean + 0.03 + 0.0008 * epoch,
            "valid_score": float(0.9903 - 0.75 * np.exp(-epoch / 2.2) - (0.004 * rng.random() if epoch != 17 else 0)),
            "lr": records[-1]["lr"],
            "grad_norms": {name: float(2 ** (i - 4) * fade * rng.uniform(0.7, 1.3)) for i, name in enumerate(layers)},
        }
        if ratios:
            row["update_ratios"] = {name: float(2e-3 * fade * rng.uniform(0.5, 1.5)) for name in layers}
        records.append(row)
    return records


def stage_rows() -> list[dict[str, Any]]:
    """The stages of a whole run."""
    keys = ("name", "score", "valid_score", "size_bytes", "latency_ms", "latency_p95_ms", "params", "macs",
            "throughput_per_s", "reason")  # fmt: skip
    rows: list[dict[str, Any]] = [dict(zip(keys, values, strict=True)) for values in STAGES]
    for i, row in enumerate(rows):
        row |= {"best_batch": 256, "runtime": "onnxruntime" if i else "pytorch eager", "threads": 1}
    rows[0] |= {"peak_memory_bytes": 1_204_224, "train_peak_memory_bytes": 9_812_000}
    return rows


def whole_result() -> dict[str, Any]:
    """result.json of a whole run."""
    rows = stage_rows()
    layers = [
        {"name": "conv1", "channels_before": 32, "channels_after": 18},
        {"name": "conv2", "channels_before": 64, "channels_after": 40},
    ]
    prune = {
        "fold": "prune",
        "config": {"keep_frac": 0.6, "importance": "taylor"},
        "score_before": 0.9903,
        "score_after": 0.9861,
        "cost_before": {"params": 38_970, "macs": 312_448, "size_bytes": 155_880},
        "cost_after": {"params": 14_210, "macs": 118_032, "size_bytes": 56_840},
        "layers": layers,
        "untouched": {"fc2": "its outputs are the classes"},
        "notes": ["whole blocks of channels left"],
        "seconds": 6.3,
    }
    quantize = prune | {"fold": "quantize", "config": {"mode": "static"}, "layers": [], "seconds": 1.2}
    quantize |= {"cost_before": {"size_bytes": 56_840}, "cost_after": {"size_bytes": 21_540}, "score_before": 0.9861}
    return {
        "run": "runs/20260131-091500-digits-a1f3",
        "score": {"name": "accuracy", "value": 0.9861, "n": 360},
        "stages": rows,
        "chosen": "prune+quantize",
        "artifact": "runs/20260131-091500-digits-a1f3/artifacts/prune+quantize",
        "parity": {"passed": True, "score_delta": 0.0, "max_scaled_diff": 3.1e-07, "batches": [1, 3, 64]},
        "seconds": {"data": 0.41, "train": 21.6, "fold": 38.2, "measure": 7.9, "ship": 3.3, "pictures": 0.4},
        "recipe": "digits",
        "task": "classification",
        "score_name": "accuracy",
        "labels": [str(i) for i in range(10)],
        "reasons": {row["name"]: row["reason"] for row in rows if row["reason"]},
        "budget": {"drop": 0.005, "latency_ms": 0.05, "size_bytes": 0, "prefer": "latency"},
        "failure": None,
        "summary": "prune+quantize: accuracy 0.9861 on 360 test samples.",
        "measured": {
            "dimwise": "0.1.0", "commit": None, "python": "3.11.8", "os": "Linux 6.1", "torch": "2.13.0",
            "numpy": "2.3.1", "onnx": "1.23.0", "onnxruntime": "1.31.0", "cpu": "Intel(R) Xeon(R) Processor @ 2.60GHz",
            "cores": 2, "capabilities": ["avx2", "avx512f", "avx512_vnni"], "memory_bytes": 16_595_312_640,
            "threads": 2, "cuda": [], "latency_runs": 400, "busy": "other processes use 0.9 of 2 cores",
        },
        "folds": [
            {"stage": "prune", "steps": [prune]},
            {"stage": "prune+quantize", "steps": [prune, quantize]},
        ],
        "precision": {
            "chosen": "fp32 channels_last", "precision": "fp32", "layout": "channels_last", "compiled": False,
            "candidates": [
                {"name": "fp32 contiguous", "ms": 2.31, "loss": 2.30118, "agrees": True},
                {"name": "fp32 channels_last", "ms": 1.94, "loss": 2.30118, "agrees": True},
                {"name": "bf16 channels_last", "ms": 3.72, "loss": 2.30192, "agrees": True},
            ],
        },
        "data": {"name": "digits", "train": 1150, "valid": 287, "test": 360, "classes": 10,
                 "notes": ["Embedded in scikit-learn; stratified split with seed 0."]},
        "checks": [
            {"rule": "unseeded", "severity": "hint", "title": "no seed was set",
             "evidence": "first forward pass: step 0.", "remedy": "torch.manual_seed(0)", "proof": None,
             "where": {"file": None, "line": None, "module": None, "step": None}},
            {"rule": "lr-too-high", "severity": "error", "title": "the learning rate is too high",
             "evidence": "The loss rose 3.1-fold.", "remedy": "lr=0.01",
             "proof": {"summary": "loss after 20 steps 0.41 instead of 7.2"},
             "where": {"file": "/home/me/net.py", "line": 17, "module": "conv2", "step": 41}},
        ],
        "checked": {"steps": 200, "rules": ["unseeded", "lr-too-high", "no-shuffle"],
                    "not_checked": [{"rule": "sync-every-step", "why": "the parameters live on the CPU"}]},
    }  # fmt: skip


def write_run(
    folder: Path,
    *,
    result: dict[str, Any] | None = None,
    records: list[dict[str, Any]] | None = None,
    pictures: dict[str, NDArray[Any]] | None = None,
    recipe: str = RECIPE,
    torn: str = "",
    seen: dict[str, Any] | None = None,
    lr_range: dict[str, Any] | None = None,
) -> Path:
    """A run folder with what is given; ``torn`` is what a kill left of the last line of metrics.jsonl."""
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(recipe, encoding="utf-8")
    (folder / "environment.json").write_text('{"python": "3.11.8", "torch": "2.13.0", "libs": {"onnx": "1.23.0"}}')
    lines = [json.dumps(record) for record in (metrics() if records is None else records)]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, torn]), encoding="utf-8")
    if result is not None:
        (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    if seen is not None:
        (folder / "seen.json").write_text(json.dumps(seen), encoding="utf-8")
    if lr_range is not None:
        (folder / "lr_range.json").write_text(json.dumps(lr_range), encoding="utf-8")
    if pictures is not None:
        np.savez_compressed(folder / "pictures.npz", **pictures)  # type: ignore[arg-type]
    return folder


def train_only(folder: Path) -> Path:
    """What ``dimwise train`` leaves."""
    whole = whole_result()
    kept = {k: whole[k] for k in ("run", "score", "recipe", "task", "labels", "precision", "budget", "data")}
    return write_run(
        folder, result=kept | {"seconds": {"data": 0.4, "train": 21.6}, "steps": 432, "images_per_s": 91e3}
    )


def interrupted(folder: Path) -> Path:
    """What a kill in the middle of an epoch leaves."""
    records = metrics()[: 19 * 6 + 7]
    return write_run(folder, records=records, torn='{"kind": "step", "st')


def table_run(folder: Path) -> Path:
    """A table: no pictures at all, a score that is not a share."""
    result = whole_result() | {"task": "regression", "score_name": "r2", "labels": ["price"]}
    return write_run(folder, result=result | {"score": {"name": "r2", "value": 0.8312, "n": 360}})


def texts_run(folder: Path) -> Path:
    """Texts: the words of the mistakes instead of pictures, marks of the vocabulary and of HTML among them."""
    pictures: dict[str, NDArray[Any]] = {
        "confusion": np.array([[5, 2], [1, 4]]),
        "mistakes_texts": np.array(["a <unk> film & more", "<b>bold</b>", "word " * 200], str),
        "mistakes_truth": np.array([0, 0, 1]),
        "mistakes_guess": np.array([1, 1, 0]),
        "mistakes_prob": np.array([0.99, 0.9, 0.6]),
    }
    result = whole_result() | {"labels": ["negative", "positive"]}
    return write_run(folder, result=result, pictures=pictures)


def hundred_classes(folder: Path) -> Path:
    """A hundred classes with long names, colour images, sixty layers."""
    rng = np.random.default_rng(2)
    confusion = np.diag(rng.integers(50, 95, 100))
    confusion += rng.poisson(0.25, (100, 100)) * (rng.random((100, 100)) < 0.5)
    pictures: dict[str, NDArray[Any]] = {
        "confusion": confusion,
        "mistakes_inputs": rng.integers(0, 256, (24, 3, 32, 32), dtype=np.uint8),
        "mistakes_truth": rng.integers(0, 100, 24),
        "mistakes_guess": rng.integers(0, 100, 24),
        "mistakes_prob": rng.random(24),
        "filters": rng.normal(size=(64, 3, 3, 3)).astype(np.float32),
        "map_input": rng.integers(0, 256, (3, 32, 32), dtype=np.uint8),
        "map_names": np.array([f"layer{i}" for i in range(3)]),
        **{f"maps_{i}": rng.normal(size=(64, 32 >> i, 32 >> i)).astype(np.float32) for i in range(3)},
    }
    records = metrics(60, 20, ratios=False)
    for record in records:
        if record["kind"] == "epoch":
            record["grad_norms"] = {f"layer{i // 4}.block{i % 4}.conv": 2.0 ** -(i / 6) for i in range(60)}
    result = whole_result() | {"labels": [f"class number {i}, a long name" for i in range(100)]}
    result["score"] = {"name": "accuracy", "value": 0.7121, "n": 10_000}
    return write_run(folder, result=result, records=records, pictures=pictures)


def whole(folder: Path) -> Path:
    """Everything a run can have."""
    return write_run(folder, result=whole_result(), pictures=digits())


KINDS: dict[str, Callable[[Path], Path]] = {
    "whole": whole,
    "train": train_only,
    "interrupted": interrupted,
    "table": table_run,
    "texts": texts_run,
    "hundred": hundred_classes,
}


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[[str], Path]:
    """``make_run("whole")`` writes a run folder of that kind."""
    return lambda kind: KINDS[kind](tmp_path / "20260131-091500-digits-a1f3")


@pytest.fixture(scope="session")
def made_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``made_run("whole")`` is a run folder with its report, made once: only to be read."""

    @functools.cache
    def make(kind: str) -> Path:
        from dimwise.view.report import report

        run = KINDS[kind](tmp_path_factory.mktemp(kind) / "20260131-091500-digits-a1f3")
        report(run)
        return run

    return make


@pytest.fixture
def result() -> dict[str, Any]:
    """result.json of a whole run, free to be changed."""
    return whole_result()


@pytest.fixture
def pictures() -> dict[str, NDArray[Any]]:
    """pictures.npz of a whole run, free to be changed."""
    return dict(digits())


@pytest.fixture
def records() -> list[dict[str, Any]]:
    """metrics.jsonl of a whole run, free to be changed."""
    return metrics()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """``write(result=..., records=..., pictures=..., recipe=...)`` writes a run folder with just that."""
    return functools.partial(write_run, tmp_path / "20260131-091500-digits-a1f3")
