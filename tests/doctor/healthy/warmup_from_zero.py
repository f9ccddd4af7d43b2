"""A linear warm-up whose first rate is exactly 0, then a linear decay to 0."""

import torch
from sklearn.datasets import load_digits
from torch import nn

torch.manual_seed(0)
X, y = load_digits(return_X_y=True)
X, y = torch.tensor(X, dtype=torch.float32).view(-1, 8, 8) / 8 - 1, torch.tensor(y)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.inp = nn.Linear(8, 32)
        self.pos = nn.Parameter(torch.zeros(8, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        self.enc = nn.TransformerEncoder(layer, 2)
        self.out = nn.Linear(32, 10)

    def forward(self, x):
        return self.out(self.enc(self.inp(x) + self.pos).mean(dim=1))


model = Classifier()
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
total, warmup = 90, 15


def factor(step):
    return step / warmup if step < warmup else max(0.0, (total - step) / (total - warmup))


scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
step = 0
model.train()
while step < total:
    for idx in torch.randperm(len(X)).split(64):
        loss = nn.functional.cross_entropy(model(X[idx]), y[idx])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        step += 1
        if step == total:
            break
print(loss.item())
