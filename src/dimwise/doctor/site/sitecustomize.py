"""Python imports this at start-up, in the script under watch and in every process it starts; it waits for PyTorch.

The folder of this file is put first on PYTHONPATH by ``dimwise doctor``. So the script runs as ``python SCRIPT.py``
would run it: same ``__main__``, same arguments, same folder. Nothing happens in a process that never imports torch.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

_HERE = str(Path(__file__).resolve().parent)


class _AfterTorch(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Lets PyTorch be imported as usual and begins to watch right after."""

    def __init__(self) -> None:
        self.loader: Any = None

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("torch")
        if spec is None or spec.loader is None:
            return spec
        self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: Any) -> Any:
        return self.loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__loader__ = module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        try:
            from dimwise.doctor import inside

            inside.begin()
        except Exception as error:  # noqa: BLE001 - the script must run, watched or not
            sys.stderr.write(f"dimwise doctor: cannot watch process {os.getpid()}: {error}\n")


def _next_sitecustomize() -> None:
    """The one that ours hides, if there is one, runs as it would have."""
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None and Path(spec.origin or "").resolve() != Path(__file__).resolve():
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


sys.path[:] = [p for p in sys.path if str(Path(p or os.curdir).resolve()) != _HERE]
if os.environ.get("DIMWISE_DOCTOR"):
    sys.meta_path.insert(0, _AfterTorch())
_next_sitecustomize()
