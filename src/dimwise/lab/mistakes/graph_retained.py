"""Losses are kept as tensors, and with them every graph they came from.

The mistake: ``history.append(loss)`` without ``detach``, for the whole run.
No exception: memory grows until there is none left.
Harm: none in the score; on a GPU the run dies after hours.
Cure: keep ``loss.detach()`` (or ``loss.item()`` now and then).
"""

import torch
import torch.nn.functional as F

from dimwise.lab.mistakes._parts import ALL, accuracy, arguments, build, digits, report

RULE = "graph-retained"
ARCHS = ALL


def run(args):
    x, y, x_valid, y_valid = digits(args.seed)
    model = build(args.arch)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    history = []

    def step(batch):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[batch]), y[batch])
        loss.backward()
        optimizer.step()
        return loss

    for epoch in range(args.epochs):
        model.train()
        for batch in torch.randperm(len(x)).split(64):
            loss = step(batch)
            if args.mended:
                history.append(loss.detach())  # the cure
            else:
                history.append(loss)  # the mistake
        with torch.no_grad():
            print(f"epoch {epoch}: mean loss so far {torch.stack(history).mean():.4f}")
    report(accuracy(model, x_valid, y_valid))


if __name__ == "__main__":
    arguments_given = arguments(ARCHS)
    torch.manual_seed(arguments_given.seed)
    run(arguments_given)
