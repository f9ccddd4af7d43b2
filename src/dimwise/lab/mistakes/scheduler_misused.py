"""The schedule runs at the wrong pace, or before the optimizer.

The mistake: ``--variant per-batch``: a schedule meant per epoch is stepped per batch, the rate is nothing after a few
batches; ``per-epoch``: a one-cycle schedule made for all steps is stepped once per epoch and never leaves its
warm-up; ``before-optimizer``: ``scheduler.step()`` comes before ``optimizer.step()``, the first rate is skipped.
No exception: a scheduler only counts how often it is called; PyTorch warns about the third, once.
Harm: training stops early or never gets to speed; the third costs one step's rate, nothing that one sees.
Cure: step the schedule as often as it was made for, after the optimizer.
"""

import torch
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR, OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

from dimwise.lab.mistakes._parts import ALL, accuracy, arguments, build, digits, report

RULE = "scheduler-misused"
ARCHS = ALL
VARIANTS = ("per-batch", "per-epoch", "before-optimizer")


def main():
    args = arguments(ARCHS, variants=VARIANTS)
    torch.manual_seed(args.seed)
    x_train, y_train, x_valid, y_valid = digits(args.seed)
    loader = DataLoader(TensorDataset(x_train, y_train), batch_size=64, shuffle=True)
    model = build(args.arch)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=6e-3)
    if args.variant == "per-batch":
        scheduler = ExponentialLR(optimizer, gamma=0.7)
    else:
        scheduler = OneCycleLR(optimizer, max_lr=6e-3, epochs=args.epochs, steps_per_epoch=len(loader))

    per_epoch_is_right = args.variant == "per-batch"
    for epoch in range(args.epochs):
        model.train()
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            if args.mended:
                optimizer.step()
                if not per_epoch_is_right:
                    scheduler.step()  # the cure: after the optimizer, once for each step of the cycle
            elif args.variant == "per-batch":
                optimizer.step()
                scheduler.step()  # the mistake: its gamma was meant for epochs
            elif args.variant == "per-epoch":
                optimizer.step()
            else:
                scheduler.step()  # the mistake: before the optimizer
                optimizer.step()
        if args.mended and per_epoch_is_right:
            scheduler.step()  # the cure: once per epoch
        elif not args.mended and args.variant == "per-epoch":
            scheduler.step()  # the mistake: the cycle was made for steps
        print(f"epoch {epoch}: lr {scheduler.get_last_lr()[0]:.2g}, {accuracy(model, x_valid, y_valid):.4f}")
    report(accuracy(model, x_valid, y_valid))


if __name__ == "__main__":
    main()
