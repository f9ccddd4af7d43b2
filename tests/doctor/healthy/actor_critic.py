"""An actor and a critic share a body; the advantage is detached, two losses are summed, gradients are clipped."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(5)


class ActorCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 64)
        self.actor = nn.Linear(64, 3)
        self.critic = nn.Linear(64, 1)

    def forward(self, obs):
        h = torch.tanh(self.body(obs))
        return torch.distributions.Categorical(logits=self.actor(h)), self.critic(h).squeeze(-1)


def env_step(obs, action):
    """A walk towards the origin: action 0 back, 1 stay, 2 forth along the first axis."""
    nxt = obs.clone()
    nxt[:, 0] += (action.float() - 1) * 0.3
    nxt[:, 1:] = 0.9 * nxt[:, 1:] + 0.1 * torch.randn(len(obs), 3)
    return nxt, -nxt[:, 0].abs()


net = ActorCritic()
optim = torch.optim.RMSprop(net.parameters(), lr=1e-3)
obs = torch.randn(16, 4)
for update in range(80):
    logps, values, rewards, entropies = [], [], [], []
    for _ in range(5):
        pi, value = net(obs)
        action = pi.sample()
        logps.append(pi.log_prob(action))
        entropies.append(pi.entropy())
        values.append(value)
        obs, reward = env_step(obs, action)
        rewards.append(reward)
    with torch.no_grad():
        ret = net(obs)[1]
    returns = []
    for r in reversed(rewards):
        ret = r + 0.95 * ret
        returns.insert(0, ret)
    returns, values = torch.stack(returns), torch.stack(values)
    advantage = (returns - values).detach()
    loss = -(torch.stack(logps) * advantage).mean() + 0.5 * F.mse_loss(values, returns)
    loss = loss - 0.01 * torch.stack(entropies).mean()
    optim.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 0.5)
    optim.step()
    if update % 20 == 0:
        obs = torch.randn(16, 4)
