"""SimCLR/CLIP style: an N x N table of similarities, the label of row i is i, two noisy views."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader

torch.manual_seed(0)
images = torch.tensor(load_digits().data, dtype=torch.float32) / 8 - 1


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32))

    def forward(self, x):
        return F.normalize(self.net(x), dim=1)


def view(x):
    return x + 0.3 * torch.randn_like(x)


left, right = Encoder(), Encoder()
log_scale = nn.Parameter(torch.tensor(2.0))
opt = torch.optim.AdamW([*left.parameters(), *right.parameters(), log_scale], lr=1e-3)
for epoch in range(4):
    for x in DataLoader(images, batch_size=64, shuffle=True, drop_last=True):
        a, b = left(view(x)), right(view(x))
        logits = log_scale.exp() * a @ b.t()
        labels = torch.arange(len(x))
        loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.t(), labels)) / 2
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
