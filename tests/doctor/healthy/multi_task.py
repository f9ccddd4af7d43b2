"""One body, two heads, two losses with weights; for rows without the second label that head gets no gradient."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
X, y = load_digits(return_X_y=True)
X, y = torch.tensor(X, dtype=torch.float32) / 16, torch.tensor(y)
ink = X.sum(1, keepdim=True) / 20
known = torch.rand(len(X)) < 0.3
loader = DataLoader(TensorDataset(X, y, ink, known), batch_size=32, shuffle=True)


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
        self.digit = nn.Linear(64, 10)
        self.ink = nn.Linear(64, 1)

    def forward(self, x):
        h = self.body(x)
        return self.digit(h), self.ink(h)


model = TwoHeads()
opt = torch.optim.Adam(model.parameters(), lr=2e-3)
ce, mse = nn.CrossEntropyLoss(), nn.MSELoss(reduction="none")
for epoch in range(4):
    for x, d, i, k in loader:
        logits, pred = model(x)
        loss = ce(logits, d) + 0.5 * (mse(pred, i).squeeze(1) * k).sum() / k.sum().clamp(min=1)
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
