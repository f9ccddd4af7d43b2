"""What an artifact folder says about itself, and the proof that its files are the ones it speaks of.

An artifact is a folder: ``model.onnx`` and ``manifest.json``. This module needs neither torch nor onnx.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dimwise import __version__
from dimwise.errors import ArtifactError, a_kind, nearest
from dimwise.runs.atomic import write_json

FORMAT = 1
MANIFEST = "manifest.json"
MODEL = "model.onnx"
STATUSES = ("untested", "ok", "failed")


@dataclass(frozen=True)
class Manifest:
    """What a reader must know to use the model, as plain JSON values."""

    name: str
    """Such as ``fp32`` or ``prune-int8``."""
    task: str
    """classification | multilabel | regression"""
    labels: tuple[str, ...]
    """Meaning of the K outputs, in order."""
    input: dict[str, Any]
    """{"name", "shape": [null, ...], "dtype", "reading"}; null: the batch, ``reading``: how a file becomes a row."""
    output: dict[str, Any]
    """{"name", "shape": [null, K], "dtype", "meaning"}"""
    preprocessing: dict[str, Any]
    """What the graph does with the raw input before the network: described, not to be done again."""
    files: dict[str, dict[str, Any]]
    """File name → {"sha256", "bytes"}."""
    source: dict[str, Any] = field(default_factory=dict)
    """Where it comes from: stage, recipe, run."""
    parity: dict[str, Any] | None = None
    """Result of the parity check, or None when there was none."""
    status: str = "untested"
    """untested | ok | failed: the verdict of the parity gate."""
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    dimwise: str = __version__
    format: int = FORMAT

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one raw input, without the batch."""
        return tuple(self.input["shape"][1:])


@dataclass(frozen=True)
class Artifact:
    """A deployable folder and its manifest."""

    folder: Path
    manifest: Manifest

    @property
    def model_path(self) -> Path:
        """The ONNX file."""
        return self.folder / MODEL

    @property
    def size_bytes(self) -> int:
        """Bytes of the files that are needed to serve, the manifest not counted."""
        return sum(int(entry["bytes"]) for entry in self.manifest.files.values())


def entry(data: bytes) -> dict[str, Any]:
    """A row of ``files`` for a file of this content.

    Example:
        >>> entry(b"abc")["sha256"][:8], entry(b"abc")["bytes"]
        ('ba7816bf', 3)
    """
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def write(folder: Path, manifest: Manifest) -> Artifact:
    """Write ``manifest.json`` whole or not at all.

    Raises:
        RunError: when the folder cannot be written.
    """
    write_json(folder / MANIFEST, dataclasses.asdict(manifest))
    return Artifact(folder, manifest)


def read(folder: str | Path) -> Artifact:
    """Read an artifact and check every file against its hash.

    Args:
        folder: the artifact's folder.

    Raises:
        ArtifactError: naming the file, when one is missing, changed, outside the folder or of an unknown format.
    """
    folder = Path(folder)
    manifest = _parse(folder)
    for name, told in manifest.files.items():
        _verify(folder, name, told)
    return Artifact(folder, manifest)


