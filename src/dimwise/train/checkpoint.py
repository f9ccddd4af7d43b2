"""Checkpoints that are whole or not there, and know it.

    checkpoints/
      manifest.json               which generation is the last, the hash of each of its files, the counters
      last-00000120.safetensors   weights at step 120
      state-00000120.safetensors  optimizer and weight average at step 120
      best-00000096.safetensors   the weights that scored best until then
      last.safetensors, best.safetensors   the same files under the names people look for

A generation's files are written and synced first; the manifest that names them is renamed into place last. A kill
at any instant leaves the previous generation, or the new one. Two generations are kept: when a file of the newer
one was damaged on disk, the older one is used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dimwise.errors import RunError
from dimwise.runs.atomic import run_error, sweep, write_bytes, write_json
from dimwise.train.loop import Moving

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back and verified."""

    step: int
    weights: dict[str, Tensor]
    state: dict[str, Tensor]
    best: dict[str, Tensor]
    counters: dict[str, Any]
    skipped: tuple[str, ...] = field(default=())
    """Damaged files of newer generations that had to be passed over."""


def save(folder: Path, moving: Moving, best: dict[str, Tensor], counters: dict[str, Any]) -> None:
    """Write a generation.

    Args:
        folder: the run's ``checkpoints``.
        moving: model, optimizer, scaler, average and step.
        best: the weights that scored best so far; rewritten only when ``counters["best_step"]`` changed.
        counters: plain JSON that training needs to continue.

    Raises:
        RunError: when the disk is full or not writable; the previous generation is intact.
    """
    previous = _generations(folder)
    try:
        files = _write_files(folder, moving, best, counters["best_step"], previous)
        if moving.scaler is not None:
            counters = counters | {"scaler": moving.scaler.state_dict()}
        # A generation with more steps is one that proved damaged when the run was resumed.
        kept = [g for g in previous if g["step"] < moving.step][:1]
        generations = [{"step": moving.step, "files": files, "counters": counters}, *kept]
        write_json(folder / "manifest.json", _spelt({"format": FORMAT, "generations": generations}))
        _name(folder, files)
    except RunError as error:
        whole = _generations(folder)
        _remove_all_but(whole, folder)  # on a full disk, half a generation is in the way
        intact = f"The checkpoint of step {whole[0]['step']} is intact: resume from it." if whole else ""
        raise RunError(error.what, next_step=f"{error.next_step} {intact}".strip()) from error
    _remove_all_but(generations, folder)


def tidy(folder: Path, found: Checkpoint) -> None:
    """Before a run goes on: what a kill in the middle of a save left undone is done, and what it left behind removed.

    Raises:
        RunError: when the folder cannot be written.
    """
    sweep(folder)
    generations = _generations(folder)
    _name(folder, next(g["files"] for g in generations if g["step"] == found.step))
    _remove_all_but(generations, folder)


def _name(folder: Path, files: dict[str, Any]) -> None:
    for part in ("last", "best"):
        _link(folder / files[part]["file"], folder / f"{part}.safetensors")


def exists(folder: Path) -> bool:
    """Whether a checkpoint was ever completed there."""
    return (folder / "manifest.json").is_file()


def _write_files(
    folder: Path, moving: Moving, best: dict[str, Tensor], best_step: int, previous: list[dict[str, Any]]
) -> dict[str, Any]:
    files = {
        "last": _write(folder, f"last-{moving.step:08d}.safetensors", moving.model.state_dict()),
        "state": _write(folder, f"state-{moving.step:08d}.safetensors", _state_tensors(moving)),
    }
    name = f"best-{best_step:08d}.safetensors"
    old = next((g["files"]["best"] for g in previous if g["files"]["best"]["file"] == name), None)
    # Reading the file back is cheaper than a synced write, and a damaged one is not handed on.
    if old is None or _verified(folder / name, old["sha256"]) is None:
        old = _write(folder, name, best)
    files["best"] = old
    return files


def _remove_all_but(generations: list[dict[str, Any]], folder: Path) -> None:
    used = {f["file"] for g in generations for f in g["files"].values()}
    for path in folder.glob("*-*.safetensors"):
        if path.name not in used:
            with contextlib.suppress(OSError):  # a file too many harms nobody; the next save tries again
                path.unlink()


