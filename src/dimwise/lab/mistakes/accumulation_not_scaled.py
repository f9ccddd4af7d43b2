"""Gradients of several small batches are added, but the loss is not divided by their number.

The mistake: ``loss.backward()`` for four micro-batches, then one step with the sum rather than the mean.
No exception: a sum is as good a gradient as any.
Harm: with SGD the rate is in truth four times what is written; with Adam almost nothing is seen.
Cure: ``(loss / n_accumulate).backward()``.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dimwise.lab.mistakes._parts import ALL, accuracy, arguments, build, digits, report

RULE = "accumulation-not-scaled"
ARCHS = ALL

N_ACCUMULATE = 4


def main():
    args = arguments(ARCHS)
    torch.manual_seed(args.seed)
    x_train, y_train, x_valid, y_valid = digits(args.seed)
    # 1437 // 16 = 89 batches; the last is left out so that every step sees four of them.
    x_train, y_train = x_train[: 88 * 16], y_train[: 88 * 16]
    loader = DataLoader(TensorDataset(x_train, y_train), batch_size=16, shuffle=True)
    model = build(args.arch)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.08, momentum=0.9)

    for epoch in range(args.epochs):
        model.train()
        optimizer.zero_grad()
        for i, (images, labels) in enumerate(loader):
            loss = criterion(model(images), labels)
            if args.mended:
                loss = loss / N_ACCUMULATE  # the cure
            else:
                loss = loss / 1  # the mistake: four losses are added as they are
            loss.backward()
            if (i + 1) % N_ACCUMULATE == 0:
                optimizer.step()
                optimizer.zero_grad()
        print(f"epoch {epoch}: {accuracy(model, x_valid, y_valid):.4f}")
    report(accuracy(model, x_valid, y_valid))


if __name__ == "__main__":
    main()
