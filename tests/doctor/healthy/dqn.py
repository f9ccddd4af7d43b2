"""DQN on a chain of states: replay buffer, epsilon-greedy actions under no_grad, a target network copied rarely."""

import copy
import random
from collections import deque

import torch
from torch import nn

random.seed(0)
torch.manual_seed(0)
N = 8
q_net = nn.Sequential(nn.Linear(N, 32), nn.ReLU(), nn.Linear(32, 2))
target_net = copy.deepcopy(q_net)
target_net.eval()
optimizer = torch.optim.Adam(q_net.parameters(), lr=1e-3)
buffer = deque(maxlen=2000)
eye = torch.eye(N)
state, losses = 0, []
for t in range(600):
    eps = max(0.1, 1 - t / 300)
    if random.random() < eps:
        action = random.randrange(2)
    else:
        with torch.no_grad():
            action = q_net(eye[state][None]).argmax().item()
    nxt = min(N - 1, state + 1) if action == 1 else max(0, state - 1)
    reward, done = (1.0, True) if nxt == N - 1 else (-0.01, False)
    buffer.append((state, action, reward, nxt, done))
    state = 0 if done else nxt
    if len(buffer) < 64 or t % 2:
        continue
    s, a, r, s2, d = zip(*random.sample(buffer, 32), strict=True)
    q = q_net(eye[list(s)]).gather(1, torch.tensor(a)[:, None]).squeeze(1)
    with torch.no_grad():
        target = torch.tensor(r) + 0.95 * target_net(eye[list(s2)]).max(1).values * (1 - torch.tensor(d).float())
    loss = nn.functional.smooth_l1_loss(q, target)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_value_(q_net.parameters(), 1.0)
    optimizer.step()
    losses.append(loss.item())
    if t % 50 == 0:
        target_net.load_state_dict(q_net.state_dict())
print(sum(losses[-50:]) / 50)
