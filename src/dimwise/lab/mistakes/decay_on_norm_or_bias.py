"""Weight decay pulls on norm layers and biases too.

The mistake: all parameters in one group with decay.
No exception: decay is a number per group.
Harm: hardly any; scales of norm layers are drawn to zero for no reason, a fraction of a point in long runs.
Cure: two groups; parameters of one dimension get no decay.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dimwise.lab.mistakes._parts import ALL, WIDTH, Network, accuracy, arguments, build_body, digits, report

RULE = "decay-on-norm-or-bias"
ARCHS = ALL


def groups(model, decay, mended):
    if mended:  # the cure
        matrices = [p for p in model.parameters() if p.dim() >= 2]
        vectors = [p for p in model.parameters() if p.dim() < 2]
        return [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    else:
        return [{"params": list(model.parameters()), "weight_decay": decay}]  # the mistake


def main(arch, seed, epochs, mended, **_):
    torch.manual_seed(seed)
    x_train, y_train, x_valid, y_valid = digits(seed)
    head = nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))
    model = Network(build_body(arch), head)
    optimizer = torch.optim.AdamW(groups(model, 0.1, mended), lr=3e-3)
    criterion = nn.CrossEntropyLoss()
    loader = DataLoader(TensorDataset(x_train, y_train), batch_size=64, shuffle=True)
    for epoch in range(epochs):
        model.train()
        for inputs, targets in loader:
            loss = criterion(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: {accuracy(model, x_valid, y_valid):.4f}")
    report(accuracy(model, x_valid, y_valid))


if __name__ == "__main__":
    main(**vars(arguments(ARCHS)))
