# Keep an eye on the activations: a hook on every ReLU, as in many a notebook

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn

EXPECTED = "wrapped-repeatedly"

torch.manual_seed(11)
features, labels = load_breast_cancer(return_X_y=True)
x_train, x_test, y_train, y_test = train_test_split(features, labels, test_size=0.25, random_state=11)
scaler = StandardScaler().fit(x_train)
x_train, x_test = (torch.tensor(scaler.transform(part), dtype=torch.float32) for part in (x_train, x_test))
y_train, y_test = (torch.tensor(part, dtype=torch.float32).unsqueeze(1) for part in (y_train, y_test))

model = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
criterion = nn.BCEWithLogitsLoss()
statistics = {}


def attach(model):
    for name, module in model.named_modules():
        if isinstance(module, nn.ReLU):

            def remember(module, inputs, output, name=name):
                statistics.setdefault(name, []).append(output.detach().mean())

            module.register_forward_hook(remember)


for epoch in range(6):
    attach(model)
    statistics.clear()
    model.train()
    for batch in torch.randperm(len(x_train)).split(32):
        loss = criterion(model(x_train[batch]), y_train[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        accuracy = ((model(x_test) > 0) == y_test.bool()).float().mean()
    shown = {name: f"{torch.stack(values).mean():.3f}" for name, values in statistics.items()}
    print(f"{epoch}: accuracy {accuracy:.3f}, mean activations {shown}")
