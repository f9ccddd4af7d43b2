"""A wide ReLU network with negative biases and an L1 price on activations: most outputs are zero, on purpose."""

import torch
from sklearn.datasets import load_digits
from torch import nn

torch.manual_seed(0)
X, y = load_digits(return_X_y=True)
X, y = torch.tensor(X, dtype=torch.float32) / 16, torch.tensor(y)


class SparseNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc = nn.Linear(64, 256)
        nn.init.constant_(self.enc.bias, -0.3)
        self.dec = nn.Linear(256, 10)

    def forward(self, x):
        code = torch.relu(self.enc(x))
        return self.dec(code), code


net = SparseNet()
opt = torch.optim.Adam(net.parameters(), lr=2e-3)
for epoch in range(4):
    for idx in torch.randperm(len(X)).split(64):
        logits, code = net(X[idx])
        loss = nn.functional.cross_entropy(logits, y[idx]) + 1e-3 * code.abs().sum(1).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item(), (code == 0).float().mean().item())
