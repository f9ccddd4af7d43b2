"""Images of the validation part are in the training part too.

The mistake: the set is doubled first and split afterwards, so that most validation images have a twin in training.
No exception: nobody compares the two parts.
Harm: the score is too good: it measures memory.
Cure: split first; double the training part only.
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from dimwise.lab.mistakes._parts import ALL, accuracy, arguments, build, report

RULE = "train-valid-leak"
ARCHS = ALL


def twice(x, y):
    return torch.cat([x, x]), torch.cat([y, y])


def load(seed, mended):
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels)
    if mended:
        train, valid = train_test_split(torch.arange(len(x)), test_size=0.2, random_state=seed)
        (x_train, y_train), (x_valid, y_valid) = twice(x[train], y[train]), (x[valid], y[valid])  # the cure
    else:
        x, y = twice(x, y)  # the mistake: before the split
        train, valid = train_test_split(torch.arange(len(x)), test_size=0.2, random_state=seed)
        x_train, y_train, x_valid, y_valid = x[train], y[train], x[valid], y[valid]
    mean, std = x_train.mean(), x_train.std()
    return (x_train - mean) / std, y_train, (x_valid - mean) / std, y_valid


def main():
    args = arguments(ARCHS, epochs=3)
    torch.manual_seed(args.seed)
    x_train, y_train, x_valid, y_valid = load(args.seed, args.mended)
    model = build(args.arch)
    loss_fn = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(args.epochs):
        model.train()
        for rows in torch.randperm(len(x_train)).split(64):
            loss = loss_fn(model(x_train[rows]), y_train[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: {accuracy(model, x_valid, y_valid):.4f}")
    report(accuracy(model, x_valid, y_valid))


if __name__ == "__main__":
    main()
