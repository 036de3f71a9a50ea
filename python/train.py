"""A Gated DeltaNet-2 layer learns to repeat what it saw eight tokens ago: `python3 train.py`."""

import torch
from gdn2.layers import GatedDeltaNet2

torch.manual_seed(0)
embed, layer, head = torch.nn.Embedding(16, 64), GatedDeltaNet2(64, head_dim=32, num_heads=2), torch.nn.Linear(64, 16)
model = torch.nn.ModuleList((embed, layer, head))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for step in range(201):
    tokens = torch.randint(16, (8, 8)).repeat(1, 4)
    logits = head(layer(embed(tokens))[0])[:, 8:-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 9:].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 40 == 0:
        print(f"step {step:3}  loss {loss.item():.3f}")
