"""Each epoch changes the stored training images once more.

The mistake: ``__getitem__`` normalises in place, and what it works on is not a copy but the stored image itself.
No exception: in-place arithmetic on data is legal.
Harm: the first epoch sees normalised images, the second ones normalised twice, ...; with a deviation below one they
grow without limit, and validation data are spoilt in the same way each time they are read.
Cure: arithmetic that makes a new tensor.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from dimwise.lab.mistakes._parts import ALL, arguments, build, raw_digits, report

RULE = "input-mutated"
ARCHS = ALL


class Digits(Dataset):
    def __init__(self, images, labels, mean, std, mended):
        self.images = torch.from_numpy(images / 16)[:, None]
        self.labels = torch.from_numpy(labels)
        self.mean, self.std = mean, std
        self.mended = mended

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        image = self.images[i]
        if self.mended:
            image = (image - self.mean) / self.std  # the cure
        else:
            image.sub_(self.mean).div_(self.std)  # the mistake
        return image, self.labels[i]


def evaluate(model, loader):
    model.eval()
    right = []
    with torch.no_grad():
        for x, y in loader:
            right.append(model(x).argmax(1) == y)
    return torch.cat(right).float().mean().item()


def main():
    args = arguments(ARCHS)
    torch.manual_seed(args.seed)
    x_train, y_train, x_valid, y_valid = raw_digits(args.seed)
    mean, std = float(x_train.mean() / 16), float(x_train.std() / 16)
    train = DataLoader(Digits(x_train, y_train, mean, std, args.mended), batch_size=64, shuffle=True)
    valid = DataLoader(Digits(x_valid, y_valid, mean, std, args.mended), batch_size=64)
    model = build(args.arch)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(args.epochs):
        model.train()
        for x, y in train:
            loss = criterion(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        score = evaluate(model, valid)
        print(f"epoch {epoch}: {score:.4f}")
    report(score)


if __name__ == "__main__":
    main()
