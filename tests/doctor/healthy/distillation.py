"""Knowledge distillation: a teacher in eval under no_grad, softened softmaxes go into a KL divergence."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
X, y = load_digits(return_X_y=True)
data = TensorDataset(torch.tensor(X, dtype=torch.float32) / 16, torch.tensor(y))
train_set, test_set = torch.utils.data.random_split(data, [1400, 397])
train, test = DataLoader(train_set, 64, shuffle=True), DataLoader(test_set, 397)
teacher = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))
student = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)
for _ in range(4):
    for xb, yb in train:
        opt.zero_grad()
        F.cross_entropy(teacher(xb), yb).backward()
        opt.step()

teacher.eval()
opt = torch.optim.Adam(student.parameters(), lr=5e-3)
T, alpha = 4.0, 0.7
for epoch in range(4):
    student.train()
    for xb, yb in train:
        with torch.no_grad():
            soft = F.softmax(teacher(xb) / T, dim=1)
        logits = student(xb)
        kd = F.kl_div(F.log_softmax(logits / T, dim=1), soft, reduction="batchmean") * T * T
        loss = alpha * kd + (1 - alpha) * F.cross_entropy(logits, yb)
        opt.zero_grad()
        loss.backward()
        opt.step()
    student.eval()
    with torch.no_grad():
        for xb, yb in test:
            print(epoch, (student(xb).argmax(1) == yb).float().mean().item())
