"""What an artifact says about files: pictures, arrays, tables, texts. Needs NumPy and onnxruntime, and no torch.

Reading is not written twice: pictures, tables and texts go through the functions that the training data went through.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dimwise.errors import ArtifactError, DataError
from dimwise.ship.manifest import Artifact, Manifest, read

Array = NDArray[Any]
_INPUT_KEYS = ("inputs", "x", "X", "images", "data", "x_test", "test_x", "test_images", "images_test")
_ARRAYS, _TABLES = (".npy", ".npz"), (".csv", ".csv.gz", ".tsv", ".tsv.gz")


def predict(
    folder: str | Path,
    files: Sequence[str | Path],
    *,
    top: int = 3,
    threads: int = 1,
    batch_size: int = 64,
    allow_unknown: bool = False,
) -> list[dict[str, Any]]:
    """Classify (or estimate from) files with an artifact.

    Pictures are turned, made grey or colour, and resized as the manifest says. ``.npy`` and ``.npz`` hold raw inputs,
    one or many. A CSV table has the columns of the training table; others are ignored. An artifact for texts takes a
    text itself, or a file of them: .txt holds one a line, a table the columns of the training files.

    Args:
        folder: the artifact.
        files: at least one picture, array, table or text.
        top: how many of the most probable classes to list, at least 1.
        threads: threads of one inference.
        batch_size: rows at once; bounds the memory.
        allow_unknown: in tables, take a category that training never saw as none of the known ones.

    Returns:
        One row per input, in order, of plain JSON values:
        classification: {"file", "index", "label", "probability", "top": [{"label", "probability"}…]};
        multilabel: {"file", "index", "labels": those above 1/2, "probabilities": {label: probability}};
        regression: {"file", "index", "values": {label: value}} in the unit of the training targets.
        ``index`` counts the inputs of one file from 0.

    Raises:
        ArtifactError: when the artifact is damaged, failed its parity check, or gives something not finite.
        DataError: naming the file that cannot be read or does not fit, and what would; or the unknown category.
    """
    from dimwise.ship.runtime import session

    artifact = read(folder)
    manifest = artifact.manifest
    _refuse_failed(artifact)
    if not files:
        raise DataError(
            f"no files were given to '{manifest.name}'", expected=_wanted(manifest), next_step="Name at least one file."
        )
    runner = session(artifact.model_path, threads=threads)
    rows = []
    for names, batch in _batches(files, manifest, batch_size, allow_unknown):
        outputs = runner.run(batch)
        _refuse_strange(outputs, names, artifact)
        rows += [
            {"file": file, "index": index, **answer}
            for (file, index), answer in zip(names, answers(outputs, manifest, top=top), strict=True)
        ]
    return rows


def answers(outputs: Array, manifest: Manifest, *, top: int = 3) -> Iterator[dict[str, Any]]:
    """Raw scores as what they mean for the task of the manifest.

    classification: p_k = exp(z_k) / Σ_j exp(z_j); multilabel: p_k = 1 / (1 + exp(−z_k)); regression: y = z·std + mean.

    Args:
        outputs: (N, K) float32 raw scores.
        manifest: task, labels, and for regression the unit of the targets.
        top: classes to list.

    Returns:
        N dictionaries, see :func:`predict`.
    """
    labels, scores = manifest.labels, outputs.astype(np.float64)
    if manifest.task == "classification":
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        for p in powers / powers.sum(axis=1, keepdims=True):
            best = np.argsort(-p, kind="stable")[: max(1, top)]
            listed = [{"label": labels[k], "probability": float(p[k])} for k in best]
            yield {**listed[0], "top": listed}
    elif manifest.task == "multilabel":
        for p in 0.5 * (1 + np.tanh(0.5 * scores)):  # the sigmoid, without overflow
            told = {label: float(p_k) for label, p_k in zip(labels, p, strict=True)}
            yield {"labels": [label for label, p_k in told.items() if p_k > 0.5], "probabilities": told}
    else:
        target = manifest.input["reading"].get("target", {"mean": [0.0], "std": [1.0]})
        for y in scores * np.array(target["std"]) + np.array(target["mean"]):
            yield {"values": {label: float(value) for label, value in zip(labels, y, strict=True)}}


def _refuse_failed(artifact: Artifact) -> None:
    if artifact.manifest.status == "failed":
        raise ArtifactError(
            f"'{artifact.folder}' failed its parity check: it does not compute what its model computes",
            expected="an artifact of status ok",
            next_step="Use another artifact of the run, or export again.",
        )


def _refuse_strange(outputs: Array, names: Sequence[tuple[str, int]], artifact: Artifact) -> None:
    n_labels = len(artifact.manifest.labels)
    if outputs.ndim != 2 or outputs.shape[1] != n_labels:
        raise ArtifactError(
            f"'{artifact.folder}' gives outputs of shape {outputs.shape} for {len(names)} inputs",
            expected=f"{n_labels} outputs each, one a label of its manifest",
            next_step="Export the artifact again.",
        )
    strange = np.flatnonzero(~np.isfinite(outputs).all(axis=1))
    if len(strange):
        file, index = names[strange[0]]
        raise ArtifactError(
            f"'{artifact.folder}' gives outputs that are not finite for {file}, input {index}",
            expected="finite scores",
            next_step="Look at that input; if it is sound, train and export again.",
        )


def _batches(
    files: Sequence[str | Path], manifest: Manifest, batch_size: int, allow_unknown: bool
) -> Iterator[tuple[list[tuple[str, int]], Array]]:
    """Rows of all files, joined and cut to the batch size, with (file, index in the file) of each."""
    names: list[tuple[str, int]] = []
    parts: list[Array] = []
    for file in files:
        found = _read(file, manifest, allow_unknown)  # (n, ...)
        for at in range(0, len(found), batch_size):
            part = found[at : at + batch_size]
            if names and len(names) + len(part) > batch_size:
                yield names, np.concatenate(parts)
                names, parts = [], []
            names.extend((str(file), index) for index in range(at, at + len(part)))
            parts.append(part)
    yield names, np.concatenate(parts)


def _read(file: str | Path, manifest: Manifest, allow_unknown: bool) -> Array:
    """The raw inputs of one file (or of one text), (n, ...), of the dtype of the manifest."""
    path = Path(file)
    if manifest.input["reading"].get("kind") == "text" and not path.name.lower().endswith(_ARRAYS):
        return _fitting(_texts(str(file), manifest), path, manifest)
    if not path.is_file():
        what = f"{path} is a folder" if path.is_dir() else f"there is no file {path}"
        raise DataError(what, expected=_wanted(manifest))
    kind = manifest.input["reading"].get("kind", "array")
    name = path.name.lower()
    if name.endswith(_ARRAYS):
        return _fitting(_load(path), path, manifest)
    if kind == "table" and name.endswith(_TABLES):
        return _fitting(_table(path, manifest, allow_unknown), path, manifest)
    if kind == "image" and not name.endswith(_TABLES):
        return _fitting(_picture(path, manifest)[None], path, manifest)
    raise DataError(f"{path} is of a kind that '{manifest.name}' does not take", expected=_wanted(manifest))


def _texts(said: str, manifest: Manifest) -> Array:
    """Tokens of a file of texts, or of the text that was said: anything that is not called like such a file."""
    from dimwise.data.text import SUFFIXES, encode, read_texts

    vocabulary, _ = _reading(manifest, "vocabulary", "max_tokens")
    reading = manifest.input["reading"]
    if not isinstance(vocabulary, list) or not all(isinstance(word, str) for word in vocabulary):
        raise ArtifactError(
            f"the vocabulary in the manifest of '{manifest.name}' is no list of words",
            expected="what data.source = text writes",
            next_step="Export the artifact again.",
        )
    if not said.lower().endswith(SUFFIXES):
        return encode([said], reading)
    if not Path(said).is_file():
        raise DataError(f"there is no file {said}", expected=_wanted(manifest))
    return encode(read_texts(Path(said), reading), reading)


def _picture(path: Path, manifest: Manifest) -> Array:
    from dimwise.data.picture import read_picture

    channels, height, width = _reading(manifest, "channels", "height", "width")
    return read_picture(path, channels=channels, height=height, width=width)


def _table(path: Path, manifest: Manifest, allow_unknown: bool) -> Array:
    from dimwise.data.table import apply, read_csv, refuse_unknown

    (encoder,) = _reading(manifest, "encoder")
    columns = read_csv(path)
    try:
        encoded = apply(encoder, columns)
        if not allow_unknown:
            refuse_unknown(encoder, columns)
        return encoded
    except DataError as error:
        unknown = "training never saw" in error.what
        step = "Correct it, or pass --allow-unknown to take it as none of them." if unknown else error.next_step
        raise DataError(f"{path}: {error.what}", expected=error.expected, next_step=step) from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"the encoder in the manifest of '{manifest.name}' cannot be used ({type(error).__name__}: {error})",
            expected="what data.source = csv writes",
            next_step="Export the artifact again.",
        ) from None


def _reading(manifest: Manifest, *keys: str) -> list[Any]:
    reading = manifest.input["reading"]
    missing = [key for key in keys if key not in reading]
    if missing:
        raise ArtifactError(
            f"the manifest of '{manifest.name}' does not say the {missing[0]} of its input",
            expected=f"input.reading with {', '.join(keys)}",
            next_step="Export the artifact again, or give the inputs as .npy.",
        )
    return [reading[key] for key in keys]


def _load(path: Path) -> Array:
    """The array of a ``.npy``, or the inputs of a ``.npz``; never anything pickled."""
    import zipfile
    import zlib

    try:
        with path.open("rb") as file:  # np.load alone leaves a broken file open
            found = np.load(file, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return found
            names = found.files
            chosen = names[0] if len(names) == 1 else next((key for key in _INPUT_KEYS if key in names), None)
            if chosen is not None:
                return found[chosen]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = "it holds Python objects" if "allow_pickle" in str(error) else str(error)
        raise DataError(
            f"{path} cannot be read ({reason})", expected="an array of numbers, as numpy.save writes"
        ) from None
    raise DataError(
        f"{path} holds {', '.join(names) or 'nothing'}", expected="one array, or one of: " + ", ".join(_INPUT_KEYS)
    )


def _fitting(found: Array, path: Path, manifest: Manifest) -> Array:
    """An array as a batch of raw inputs: shape, then numbers."""
    batch = _shaped(found, manifest.input_shape)
    if batch is None:
        raise DataError(f"{path} has shape {found.shape}", expected=_wanted(manifest))
    if not len(batch):
        raise DataError(f"{path} holds no inputs", expected="at least one")
    dtype = manifest.input["dtype"]
    if batch.dtype.kind not in "iufb":
        raise DataError(f"{path} holds {batch.dtype}", expected=f"numbers that fit {dtype}")
    if dtype == "uint8":
        if batch.dtype.kind == "f":
            raise DataError(
                f"{path} holds {batch.dtype}",
                expected="uint8, raw pixels from 0 to 255: the model normalises them itself",
                next_step="If they are fractions: (255 * x).round().astype('uint8').",
            )
        if batch.size and (batch.min() < 0 or batch.max() > 255):
            raise DataError(f"{path} holds values from {batch.min()} to {batch.max()}", expected="0 to 255")
        return np.ascontiguousarray(batch, np.uint8)
    if dtype == "int64":
        n_tokens = len(manifest.input["reading"].get("vocabulary", ())) or 2**63
        if batch.dtype.kind == "f" or (batch.size and (batch.min() < 0 or batch.max() >= n_tokens)):
            held = "fractions" if batch.dtype.kind == "f" else f"values from {batch.min()} to {batch.max()}"
            raise DataError(f"{path} holds {held}", expected=f"whole token numbers from 0 to {n_tokens - 1}")
    with np.errstate(over="ignore"):  # what overflows is found below
        made = np.ascontiguousarray(batch, dtype)
    finite = np.isfinite(made.reshape(len(made), -1)).all(axis=1)
    if not finite.all():
        raise DataError(
            f"{path} holds NaN or infinity in {(~finite).sum()} of {len(finite)} inputs, first in {finite.argmin()}",
            expected=f"finite {dtype}",
            next_step="Fill or drop those inputs.",
        )
    return made


def _shaped(found: Array, shape: tuple[int, ...]) -> Array | None:
    """(n, *shape), from one input or many; pictures also with channels last, or without the only channel."""
    if found.shape[1:] == shape and found.ndim > 0:
        return found
    if found.shape == shape:
        return found[None]
    if len(shape) == 3:
        channels, *size = shape
        for batch in (found, found[None]):
            if batch.shape[1:] == (*size, channels):
                return batch.transpose(0, 3, 1, 2)
            if channels == 1 and batch.shape[1:] == tuple(size):
                return batch[:, None]
    return None


def _wanted(manifest: Manifest) -> str:
    """What files the artifact takes, in words."""
    shape = "×".join(map(str, manifest.input_shape))
    arrays = f".npy or .npz of {manifest.input['dtype']}, {shape} or N×{shape}"
    kinds: dict[str, Iterable[str]] = {
        "image": ("a picture", arrays),
        "table": ("a CSV table", arrays),
        "text": ("a text", "a .txt, .tsv or .csv of texts", arrays),
    }
    return ", or ".join(kinds.get(manifest.input["reading"].get("kind", "array"), (arrays,)))
