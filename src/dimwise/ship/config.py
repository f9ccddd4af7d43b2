"""What shipping may be told: the runtime's threads and how close an artifact must come to its model."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dimwise.recipe import config


@config
class ShipConfig:
    """How a model is exported, served and proven equal."""

    opset: Annotated[int, Field(ge=18, le=23)] = 18
    """ONNX operator set of the graph. Default: the one torch's exporter is written in; higher ones are converted."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """Threads of one inference. Default: 1, since small networks lose more by handing over work than they gain."""
    parity_tolerance: Annotated[float, Field(gt=0)] = 1e-4
    """Largest difference of a float32 artifact, as a fraction of the outputs' norm. Default: 1000 roundings."""
    parity_int8_tolerance: Annotated[float, Field(gt=0)] = 1.0
    """The same for an int8 artifact. Default: as far off as outputs are large; beyond that it is another function."""
    parity_max_score_drop: Annotated[float, Field(ge=0, le=1)] = 0.005
    """Score an artifact may lose on the test set, 0 to 1. Default: half a point; at 0 one rounded tie would fail."""
    batches: Annotated[tuple[Annotated[int, Field(ge=1, le=100_000)], ...], Field(min_length=1)] = (1, 3, 64)
    """Batch sizes at which parity is tested. Default: one, an odd one, a full one; the export itself sees 2."""
