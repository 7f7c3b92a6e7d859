"""Decisions of the official cookbook: its loss on the official SDK, on given batches.

``cookbook_decisions.py SETTINGS OUT`` reads a JSON file: ``model``, ``rate``, ``rank``, ``seed``, and ``batches``
of ``[tokens, targets, weights, k]``; it writes the losses.
"""

import json
import sys
from pathlib import Path

import tinker
import torch
from tinker_cookbook.recipes.decisions.forecasting import brier_score_loss
from tinker_cookbook.recipes.decisions.train import probability_loss

settings = json.loads(Path(sys.argv[1]).read_text())
service = tinker.ServiceClient()
client = service.create_lora_training_client(settings["model"], rank=settings["rank"], seed=settings["seed"])
losses = []
for batch in settings["batches"]:
    data = [
        tinker.Datum(
            model_input=tinker.ModelInput.from_ints(tokens),
            loss_fn_inputs={
                "target_tokens": tinker.TensorData.from_torch(torch.tensor(targets).reshape(-1, k)),
                "weights": tinker.TensorData.from_torch(torch.tensor(weights).reshape(-1, k)),
            },
        )
        for tokens, targets, weights, k in batch
    ]
    found = client.forward_backward_custom(data, probability_loss(brier_score_loss))
    client.optim_step(tinker.AdamParams(learning_rate=settings["rate"], beta1=0.9, beta2=0.95, eps=1e-8)).result()
    losses.append(found.result().metrics["loss"])
Path(sys.argv[2]).write_text(json.dumps(losses))
