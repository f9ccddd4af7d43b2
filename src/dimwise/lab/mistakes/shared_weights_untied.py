"""Embedding and output layer were tied; loading weights with ``assign=True`` quietly gave each its own.

The task: predict the next pixel (17 shades) of a digit, read row by row.
The mistake: tie first, then ``load_state_dict(..., assign=True)``: two entries of the file become two parameters.
No exception: all keys are there and all shapes fit.
Harm: more parameters than one thinks, and the two drift apart; the score suffers little on a task with 17 words.
Cure: load by copy, or tie again after loading.
"""

import torch
import torch.nn.functional as F
from torch import nn

from dimwise.lab.mistakes._parts import ALL, arguments, raw_digits, report

RULE = "shared-weights-untied"
ARCHS = ALL

N_SHADES, N_PLACES, SIZE = 17, 64, 32


class CausalConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(SIZE, SIZE, 9)
        self.second = nn.Conv1d(SIZE, SIZE, 9)

    def forward(self, x):
        x = x.transpose(1, 2)
        x = x + torch.relu(self.first(F.pad(x, (8, 0))))
        x = x + torch.relu(self.second(F.pad(x, (8, 0))))
        return x.transpose(1, 2)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(SIZE, SIZE, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0]


class CausalAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(SIZE, 4, 64, dropout=0.0, batch_first=True, norm_first=True)

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.layer(x, src_mask=mask, is_causal=True)


class PixelModel(nn.Module):
    def __init__(self, arch):
        super().__init__()
        self.embed = nn.Embedding(N_SHADES, SIZE)
        self.place = nn.Embedding(N_PLACES, SIZE)
        self.body = {"cnn": CausalConv, "lstm": Recurrent, "transformer": CausalAttention}[arch]()
        self.head = nn.Linear(SIZE, N_SHADES, bias=False)
        nn.init.normal_(self.embed.weight, std=SIZE**-0.5)
        nn.init.normal_(self.place.weight, std=SIZE**-0.5)
        self.tie()

    def tie(self):
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.body(self.embed(tokens) + self.place.weight[: tokens.shape[1]]))


def pretrained_weights(arch):
    """What one reads from a file: tensors that know nothing of each other."""
    return {name: tensor.clone() for name, tensor in PixelModel(arch).state_dict().items()}


def main():
    args = arguments(ARCHS, epochs=3)
    torch.manual_seed(args.seed)
    train, _, valid, _ = (torch.from_numpy(part) for part in raw_digits(args.seed))
    train, valid = train.flatten(1).long(), valid.flatten(1).long()
    model = PixelModel(args.arch)
    weights = pretrained_weights(args.arch)
    if args.mended:
        model.load_state_dict(weights)  # the cure: copied into the one parameter that both use
    else:
        model.load_state_dict(weights, assign=True)  # the mistake: each gets its own
    print("parameters:", sum(p.numel() for p in model.parameters()))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for epoch in range(args.epochs):
        model.train()
        for rows in torch.randperm(len(train)).split(64):
            logits = model(train[rows, :-1])
            loss = F.cross_entropy(logits.transpose(1, 2), train[rows, 1:])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            valid_loss = F.cross_entropy(model(valid[:, :-1]).transpose(1, 2), valid[:, 1:]).item()
        print(f"epoch {epoch}: {valid_loss:.4f} nats per pixel")
    report(valid_loss, "loss")


if __name__ == "__main__":
    main()