def _parse(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not folder.is_dir():
        raise ArtifactError(
            f"no artifact at '{folder}'",
            expected=f"a folder that holds {MODEL} and {MANIFEST}",
            next_step="Artifacts of a run lie under runs/<run>/artifacts/.",
        )
    try:
        tree = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ArtifactError(
            f"'{folder}' has no {MANIFEST}",
            expected=f"an artifact folder with {MODEL} and {MANIFEST}",
            next_step="Artifacts of a run lie under runs/<run>/artifacts/.",
        ) from None
    except (OSError, ValueError) as error:  # JSON and UTF-8 mistakes are ValueErrors
        raise _broken(path, f"cannot be read: {error}") from None
    if not isinstance(tree, dict):
        raise _broken(path, f"holds {a_kind(tree)}", "a JSON object")
    if tree.get("format") != FORMAT:
        raise ArtifactError(
            f"'{path}' has format {tree.get('format')!r}",
            expected=f"{FORMAT}, the one that dimwise {__version__} reads",
            next_step=f"dimwise {tree.get('dimwise', 'of unknown version')} wrote it: install that, or export again.",
        )
    return _checked(path, tree)


def _checked(path: Path, tree: dict[str, Any]) -> Manifest:
    """The manifest, when every value has the type that its readers rely on."""
    fields = {f.name: f for f in dataclasses.fields(Manifest)}
    for key in tree:
        if key not in fields:
            raise _broken(path, f"has the unknown key {key!r}", "one of: " + ", ".join(fields), nearest(key, fields))
    missing = [name for name in fields if name not in tree]
    if missing:
        raise _broken(path, f"lacks {', '.join(missing)}")
    for key, kind in _KINDS.items():
        if not isinstance(tree[key], kind):
            raise _broken(path, f"has {key} = {tree[key]!r}", f"a JSON {_JSON[kind]}")
    if not all(isinstance(label, str) for label in tree["labels"]) or not tree["labels"]:
        raise _broken(path, f"has labels = {tree['labels']!r}", "a list of at least one text")
    if tree["status"] not in STATUSES:
        raise _broken(path, f"has status = {tree['status']!r}", "one of: " + ", ".join(STATUSES))
    shape = tree["input"].get("shape")
    if not isinstance(shape, list) or not shape or not all(type(n) is int and n > 0 for n in shape[1:]):
        raise _broken(path, f"has input.shape = {shape!r}", "null for the batch, then whole numbers above 0")
    for key, kind in (("dtype", str), ("reading", dict)):
        if not isinstance(tree["input"].get(key), kind):
            raise _broken(path, f"has input.{key} = {tree['input'].get(key)!r}", f"a JSON {_JSON[kind]}")
    for name, told in tree["files"].items():
        _refuse_strange_name(path, name)
        if not isinstance(told, dict) or not isinstance(told.get("sha256"), str) or type(told.get("bytes")) is not int:
            raise _broken(path, f"has files[{name!r}] = {told!r}", '{"sha256": text, "bytes": number}')
    if MODEL not in tree["files"]:
        raise _broken(path, f"lists no {MODEL}")
    return Manifest(**{**tree, "labels": tuple(tree["labels"])})


_KINDS = {"name": str, "task": str, "labels": list, "input": dict, "output": dict, "preprocessing": dict, "files": dict}
_KINDS |= {"source": dict, "status": str, "created": str, "dimwise": str}
_JSON = {str: "string", list: "array", dict: "object"}


def _broken(path: Path, what: str, expected: str = "", hint: str = "") -> ArtifactError:
    return ArtifactError(
        f"'{path}' {what}", expected=expected, next_step=hint or "Export the artifact again, or copy it again whole."
    )


def _refuse_strange_name(path: Path, name: str) -> None:
    if name in ("", ".", "..") or any(c in name for c in "/\\:\0"):
        raise ArtifactError(
            f"'{path}' names the file {name!r}",
            expected="a plain file name: nothing outside the folder is read",
            next_step="Do not use this artifact unless you know who made it.",
        )


def _verify(folder: Path, name: str, told: dict[str, Any]) -> None:
    path = folder / name
    if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
        raise ArtifactError(
            f"'{path}' is a link to '{path.resolve()}'",
            expected="a file inside the artifact folder",
            next_step="Copy the file itself into the folder.",
        )
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ArtifactError(
            f"'{path}' cannot be read: {error.strerror}",
            expected=f"the file that {MANIFEST} lists",
            next_step="Copy the artifact again whole.",
        ) from None
    if found != told["sha256"]:
        raise ArtifactError(
            f"'{path}' has SHA-256 {found[:12]}…",
            expected=f"{told['sha256'][:12]}…, as {MANIFEST} says: the file was changed or cut off",
            next_step="Copy the artifact again whole, or export it again.",
        )
