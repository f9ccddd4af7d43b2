"""Validation builds graphs that nobody will ever walk back.

The mistake: no ``torch.no_grad()`` around validation.
No exception: a graph that is not used is simply freed.
Harm: none in the score; time, and memory for every activation of the validation batch.
Cure: ``with torch.no_grad():`` or ``@torch.no_grad()``.
"""

import contextlib

import torch
from torch import nn

from dimwise.lab.mistakes._parts import ALL, arguments, build, digits, report

RULE = "grad-in-validation"
ARCHS = ALL

args = arguments(ARCHS)
torch.manual_seed(args.seed)
x, y, xv, yv = digits(args.seed)
model = build(args.arch)
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.99))
criterion = nn.CrossEntropyLoss()

if args.mended:
    around_validation = torch.no_grad  # the cure
else:
    around_validation = contextlib.nullcontext  # the mistake

epoch = 0
while epoch < args.epochs:
    model.train()
    order = torch.randperm(len(x))
    for start in range(0, len(x), 64):
        take = order[start : start + 64]
        optimizer.zero_grad()
        loss = criterion(model(x[take]), y[take])
        loss.backward()
        optimizer.step()

    model.eval()
    with around_validation():
        logits = torch.cat([model(part) for part in xv.split(90)])
        valid_loss = criterion(logits, yv).item()
        valid_acc = (logits.argmax(1) == yv).sum().item() / len(yv)
    epoch += 1
    print(f"{epoch:3d}  loss {valid_loss:.3f}  acc {valid_acc:.3f}")

report(valid_acc)
