"""Predictions (N, 1) against targets (N,): the difference is a table (N, N).

The task: read the digit as a number, by least squares.
The mistake: the last dimension of the prediction is kept; broadcasting compares each image with every target.
No exception: broadcasting is legal (``nn.MSELoss`` would warn; written out, nothing does).
Harm: the best answer to all targets at once is their mean: the network learns a constant.
Cure: ``squeeze(1)``, so that both are (N,).
"""

import torch
from torch.utils.data import DataLoader, TensorDataset

from dimwise.lab.mistakes._parts import ALL, arguments, build, digits, report

RULE = "loss-broadcasts"
ARCHS = ALL


def squared_error(prediction, target):
    return ((prediction - target) ** 2).mean()


def main():
    args = arguments(ARCHS)
    torch.manual_seed(args.seed)
    x_train, y_train, x_valid, y_valid = digits(args.seed)
    centre, scale = y_train.float().mean(), y_train.float().std()
    t_train, t_valid = (y_train - centre) / scale, (y_valid - centre) / scale
    model = build(args.arch, n_outputs=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    loader = DataLoader(TensorDataset(x_train, t_train), batch_size=64, shuffle=True)

    for epoch in range(args.epochs):
        model.train()
        for x, target in loader:
            prediction = model(x)
            if args.mended:
                loss = squared_error(prediction.squeeze(1), target)  # the cure
            else:
                loss = squared_error(prediction, target)  # the mistake
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            error = squared_error(model(x_valid).squeeze(1), t_valid).item()
        print(f"epoch {epoch}: share of variance unexplained {error:.4f}")
    report(error, "loss")


if __name__ == "__main__":
    main()
