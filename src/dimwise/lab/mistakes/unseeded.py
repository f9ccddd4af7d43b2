"""No seed is set: nobody can repeat the run.

The mistake: weights, order and dropout come from a seed that nobody chose.
No exception: PyTorch picks one by itself.
Harm: none in the mean; two runs differ, and a difference between two ideas may be luck.
Cure: ``torch.manual_seed(seed)`` before the first random number.
"""

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from dimwise.lab.mistakes._parts import ALL, accuracy, arguments, build, digits, report

RULE = "unseeded"
ARCHS = ALL


def main(seed, arch, epochs, mended):
    if mended:
        torch.manual_seed(seed)  # the cure
    else:
        pass  # the mistake: each run is another one
    x_train, y_train, x_valid, y_valid = digits(seed)
    model = build(arch)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    loader = DataLoader(TensorDataset(x_train, y_train), 64, shuffle=True, drop_last=True)
    for epoch in range(epochs):
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        print(f"epoch {epoch}: {accuracy(model, x_valid, y_valid):.4f}")
    report(accuracy(model, x_valid, y_valid))


if __name__ == "__main__":
    args = arguments(ARCHS)
    main(args.seed, args.arch, args.epochs, args.mended)
