"""ReduceLROnPlateau stepped with the validation loss, early stopping, best weights restored at the end."""

import copy

import torch
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split
from torch import nn

torch.manual_seed(0)
X, y = load_iris(return_X_y=True)
Xt, Xv, yt, yv = train_test_split(X, y, test_size=0.3, random_state=0, stratify=y)
m, s = Xt.mean(0), Xt.std(0)
Xt, Xv = (torch.tensor((a - m) / s, dtype=torch.float32) for a in (Xt, Xv))
yt, yv = torch.tensor(yt), torch.tensor(yv)
net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
opt = torch.optim.Adam(net.parameters(), lr=0.02)
sched = torch.optim.lr_scheduler.ReduceLROnPlateau(opt, factor=0.5, patience=2)
best, best_state, bad = float("inf"), None, 0
for epoch in range(60):
    net.train()
    for idx in torch.randperm(len(Xt)).split(16):
        opt.zero_grad()
        nn.functional.cross_entropy(net(Xt[idx]), yt[idx]).backward()
        opt.step()
    net.eval()
    with torch.no_grad():
        val = nn.functional.cross_entropy(net(Xv), yv).item()
    sched.step(val)
    if val < best:
        best, best_state, bad = val, copy.deepcopy(net.state_dict()), 0
    else:
        bad += 1
        if bad == 6:
            break
net.load_state_dict(best_state)
print(epoch, best)
