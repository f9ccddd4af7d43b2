"""Gradients are clipped at a moment when clipping changes nothing.

The mistake: ``clip_grad_norm_`` after ``optimizer.step()`` (or, ``--variant before-backward``, before ``backward``).
No exception: clipping what has been used, or what is not there yet, is legal.
Harm: none as long as no gradient is large; the protection that one believes in is not there.
Cure: clip between ``backward`` and ``step``.
"""

import torch
import torch.nn.functional as F
from torch.nn.utils import clip_grad_norm_

from dimwise.lab.mistakes._parts import ALL, accuracy, arguments, build, digits, report

RULE = "clip-without-effect"
ARCHS = ALL
VARIANTS = ("after-step", "before-backward")


def update(model, optimizer, x, y, mended, variant):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    if mended:
        loss.backward()
        clip_grad_norm_(model.parameters(), 0.5)  # the cure
        optimizer.step()
    elif variant == "after-step":
        loss.backward()
        optimizer.step()
        clip_grad_norm_(model.parameters(), 0.5)  # the mistake
    else:
        clip_grad_norm_(model.parameters(), 0.5)  # the mistake
        loss.backward()
        optimizer.step()
    return loss.detach()


def main():
    args = arguments(ARCHS, variants=VARIANTS)
    torch.manual_seed(args.seed)
    x_train, y_train, x_valid, y_valid = digits(args.seed)
    model = build(args.arch)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for epoch in range(args.epochs):
        model.train()
        order = torch.randperm(len(x_train)).split(64)
        losses = [update(model, optimizer, x_train[rows], y_train[rows], args.mended, args.variant) for rows in order]
        print(f"epoch {epoch}: {torch.stack(losses).mean():.4f}")
    report(accuracy(model, x_valid, y_valid))


if __name__ == "__main__":
    main()
