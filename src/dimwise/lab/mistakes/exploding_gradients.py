"""A plain recurrent network over many steps, started with large recurrent weights and trained without clipping.

The mistake: recurrent weights with a gain above one; the gradient is multiplied by them once per time step, so that
it grows like gain to the power of the length.
No exception: a huge gradient is a gradient.
Harm: some steps throw the weights far away; the loss jumps, and learning is poor or ends.
Cure: orthogonal recurrent weights (gain one) and ``clip_grad_norm_`` between backward and step.
Source: Pascanu, Mikolov, Bengio 2013, "On the difficulty of training recurrent neural networks".
"""

import torch
from torch import nn

from dimwise.lab.mistakes._parts import ALL, accuracy, arguments, digits, report

RULE = "exploding-gradients"
ARCHS = ALL


class Reader(nn.Module):
    """A front end of each kind makes 32 small steps of an image; a vanilla RNN reads them one by one."""

    def __init__(self, arch):
        super().__init__()
        self.arch = arch
        if arch == "cnn":
            self.front = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d((1, 2)))
        elif arch == "lstm":
            self.front = nn.LSTM(2, 8, batch_first=True)
        else:
            self.front = nn.Sequential(
                nn.Linear(8, 32),
                nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True),
            )
        self.rnn = nn.RNN(8, 48, batch_first=True)
        self.head = nn.Linear(48, 10)

    def forward(self, x):
        if self.arch == "cnn":
            steps = self.front(x).flatten(2).transpose(1, 2)
        elif self.arch == "lstm":
            steps, _ = self.front(x.reshape(len(x), 32, 2))
        else:
            steps = self.front(x.squeeze(1)).reshape(len(x), 32, 8)
        states, _ = self.rnn(steps)
        return self.head(states[:, -1])


def main():
    args = arguments(ARCHS)
    torch.manual_seed(args.seed)
    x_train, y_train, x_valid, y_valid = digits(args.seed)
    model = Reader(args.arch)
    if args.mended:
        nn.init.orthogonal_(model.rnn.weight_hh_l0)  # the cure, its first half
        largest_norm = 1.0
    else:
        nn.init.orthogonal_(model.rnn.weight_hh_l0, gain=3.0)  # the mistake
        largest_norm = None
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    criterion = nn.CrossEntropyLoss()
    for epoch in range(args.epochs):
        model.train()
        for rows in torch.randperm(len(x_train)).split(64):
            optimizer.zero_grad()
            loss = criterion(model(x_train[rows]), y_train[rows])
            loss.backward()
            if largest_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), largest_norm)  # the cure, its second half
            optimizer.step()
        print(f"epoch {epoch}: {accuracy(model, x_valid, y_valid):.4f}")
    report(accuracy(model, x_valid, y_valid))


if __name__ == "__main__":
    main()
