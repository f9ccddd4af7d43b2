"""The peers, each called as its README says. Run by the peers' Python; it imports nothing of ours."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _peer_loop import Loop, Peer, Said, parameters
from torch import Tensor, nn


class TorchAudit(Peer):
    """``autopatch(model, optimizer=...)`` before the loop, every step audited, ``finish()`` after it."""

    def __init__(self) -> None:
        import torch_audit

        self.patch = torch_audit.autopatch
        self.auditors: dict[int, Any] = {}

    def before_call(self, loop: Loop, model: nn.Module) -> None:
        if loop.optimizers and id(model) not in self.auditors:
            ours = {id(p) for p in model.parameters()}
            fitting = [o for o in loop.optimizers if any(id(p) in ours for p in parameters(o))]
            optimizer = (fitting or loop.optimizers)[-1]
            self.auditors[id(model)] = self.patch(model, optimizer=optimizer, every_n_steps=1)

    def findings(self) -> Said:
        found = [f for auditor in self.auditors.values() for f in auditor.finish().findings]
        # The first message of each rule stands for all of its kind.
        first = {f.rule_id: f for f in reversed(found)}
        return [(rule, f.severity.value, f.message) for rule, f in first.items()]


class TorchTest(Peer):
    """``check_model`` on the first batch, with the script's loss and optimizer; the script ends there."""

    def __init__(self) -> None:
        import torchtest2

        self.check = torchtest2.check_model
        self.said: Said = []

    def before_backward(self, loop: Loop, loss: Tensor) -> None:
        loss_fn, targets = loop.criterion(loss)
        args = loop.calls[0].args
        inputs = args[0] if len(args) == 1 else args
        try:
            # Ranks end their checks after unlike numbers of steps: the network is checked without its wrapper.
            model = loop.model()
            while isinstance(model, nn.parallel.DistributedDataParallel):
                model = model.module
            report = self.check(model, inputs, targets, loss_fn=loss_fn, optimizer=loop.optimizer())
            self.said = [(r.name, r.status.value, r.message) for r in (*report.failures, *report.warnings)]
        finally:
            loop.leave()

    def findings(self) -> Said:
        return self.said


class Guardtower(Peer):
    """``audit`` on the batch of the first step, as its README does, and of a later one; ``monitor`` from the start.

    The later one lies in the second epoch, past the first evaluation. The script ends soon after: the README keeps its
    monitor on "for the first steps".
    """

    STEPS = (1, 40)
    LAST = 60

    def __init__(self) -> None:
        import guardtower

        self.tower = guardtower
        self.said: dict[tuple[str, str], str] = {}
        self.monitors: dict[int, Any] = {}

    def before_call(self, loop: Loop, model: nn.Module) -> None:
        if loop.optimizers and id(model) not in self.monitors:
            self.monitors[id(model)] = self.tower.monitor(model, on_nonfinite="warn").__enter__()

    def before_backward(self, loop: Loop, loss: Tensor) -> None:
        if loop.n_steps > self.LAST:
            loop.leave()
        if loop.n_steps not in self.STEPS:
            return
        model, optimizer = loop.model(), loop.optimizer()
        batch = tuple(a.detach().clone() if isinstance(a, Tensor) else a for a in loop.calls[0].args)
        held = [*model.parameters(), *(parameters(optimizer) if optimizer else ())]
        gradients = [p.grad for p in held]
        try:
            with torch.random.fork_rng():
                step = lambda: loop.loss_of(model(*batch), loss)  # noqa: E731 - as the README writes it
                report = self.tower.audit(model, step, optimizer=optimizer, inputs=batch)
        finally:
            for p, gradient in zip(held, gradients, strict=True):
                p.grad = gradient
        for f in report.findings:
            if f.severity.label != "INFO" or f.check == "frozen":
                self.said.setdefault((f.check, f.severity.label), f.message)

    def findings(self) -> Said:
        said = [(rule, level, message) for (rule, level), message in self.said.items()]
        hits = [hit for one in self.monitors.values() for hit in one.hits]
        return [*said, *([("monitor", "WARN", f"non-finite activation in module '{hits[0]}'")] if hits else [])]


class TrainProof(Peer):
    """A log as trainers write it (mean loss of some steps, rate, gradient norm, times), then ``trainproof doctor``."""

    EVERY = 5

    def __init__(self) -> None:
        self.records: list[dict[str, float]] = []
        self.kept: list[dict[str, float]] = []
        self.evaluations: list[float] = []
        self.last_s = time.perf_counter()
        self.loading_s = 0.0
        self._watch_loaders()

    def _watch_loaders(self) -> None:
        from torch.utils.data.dataloader import _BaseDataLoaderIter

        plain = _BaseDataLoaderIter.__next__

        def following(iterator: Any) -> Any:
            start_s = time.perf_counter()
            try:
                return plain(iterator)
            finally:
                self.loading_s += time.perf_counter() - start_s

        _BaseDataLoaderIter.__next__ = following  # type: ignore[method-assign]

    def before_backward(self, loop: Loop, loss: Tensor) -> None:
        if self.evaluations:
            mean = sum(self.evaluations) / len(self.evaluations)
            self.records.append({"step": loop.n_steps - 1, "eval_loss": mean})
            self.evaluations = []
        now_s = time.perf_counter()
        optimizer = loop.optimizer()
        one = {"loss": float(loss.detach().mean()), "time": time.time()}
        one |= {"step_time": now_s - self.last_s, "loader_time": self.loading_s}
        one |= {"lr": float(optimizer.param_groups[0]["lr"]), "grad_norm": 0.0} if optimizer else {}
        self.last_s, self.loading_s = now_s, 0.0
        self.kept.append(one)
        if len(self.kept) > self.EVERY:
            self._write(loop.n_steps - 1, self.kept[: self.EVERY])
            self.kept = self.kept[self.EVERY :]

    def _write(self, step: int, kept: list[dict[str, float]]) -> None:
        """One line of the log, as HF's Trainer writes them: the mean of losses and times, the last of the rest."""
        means = {key: sum(one[key] for one in kept) / len(kept) for key in ("loss", "step_time", "loader_time")}
        self.records.append({"step": step, **kept[-1], **means})

    def after_backward(self, loop: Loop) -> None:
        self._measure(loop)

    def before_step(self, loop: Loop) -> None:
        self._measure(loop)

    def _measure(self, loop: Loop) -> None:
        optimizer = loop.optimizer()
        if self.kept and optimizer:
            norms = [float(p.grad.norm()) for p in parameters(optimizer) if p.grad is not None]
            self.kept[-1]["grad_norm"] = math.sqrt(sum(n * n for n in norms))

    def evaluated(self, loss: Tensor) -> None:
        self.evaluations.append(float(loss))

    def findings(self) -> Said:
        if self.evaluations and self.records:
            mean = sum(self.evaluations) / len(self.evaluations)
            self.records.append({"step": self.records[-1]["step"] + 1, "eval_loss": mean})
        if not self.records:
            return []
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log.jsonl"
            log.write_text("".join(json.dumps(one) + "\n" for one in self.records), "utf-8")
            command = [sys.executable, "-m", "trainproof", "doctor", "--json", str(log)]
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
        (report,) = json.loads(done.stdout)["reports"]
        return [
            (f["id"], f["level"], f"{f['message']} {f.get('evidence', '')}".strip())
            for f in report["findings"]
            if f["level"] in ("WARN", "FAIL")
        ]


PEERS: dict[str, Callable[[], Peer]] = {
    "torch-audit": TorchAudit,
    "torchtest2": TorchTest,
    "guardtower": Guardtower,
    "trainproof": TrainProof,
}
