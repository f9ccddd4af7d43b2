"""No torch.optim: parameters are tensors, updated in place under no_grad, gradients set to None by hand."""

import torch
from sklearn.datasets import load_iris

torch.manual_seed(0)
X, y = load_iris(return_X_y=True)
X = torch.tensor((X - X.mean(0)) / X.std(0), dtype=torch.float32)
y = torch.tensor(y)
W1 = (torch.randn(4, 16) / 2).requires_grad_()
b1 = torch.zeros(16, requires_grad=True)
W2 = (torch.randn(16, 3) / 4).requires_grad_()
b2 = torch.zeros(3, requires_grad=True)
params = [W1, b1, W2, b2]
lr = 0.1
for epoch in range(20):
    for idx in torch.randperm(len(X)).split(15):
        logits = torch.relu(X[idx] @ W1 + b1) @ W2 + b2
        loss = torch.nn.functional.cross_entropy(logits, y[idx])
        loss.backward()
        with torch.no_grad():
            for p in params:
                p -= lr * p.grad
                p.grad = None
    if epoch % 5 == 0:
        print(epoch, loss.item())
