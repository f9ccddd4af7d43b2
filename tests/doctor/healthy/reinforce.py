"""REINFORCE on a small balance task: actions are sampled, the loss is -log p times return, one episode a step."""

import math

import torch
from torch import nn
from torch.distributions import Categorical

torch.manual_seed(0)
policy = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))
optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)


def step(state, action):
    angle, speed = state
    speed = speed + 0.1 * math.sin(angle) + (0.1 if action == 1 else -0.1)
    angle = angle + 0.1 * speed
    return (angle, speed), 1.0 - abs(angle), abs(angle) > 0.8


def run_episode():
    state = (0.2 * (torch.rand(()).item() - 0.5), 0.0)
    log_probs, rewards = [], []
    for _ in range(60):
        dist = Categorical(logits=policy(torch.tensor(state)))
        action = dist.sample()
        log_probs.append(dist.log_prob(action))
        state, reward, done = step(state, action.item())
        rewards.append(reward)
        if done:
            break
    return log_probs, rewards


running = 0.0
for episode in range(60):
    log_probs, rewards = run_episode()
    returns, g = [], 0.0
    for r in reversed(rewards):
        g = r + 0.98 * g
        returns.insert(0, g)
    returns = torch.tensor(returns)
    returns = (returns - returns.mean()) / (returns.std() + 1e-6)
    loss = -(torch.stack(log_probs) * returns).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    running = 0.95 * running + 0.05 * len(rewards)
print("length of an episode", running)
