"""Many sigmoid layers in a row: the gradient shrinks by at least four in each of them.

The mistake: a deep plain stack of sigmoids; the slope of a sigmoid is at most 1/4.
No exception: a gradient of nearly zero is a gradient.
Harm: the layers far from the loss do not move, and what reaches them of the image is noise.
Cure: a path around each layer (residual links) and an activation with slope one.
Source: Hochreiter 1991; Glorot and Bengio 2010; He et al. 2016.
"""

import torch
import torch.nn.functional as F
from torch import nn

from dimwise.lab.mistakes._parts import ALL, WIDTH, accuracy, arguments, build_body, digits, report

RULE = "vanishing-gradients"
ARCHS = ALL

DEPTH = 8


class Residual(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return x + self.layer(x)


def build_stack(mended):
    if mended:
        blocks = [Residual(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU())) for _ in range(DEPTH)]  # the cure
    else:
        blocks = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Sigmoid()) for _ in range(DEPTH)]  # the mistake
    return nn.Sequential(*blocks, nn.Linear(WIDTH, 10))


class Experiment:
    def __init__(self, args):
        torch.manual_seed(args.seed)
        self.x, self.y, self.x_valid, self.y_valid = digits(args.seed)
        self.net = nn.Sequential(build_body(args.arch), build_stack(args.mended))
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-3)

    def epoch(self):
        self.net.train()
        for rows in torch.randperm(len(self.x)).split(64):
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.net(self.x[rows]), self.y[rows])
            loss.backward()
            self.optimizer.step()
        return accuracy(self.net, self.x_valid, self.y_valid)


if __name__ == "__main__":
    args = arguments(ARCHS)
    experiment = Experiment(args)
    for number in range(args.epochs):
        score = experiment.epoch()
        print(f"epoch {number}: {score:.4f}")
    report(score)