def _spelt(manifest: dict[str, Any]) -> dict[str, Any]:
    """NaN and infinity, for which JSON has no word, as {"number": "NaN"}; :func:`_unspelt` reads them back."""
    spelt: dict[str, Any] = json.loads(json.dumps(manifest), parse_constant=lambda word: {"number": word})
    return spelt


def _unspelt(pairs: dict[str, Any]) -> Any:
    return float(pairs["number"]) if pairs.keys() == {"number"} else pairs


def load(folder: Path) -> Checkpoint:
    """Read the newest generation whose files are what was written.

    Raises:
        RunError: when there is none.
    """
    if not exists(folder):
        raise RunError(
            f"no checkpoint in {folder.parent.name}", next_step="The run was stopped before its first one: train again."
        )
    skipped: list[str] = []
    for generation in _generations(folder):
        parts = {}
        for part, entry in generation["files"].items():
            data = _verified(folder / entry["file"], entry["sha256"])
            if data is None:
                skipped.append(entry["file"])
                break
            parts[part] = data
        else:
            from safetensors.torch import load as from_bytes

            tensors = {part: from_bytes(data) for part, data in parts.items()}
            return Checkpoint(
                generation["step"],
                tensors["last"],
                tensors["state"],
                tensors["best"],
                generation["counters"],
                tuple(skipped),
            )
    raise RunError(
        f"every checkpoint of {folder.parent.name} is damaged: {', '.join(skipped)} differ from their hashes",
        next_step="Train again, or copy the files from a backup.",
    )


def restore(moving: Moving, checkpoint: Checkpoint) -> None:
    """Bring model, optimizer, scaler, average and step back to where the checkpoint was taken."""
    load_weights(moving.model, checkpoint.weights)
    parameters = [p for group in moving.optimizer.param_groups for p in group["params"]]
    for name, value in checkpoint.state.items():
        kind, _, rest = name.partition("/")
        if kind != "optimizer":
            continue
        index, _, key = rest.partition("/")
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:  # fused kernels read state in the memory order of the parameter
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        moving.optimizer.state[parameter][key] = value.to(parameter.device)
    if moving.average is not None:
        moving.average.load({k[8:]: v for k, v in checkpoint.state.items() if k.startswith("average/")})
    if moving.scaler is not None and "scaler" in checkpoint.counters:
        moving.scaler.load_state_dict(checkpoint.counters["scaler"])
    moving.step = checkpoint.step


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load weights, or say which names or shapes do not fit.

    Raises:
        RunError: when they belong to another network.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:200]
        raise RunError(
            "the weights do not fit the network",
            expected="the model they were trained with",
            next_step=f"Name it with --model, or undo what changed in its code ({detail}).",
        ) from None


def _state_tensors(moving: Moving) -> dict[str, Tensor]:
    parameters = [p for group in moving.optimizer.param_groups for p in group["params"]]
    tensors = {}
    for index, parameter in enumerate(parameters):
        for key, value in moving.optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{key}"] = value
    if moving.average is not None:
        tensors |= {f"average/{k}": v for k, v in moving.average.state().items()}
    return tensors


def _write(folder: Path, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    from safetensors.torch import save as to_bytes

    # Clones part tensors that share memory (tied weights); contiguous because the format has no strides.
    data = to_bytes({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()})
    write_bytes(folder / name, data)
    return {"file": name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def _link(source: Path, name: Path) -> None:
    """A second name for a file, replaced in one step; a copy where the disk knows no links."""
    temp = name.with_name(f".{name.name}.{os.getpid()}.tmp")
    try:
        temp.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            temp.hardlink_to(source)
        if not temp.exists():
            temp.write_bytes(source.read_bytes())
        temp.replace(name)
        temp.unlink(missing_ok=True)  # rename does nothing when both already are the same file
    except OSError as error:
        with contextlib.suppress(OSError):
            temp.unlink(missing_ok=True)
        raise run_error(name, error) from error


def _generations(folder: Path) -> list[dict[str, Any]]:
    if not exists(folder):
        return []
    try:
        manifest = json.loads((folder / "manifest.json").read_text(), object_hook=_unspelt)
        if manifest["format"] == FORMAT and isinstance(manifest["generations"], list):
            return manifest["generations"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise RunError(
        f"{folder.parent.name}/checkpoints/manifest.json cannot be read",
        expected=f"a checkpoint manifest of format {FORMAT}",
        next_step="Train again, or copy the file from a backup.",
    )


def _verified(path: Path, sha256: str) -> bytes | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return data if hashlib.sha256(data).hexdigest() == sha256 else None
