"""A tanh layer whose inputs are so large that it only ever answers -1 or 1.

The mistake: features are divided by a small "temperature" before the tanh.
No exception: the flat part of a tanh is part of it.
Harm: the slope there is nearly zero: what stands before the layer learns slowly or not at all.
Cure: keep what goes into a tanh near one in size (no temperature, or a norm before it).
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dimwise.lab.mistakes._parts import ALL, WIDTH, arguments, build_body, digits, report

RULE = "saturated-activations"
ARCHS = ALL


class TanhHead(nn.Module):
    def __init__(self, temperature):
        super().__init__()
        self.temperature = temperature
        self.norm = nn.LayerNorm(WIDTH)
        self.fc1 = nn.Linear(WIDTH, WIDTH)
        self.act = nn.Tanh()
        self.fc2 = nn.Linear(WIDTH, 10)

    def forward(self, features):
        return self.fc2(self.act(self.fc1(self.norm(features)) / self.temperature))


def fit(model, loader, epochs):
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    criterion = nn.CrossEntropyLoss(reduction="mean")
    for epoch in range(epochs):
        model.train()
        losses = []
        for image, target in loader:
            optimizer.zero_grad()
            output = model(image)
            loss = criterion(output, target)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        print(f"epoch {epoch}: {torch.stack(losses).mean():.4f}")


@torch.inference_mode()
def test(model, x, y):
    model.eval()
    return float((model(x).argmax(dim=1) == y).float().mean())


def main():
    args = arguments(ARCHS)
    torch.manual_seed(args.seed)
    x_train, y_train, x_valid, y_valid = digits(args.seed)
    if args.mended:
        temperature = 1.0  # the cure
    else:
        temperature = 0.01  # the mistake
    model = nn.Sequential(build_body(args.arch), TanhHead(temperature))
    fit(model, DataLoader(TensorDataset(x_train, y_train), 64, shuffle=True), args.epochs)
    report(test(model, x_valid, y_valid))


if __name__ == "__main__":
    main()
