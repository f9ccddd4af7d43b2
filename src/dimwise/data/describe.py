"""What is in a data set, in numbers and as a picture, and which sets there are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dimwise.data import SOURCES, data_folder
from dimwise.data.assemble import statistics
from dimwise.data.fetch import DOWNLOADS
from dimwise.data.find import where
from dimwise.data.sets import Data, Split
from dimwise.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

WHAT = {
    "digits": "1,797 handwritten digits, grey 8×8, 10 classes; comes with scikit-learn",
    "mnist": "70,000 handwritten digits, grey 28×28, 10 classes",
    "fashion": "70,000 pictures of clothes, grey 28×28, 10 classes",
    "cifar10": "60,000 photographs, colour 32×32, 10 classes",
    "cifar100": "60,000 photographs, colour 32×32, 100 classes",
    "sst2": "9,613 sentences of film reviews, positive or negative (Stanford Sentiment Treebank)",
    "npz": "your arrays: x_train, y_train, …, or inputs, targets (data.path)",
    "folder": "your pictures: one sub-folder a class (data.path)",
    "csv": "your table: a CSV file (data.path) and its target column (data.target)",
    "text": "your texts: a .tsv of text and label, or a folder with train.tsv, dev.tsv, test.tsv (data.path)",
}

N_EXAMPLES = 8
_TALLEST_PX = 1600


def describe(data: Data) -> dict[str, Any]:
    """Counts, shapes, balance and statistics of a data set, as plain JSON.

    Returns:
        ``name``, ``task``, ``labels``, ``input`` (shape, dtype, min, max, and mean and std of each channel or feature
        after scaling to 0 … 1 for bytes, for texts the size of the vocabulary, its most frequent words and the mean
        number of tokens; all of the training split), ``splits`` (for each: n, and counts of each class
        or mean and std of each target), ``imbalance`` (largest class / smallest class of the training split; None
        where there are no classes), ``notes``.

    Example:
        >>> from dimwise.data import DataConfig, load
        >>> told = describe(load(DataConfig(source="digits")))
        >>> told["splits"]["train"]["n"], told["input"]["shape"], told["input"]["dtype"]
        (1258, [1, 8, 8], 'uint8')
    """
    splits = {"train": data.train, "valid": data.valid, "test": data.test}
    told = {name: {"n": len(split), **_targets(split, data)} for name, split in splits.items()}
    counts = told["train"].get("classes", {}).values()
    return {
        "name": data.name,
        "task": data.task,
        "labels": list(data.labels),
        "input": {
            "shape": list(data.input_shape),
            "dtype": str(data.train.inputs.dtype).removeprefix("torch."),
            "min": data.train.inputs.min().item(),
            "max": data.train.inputs.max().item(),
            **_values(data),
        },
        "splits": told,
        "imbalance": max(counts) / max(1, min(counts)) if counts else None,
        "notes": list(data.notes),
    }


def _values(data: Data) -> dict[str, Any]:
    inputs = data.train.inputs
    if data.vocabulary:
        lengths = (inputs != 0).sum(1).double()
        known = data.reading["vocabulary"]
        return {"vocabulary": data.vocabulary, "frequent": known[2:22], "mean_tokens": lengths.mean().item()}
    _, mean, std = statistics(inputs)
    features = data.reading.get("encoder", {}).get("features")
    return {"mean": list(mean), "std": list(std), **({"features": features} if features else {})}


def _targets(split: Split, data: Data) -> dict[str, Any]:
    if data.task == "regression":
        target = data.reading["target"]
        values = split.targets.double() * torch.tensor(target["std"]) + torch.tensor(target["mean"])  # (N, K)
        pairs = zip(data.labels, values.mean(0).tolist(), values.std(0, correction=0).tolist(), strict=True)
        return {"targets": {label: {"mean": mean, "std": std} for label, mean, std in pairs}}
    if data.task == "multilabel":
        counts = split.targets.sum(0).long().tolist()
    else:
        counts = torch.bincount(split.targets, minlength=data.n_outputs).tolist()
    return {"classes": dict(zip(data.labels, counts, strict=True))}


def list_sources(data_dir: Path | None = None) -> list[dict[str, Any]]:
    """Every source, whether it is there, and what fetching would take.

    Returns:
        One dict a source: ``name``, ``what``, ``found`` (path as text, "built in", or "" when not there; None for
        the sources that are your own files), ``download_bytes`` (0 where nothing is fetched).

    Example:
        >>> [source["name"] for source in list_sources(Path("nowhere"))][:2]
        ['digits', 'mnist']
    """
    folder = data_folder(data_dir)
    told = []
    for name in SOURCES:
        found: str | None = None
        if name == "digits":
            found = "built in"
        elif name in DOWNLOADS:
            place = where(name, folder)
            found = "" if place is None else str(place)
        size = DOWNLOADS[name].size_bytes if name in DOWNLOADS else 0
        told.append({"name": name, "what": WHAT[name], "found": found, "download_bytes": size})
    return told


def contact_sheet(data: Data, path: Path) -> Path:
    """A PNG with the first eight training images of each class, each class in a line with its name and count.

    For regression: the images of the lowest to the highest targets in even steps, each with its value.

    Args:
        data: images, uint8 (N, 1 or 3, H, W).
        path: where to write; its folder is made.

    Raises:
        DataError: the inputs are no images.
    """
    inputs = data.train.inputs
    if inputs.dtype != torch.uint8 or inputs.dim() != 4 or inputs.shape[1] not in (1, 3):
        raise DataError(
            f"{data.name} has inputs {tuple(inputs.shape)} {inputs.dtype}",
            expected="images, uint8 (N, 1 or 3, H, W), for a contact sheet",
        )
    sheet = _draw([(label, inputs[chosen]) for label, chosen in _lines(data)], (inputs.shape[2], inputs.shape[3]))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, "PNG")
    return path


def _lines(data: Data) -> list[tuple[str, Tensor]]:
    """(text, indices of up to eight training images) for each line of the sheet."""
    targets = data.train.targets
    if data.task == "regression":
        order = targets[:, 0].argsort()
        spots = torch.linspace(0, len(order) - 1, min(8 * N_EXAMPLES, len(order))).long()
        mean, std = data.reading["target"]["mean"][0], data.reading["target"]["std"][0]
        lines = []
        for chosen in order[spots].split(N_EXAMPLES):
            low, high = (float(targets[i, 0]) * std + mean for i in (chosen[0], chosen[-1]))
            lines.append((f"{data.labels[0]}\n{low:.4g} to {high:.4g}", chosen))
        return lines
    lines = []
    for k, label in enumerate(data.labels):
        members = (targets[:, k] > 0.5 if targets.dim() == 2 else targets == k).nonzero()[:, 0]
        lines.append((f"{label}\n{len(members):,}", members[:N_EXAMPLES]))
    return lines


def _draw(lines: Sequence[tuple[str, Tensor]], size: tuple[int, int]) -> Image:
    from PIL import Image, ImageDraw, ImageFont

    height, width = size
    zoom = max(1, (64 if len(lines) <= 20 else 32) // max(height, width))
    cell_h, cell_w = min(height * zoom, 160), min(width * zoom, 160)
    font, gap, text_w = ImageFont.load_default(13), 4, 132
    line_h = max(cell_h, 34) + gap
    n_rows = max(1, min(len(lines), _TALLEST_PX // line_h))
    n_blocks = -(-len(lines) // n_rows)
    n_rows = -(-len(lines) // n_blocks)  # blocks of even length
    block_w = text_w + N_EXAMPLES * (cell_w + gap) + 3 * gap
    sheet = Image.new("RGB", (n_blocks * block_w + gap, n_rows * line_h + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (text, images) in enumerate(lines):
        left, top = gap + i // n_rows * block_w, gap + i % n_rows * line_h
        for row, words in enumerate(text.split("\n")):
            place = (left, top + cell_h // 2 - 16 + 16 * row)
            pen.text(place, _fitting(words, font, text_w - gap), fill=("black", "#666666")[row], font=font)
        for column, image in enumerate(images):
            picture = _picture(image)
            if picture.size != (cell_w, cell_h):
                enlarge = cell_w >= width
                picture = picture.resize(
                    (cell_w, cell_h), Image.Resampling.NEAREST if enlarge else Image.Resampling.BILINEAR
                )
            sheet.paste(picture, (left + text_w + column * (cell_w + gap), top))
    return sheet


def _fitting(text: str, font: Any, width_px: int) -> str:
    if font.getlength(text) <= width_px:
        return text
    while text and font.getlength(text + "…") > width_px:
        text = text[:-1]
    return text + "…"


def _picture(image: Tensor) -> Image:
    from PIL import Image as Images

    pixels = image.permute(1, 2, 0).numpy()  # (H, W, C)
    return Images.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels.copy())
