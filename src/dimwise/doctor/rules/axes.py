"""Rule of the family 'data' about the order of an image's axes."""

from __future__ import annotations

import re

from dimwise.doctor.finding import Finding, NotChecked
from dimwise.doctor.rules import reading
from dimwise.doctor.seen import RootSeen, Seen

IMAGE_SIDE = 8
"""Sides from which two equal leading axes are height and width rather than channels and something."""
SCRAMBLED = 1.4
"""How much more two values must differ a row apart as the network reads them than a row apart as channels-last memory
holds them. Photographs read rightly have about a half (three rows are further apart than one), reshaped ones more than
3, noise 1 (first 64 of CIFAR-10 and Flickr8k); this lies in the middle."""
RELATED = 0.75
"""... and what values a row apart in that order may differ over unrelated ones: noise and boards of pieces have 1,
photographs 0.2 to 0.5."""
SEVERAL = 8
"""Images before neighbouring values are compared."""
COLOURS = (1, 3, 4)
"""Channels of images: grey, RGB, RGBA."""


def wrong_axis_order(seen: Seen) -> list[Finding] | NotChecked:
    """Images with channels last fed to a convolution that takes channels first.

    Checked: PyTorch refused and the last axis has the channels it wanted (error); or the first convolution takes an
    image's height for its channels: equal first two axes of at least :data:`IMAGE_SIDE` and 1, 3 or 4 at the end
    (error), unequal ones with 3 or 4 (warning); or the images are noise as the convolution reads them and smooth if
    the same numbers are read channels last: they were reshaped where axes had to be swapped (error). Must not hit:
    channels first, spectrograms, board planes, sequences.
    """
    layouts = [(r, r.first_input_layout) for r in seen.roots.values() if r.first_input_layout]
    refused = _refused(seen)
    if not layouts and refused is None:
        return NotChecked("wrong-axis-order", "no convolution was seen")
    told = [refused] if refused else [_layout(r, told) or _scrambled(r, told) for r, told in layouts]
    return [f for f in told if f is not None]


def _scrambled(root: RootSeen, told: dict) -> Finding | None:
    read, last, unrelated = (told.get(k, 0.0) for k in ("row_apart", "row_apart_if_last", "unrelated"))
    shape = tuple(told.get("shape", ()))
    if not last or shape[0] < SEVERAL or read < SCRAMBLED * last or last > RELATED * unrelated:
        return None
    n, channels, height, width = shape
    return Finding(
        "wrong-axis-order",
        "error",
        "images were reshaped from channels last to channels first, which scrambles them",
        f"{told.get('kind')} '{told.get('path')}' got {shape}: values one row apart differ by {read:.2g}; read as "
        f"{(n, height, width, channels)} they differ by {last:.2g}, unrelated ones by {unrelated:.2g}",
        f"x.permute(0, 3, 1, 2) (NumPy: x.transpose(0, 3, 1, 2)) on {(n, height, width, channels)} in place of reshape "
        "or view",
        place=root.place,
        module=str(told.get("path") or "") or None,
        step=0,
    )


def _refused(seen: Seen) -> Finding | None:
    message = str((seen.error or {}).get("message", ""))
    said = re.search(r"expected input\[([\d, ]+)\] to have (\d+) channels, but got (\d+) channels", message)
    if not said:
        return None
    shape, wanted = [int(n) for n in said[1].split(",")], int(said[2])
    if len(shape) < 3 or shape[-1] != wanted or shape[1] == wanted:
        return None
    return _swapped(
        "error",
        f"the convolution wants {wanted} channels on axis 1 and got {shape[1]}; the last axis of {tuple(shape)} "
        f"has {wanted}",
        len(shape),
        reading.place_of((seen.error or {}).get("place")),
        None,
    )


def _layout(root: RootSeen, told: dict) -> Finding | None:
    shape = tuple(told.get("shape", ()))
    if (
        len(shape) < 4
        or shape[-1] not in COLOURS
        or told.get("in_channels") != shape[1]
        or min(shape[1:-1]) < IMAGE_SIDE
    ):
        return None
    square = len(set(shape[1:-1])) == 1
    if not square and (shape[-1] == 1 or min(shape[1:-1]) < 2 * IMAGE_SIDE):
        return None
    return _swapped(
        "error" if square else "warning",
        f"{told.get('kind')} '{told.get('path')}' got {shape} and takes axis 1, of {shape[1]}, for channels; the last "
        f"axis, of {shape[-1]}, looks like them",
        len(shape),
        root.place,
        str(told.get("path") or "") or None,
    )


def _swapped(severity: str, evidence: str, n_axes: int, place: object, module: str | None) -> Finding:
    order = ", ".join(str(n) for n in (0, n_axes - 1, *range(1, n_axes - 1)))
    return Finding(
        "wrong-axis-order",
        severity,  # type: ignore[arg-type]
        "images have their channels last, the network takes them first",
        evidence,
        f"x = x.permute({order}) before the network, and as many input channels as the image has",
        place=place,  # type: ignore[arg-type]
        module=module,
        step=0,
    )
