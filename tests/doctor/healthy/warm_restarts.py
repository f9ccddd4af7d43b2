"""Cosine warm restarts with fractional epochs: step(epoch + i / n); the rate falls to nearly zero and jumps back."""

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn

torch.manual_seed(0)
X, y = load_breast_cancer(return_X_y=True)
Xt, Xv, yt, yv = train_test_split(X, y, random_state=0, stratify=y)
sc = StandardScaler().fit(Xt)
Xt, Xv = (torch.tensor(sc.transform(a), dtype=torch.float32) for a in (Xt, Xv))
yt, yv = torch.tensor(yt, dtype=torch.float32), torch.tensor(yv, dtype=torch.float32)
net = nn.Sequential(nn.Linear(30, 32), nn.SiLU(), nn.Linear(32, 1))
opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
sched = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(opt, T_0=2, T_mult=2, eta_min=1e-6)
batches = 14
for epoch in range(6):
    net.train()
    perm = torch.randperm(len(Xt))
    for i, idx in enumerate(perm.chunk(batches)):
        opt.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(net(Xt[idx]).squeeze(1), yt[idx])
        loss.backward()
        opt.step()
        sched.step(epoch + i / batches)
    net.eval()
    with torch.no_grad():
        print(epoch, ((net(Xv).squeeze(1) > 0) == yv.bool()).float().mean().item())
