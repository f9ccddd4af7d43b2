"""LoRA: the base is frozen, B starts at zero, so A gets no gradient in the first step."""

import torch
from sklearn.datasets import load_digits
from torch import nn

torch.manual_seed(0)
X, y = load_digits(return_X_y=True)
X, y = torch.tensor(X, dtype=torch.float32) / 8 - 1, torch.tensor(y)


class LoRALinear(nn.Module):
    def __init__(self, base, r=4, alpha=8):
        super().__init__()
        self.base = base
        for p in self.base.parameters():
            p.requires_grad = False
        self.A = nn.Parameter(torch.randn(r, base.in_features) / base.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(base.out_features, r))
        self.scale = alpha / r

    def forward(self, x):
        return self.base(x) + self.scale * (x @ self.A.t() @ self.B.t())


net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
pre = torch.optim.Adam(net.parameters(), lr=1e-3)
for idx in torch.randperm(1000).split(50) * 2:
    loss = nn.functional.cross_entropy(net(X[idx]), (y[idx] + 1) % 10)
    pre.zero_grad()
    loss.backward()
    pre.step()

for i in (0, 2, 4):
    net[i] = LoRALinear(net[i])
opt = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=5e-3)
for epoch in range(4):
    for idx in torch.randperm(1500).split(50):
        opt.zero_grad()
        nn.functional.cross_entropy(net(X[idx]), y[idx]).backward()
        opt.step()
    with torch.no_grad():
        print(epoch, (net(X[1500:]).argmax(1) == y[1500:]).float().mean().item())
