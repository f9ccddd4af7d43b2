"""A Transformer reads a digit row by row, with the multiplicative Gaussian noise of Srivastava et al. as dropout."""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

EXPECTED = "dropout-in-eval"


class GaussianDropout(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.alpha = p / (1 - p)

    def forward(self, x):
        return x * (1 + self.alpha**0.5 * torch.randn_like(x))


class RowTransformer(nn.Module):
    def __init__(self, dim, p):
        super().__init__()
        self.embed = nn.Linear(8, dim)
        self.position = nn.Parameter(torch.zeros(8, dim))
        self.drop = GaussianDropout(p)
        self.block = nn.TransformerEncoderLayer(dim, 4, 2 * dim, dropout=0.0, batch_first=True)
        self.head = nn.Linear(dim, 10)

    def forward(self, x):
        x = self.drop(self.embed(x) + self.position)
        return self.head(self.block(x).mean(dim=1))


def evaluate(model, x, y, size):
    model.eval()
    hits = 0
    with torch.inference_mode():
        for first in range(0, len(x), size):
            hits += (model(x[first : first + size]).argmax(1) == y[first : first + size]).sum().item()
    return hits / len(x)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--p", type=float, default=0.3)
    args = parser.parse_args()
    torch.manual_seed(5)
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32) / 16 - 0.3
    y = torch.tensor(digits.target)
    order = torch.randperm(len(x))
    train, valid = order[:1440], order[1440:]
    model = RowTransformer(32, args.p)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    criterion = nn.CrossEntropyLoss()
    for epoch in range(args.epochs):
        model.train()
        for batch in train[torch.randperm(len(train))].split(args.batch_size):
            optimizer.zero_grad()
            loss = criterion(model(x[batch]), y[batch])
            loss.backward()
            optimizer.step()
        print(epoch, loss.item(), evaluate(model, x[valid], y[valid], 100))


if __name__ == "__main__":
    main()
