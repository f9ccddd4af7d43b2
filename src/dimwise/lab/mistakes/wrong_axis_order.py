"""Images with their channel last go into a network that wants it first.

The mistake: the array is (N, 8, 8, 1); a lazy convolution takes the eight rows for eight channels and one column.
No exception: a lazy layer fits itself to whatever comes (without it: a convolution that expects three channels would
complain, unless the image is three pixels high).
Harm: convolutions mix rows as if they were colours; some of the picture survives, so that it learns, worse.
Cure: ``permute(0, 3, 1, 2)``.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dimwise.lab.mistakes._parts import ALL, accuracy, arguments, digits, report

RULE = "wrong-axis-order"
ARCHS = ALL


class Net(nn.Module):
    """A convolution, then a reader of its map: more convolutions, or an LSTM or a Transformer along the rows."""

    def __init__(self, arch):
        super().__init__()
        self.arch = arch
        self.stem = nn.Sequential(nn.LazyConv2d(32, 3, padding=1), nn.ReLU())
        if arch == "cnn":
            self.reader = nn.Sequential(
                nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
            )
        elif arch == "lstm":
            self.reader = nn.LSTM(32, 64, batch_first=True)
        else:
            self.reader = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.LazyLinear(10)

    def forward(self, x):
        maps = self.stem(x)
        if self.arch == "cnn":
            return self.head(self.reader(maps))
        rows = maps.mean(3).transpose(1, 2)
        if self.arch == "lstm":
            return self.head(self.reader(rows)[1][0][-1])
        return self.head(self.reader(rows).flatten(1))


def main():
    args = arguments(ARCHS)
    torch.manual_seed(args.seed)
    x_train, y_train, x_valid, y_valid = digits(args.seed)
    images, images_valid = x_train.permute(0, 2, 3, 1), x_valid.permute(0, 2, 3, 1)  # as image files are read
    if args.mended:
        images, images_valid = images.permute(0, 3, 1, 2), images_valid.permute(0, 3, 1, 2)  # the cure
    else:
        pass  # the mistake: channels stay last
    model = Net(args.arch)
    model(images[:2])  # lazy layers learn their shapes
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    loader = DataLoader(TensorDataset(images, y_train), batch_size=64, shuffle=True)
    for epoch in range(args.epochs):
        model.train()
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: {accuracy(model, images_valid, y_valid):.4f}")
    report(accuracy(model, images_valid, y_valid))


if __name__ == "__main__":
    main()
