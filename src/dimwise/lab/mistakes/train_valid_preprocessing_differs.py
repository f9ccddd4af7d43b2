"""Training images are standardised, validation images only divided by 16.

The mistake: two preprocessings, written in two places.
No exception: both give tensors of the right shape.
Harm: the network is right and the score is wrong, and so will be the one in use.
Cure: one function for both, with numbers from the training part.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dimwise.lab.mistakes._parts import ALL, arguments, build, raw_digits, report

RULE = "train-valid-preprocessing-differs"
ARCHS = ALL


def evaluate(model, loader):
    model.eval()
    n_right = n = 0
    with torch.no_grad():
        for images, labels in loader:
            n_right += (model(images).argmax(1) == labels).sum()
            n += len(labels)
    return float(n_right) / n


def main():
    args = arguments(ARCHS)
    torch.manual_seed(args.seed)
    x_train, y_train, x_valid, y_valid = (torch.from_numpy(part) for part in raw_digits(args.seed))
    mean, std = x_train.mean(), x_train.std()

    def standardise(images):
        return ((images - mean) / std).unsqueeze(1)

    train_set = TensorDataset(standardise(x_train), y_train)
    if args.mended:
        valid_set = TensorDataset(standardise(x_valid), y_valid)  # the cure
    else:
        valid_set = TensorDataset((x_valid / 16).unsqueeze(1), y_valid)  # the mistake

    train_loader = DataLoader(train_set, batch_size=64, shuffle=True)
    valid_loader = DataLoader(valid_set, batch_size=64)
    model = build(args.arch)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(args.epochs):
        model.train()
        for images, labels in train_loader:
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: valid {evaluate(model, valid_loader):.4f}")
    report(evaluate(model, valid_loader))


if __name__ == "__main__":
    main()
