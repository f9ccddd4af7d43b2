"""Part of the network is not in the optimizer.

The mistake: the optimizer is given the encoder's parameters and not the classifier's
(or, ``--variant python-list``, hidden layers are kept in a plain list, where ``parameters()`` does not find them).
No exception: an optimizer moves what it was given; it cannot know the rest.
Harm: small where the rest can adapt to frozen random layers, and larger the more of the network is forgotten.
Cure: give the optimizer all parameters; keep layers in ``nn.ModuleList``.
"""

import itertools

import torch
from torch import nn

from dimwise.lab.mistakes._parts import ALL, WIDTH, arguments, build_body, digits, report

RULE = "parameters-not-in-optimizer"
ARCHS = ALL
VARIANTS = ("forgotten", "python-list")


class Classifier(nn.Module):
    def __init__(self, as_module_list):
        super().__init__()
        layers = [nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)]
        self.hidden = nn.ModuleList(layers) if as_module_list else layers
        self.out = nn.Linear(WIDTH, 10)

    def forward(self, x):
        for layer in self.hidden:
            x = torch.relu(layer(x))
        return self.out(x)


args = arguments(ARCHS, variants=VARIANTS)
torch.manual_seed(args.seed)
x_train, y_train, x_valid, y_valid = digits(args.seed)
encoder = build_body(args.arch)
if args.mended:
    classifier = Classifier(as_module_list=True)
    parameters = itertools.chain(encoder.parameters(), classifier.parameters())  # the cure
elif args.variant == "forgotten":
    classifier = Classifier(as_module_list=True)
    parameters = encoder.parameters()  # the mistake: and the classifier?
else:
    classifier = Classifier(as_module_list=False)  # the mistake: parameters() does not see into a list
    parameters = itertools.chain(encoder.parameters(), classifier.parameters())

optimizer = torch.optim.Adam(parameters, lr=2e-3)
criterion = nn.CrossEntropyLoss()
for epoch in range(args.epochs):
    encoder.train()
    classifier.train()
    for batch in torch.randperm(len(x_train)).split(64):
        optimizer.zero_grad()
        features = encoder(x_train[batch])
        loss = criterion(classifier(features), y_train[batch])
        loss.backward()
        optimizer.step()
    encoder.eval()
    classifier.eval()
    with torch.no_grad():
        right = classifier(encoder(x_valid)).argmax(1).eq(y_valid).float().mean().item()
    print(f"epoch {epoch + 1}: {right:.4f}")
report(right)
