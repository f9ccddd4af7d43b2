"""One class is rare, and the loss does not know.

The task: find the eights; most of them are missing, as in any search for something rare.
The mistake: plain cross-entropy on a set with a few percent of positives.
No exception: any mixture is legal.
Harm: accuracy looks excellent while the rare class is missed; the balanced accuracy (mean of both recalls) shows it.
Cure: weights against the frequencies (or a sampler), and a score that sees both classes.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dimwise.lab.mistakes._parts import ALL, arguments, build, digits, report

RULE = "class-imbalance"
ARCHS = ALL


def balanced_accuracy(model, x, y):
    model.eval()
    with torch.no_grad():
        found = model(x).argmax(1)
    return float((found[y == 1] == 1).float().mean() + (found[y == 0] == 0).float().mean()) / 2


def main():
    args = arguments(ARCHS)
    torch.manual_seed(args.seed)
    x_train, y_train, x_valid, y_valid = digits(args.seed)
    eight, eight_valid = (y_train == 8).long(), (y_valid == 8).long()
    keep = (eight == 0) | (eight.cumsum(0) <= 30)  # the first thirty eights only
    x_train, eight = x_train[keep], eight[keep]
    counts = torch.bincount(eight).float()
    print("training images per class:", counts.tolist())
    if args.mended:
        criterion = nn.CrossEntropyLoss(weight=counts.sum() / (2 * counts))  # the cure
    else:
        criterion = nn.CrossEntropyLoss()  # the mistake
    model = build(args.arch, n_outputs=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    loader = DataLoader(TensorDataset(x_train, eight), batch_size=64, shuffle=True)
    for epoch in range(args.epochs):
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: {balanced_accuracy(model, x_valid, eight_valid):.4f}")
    report(balanced_accuracy(model, x_valid, eight_valid), "balanced_accuracy")


if __name__ == "__main__":
    main()
