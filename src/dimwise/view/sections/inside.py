"""Inside the network: filters, feature maps, gradients and updates per layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dimwise.view import figures, tiles
from dimwise.view.files import RunFiles
from dimwise.view.page import Safe, clean, el, join
from dimwise.view.picture import figure, svg
from dimwise.view.story import mapping
from dimwise.view.strings import Words
from dimwise.view.units import number

MAX_MAP_LAYERS = 6
MAX_MAPS = 32


def section(run: RunFiles, say: Words) -> Safe:
    """Nothing for a run that recorded none of it."""
    return join((_filters(run, say), _maps(run, say), _layers(run, say)))


def _strip(pictures: Sequence[tiles.Tile], label: str, side_px: int) -> Safe:
    """Tiles in a row that wraps; one text for all of them."""
    attrs = {"alt": "", "width": side_px, "height": side_px}
    images = [el("img", attrs=attrs | {"src": tiles.data_uri(tile, side_px=side_px)}) for tile in pictures]
    return el("div", *images, cls="strip", attrs={"role": "img", "aria-label": clean(label)})


def _filters(run: RunFiles, say: Words) -> Safe:
    weights = run.array("filters", 4)
    if weights is None:
        return Safe("")
    pictures = tiles.filters(weights)
    values = {"n": len(pictures), "all": len(weights), "shape": f"{weights.shape[2]}×{weights.shape[3]}"}
    strip = _strip(pictures, say("alt_filters", values), 44)
    caption = say("filters_colour" if weights.shape[1] == 3 else "filters_signed", values)
    return join((el("h3", say("filters_title")), figure(strip, caption)))


def _maps(run: RunFiles, say: Words) -> Safe:
    names = run.pictures.get("map_names")
    found = []
    for i in range(MAX_MAP_LAYERS):
        maps = run.array(f"maps_{i}", 3)
        if maps is None:
            continue
        known = names is not None and names.ndim == 1 and i < len(names) and names.dtype.kind == "U"
        name = str(names[i]) if known and names is not None else f"{i + 1}"
        shape = f"{maps.shape[0]} × {maps.shape[1]} × {maps.shape[2]}"
        title = el("h4", el("span", name, cls="mono"), " ", el("span", shape, cls="soft"))
        label = say("alt_maps", {"n": min(len(maps), MAX_MAPS), "name": name})
        found.append(join((title, _strip(tiles.feature_maps(maps, at_most=MAX_MAPS), label, 44))))
    if not found:
        return Safe("")
    source = run.array("map_input", 3)
    first: object = ""
    if source is not None:
        uri = tiles.data_uri(tiles.photo(source), side_px=72)
        image = el("img", attrs={"src": uri, "alt": say("alt_map_input"), "width": 72, "height": 72})
        first = el("div", el("h4", say("map_input")), image, cls="source")
    return join((el("h3", say("maps_title")), el("p", say("maps_intro"), cls="note"), first, join(found)))


def _layers(run: RunFiles, say: Words) -> Safe:
    drawn = []
    for key in ("grad_norms", "update_ratios"):
        epochs, rows = layer_rows(run, key)
        if not rows:
            continue
        picture = figures.layer_heat(epochs, rows, say(f"{key}_title"), language=say.language)
        label = say(f"alt_{key}", {"n": len(rows), "epochs": len(epochs)})
        drawn.append(figure(svg(picture, key.replace("_", ""), label), say(f"{key}_caption")))
    return join((el("h3", say("layers_title")), el("div", *drawn, cls="pair"))) if drawn else Safe("")


def layer_rows(run: RunFiles, key: str) -> tuple[list[int], Mapping[str, Sequence[float | None]]]:
    """One row of numbers per layer over the epochs, thinned to 200 epochs."""
    pairs = [(n, mapping(r.get(key))) for n, r in zip(run.history.numbers, run.history.epochs, strict=True)]
    pairs = [(n, values) for n, values in pairs if values]
    if not pairs:
        return [], {}
    if len(pairs) > 200:
        pairs = [pairs[i] for i in np.linspace(0, len(pairs) - 1, 200).round().astype(int)]
    layers = dict.fromkeys(layer for _, values in pairs for layer in values)
    rows = {layer: [number(values.get(layer)) for _, values in pairs] for layer in layers}
    shown = {layer: row for layer, row in rows.items() if any(v is not None and v > 0 for v in row)}
    return [n for n, _ in pairs], shown
