"""The official cookbook's download of weights: of a state, and of weights that were saved as files.

``cookbook_download.py MODEL FOLDER``: the files come to ``FOLDER/state`` and ``FOLDER/external``.
"""

import sys
from pathlib import Path

import tinker
from tinker_cookbook import weights

model, folder = sys.argv[1], Path(sys.argv[2])
run = tinker.ServiceClient().create_lora_training_client(model, rank=4, seed=1).result()
tokens = tinker.ModelInput.from_ints([1, 2, 3])
inputs = {"target_tokens": [2, 3, 4], "weights": [0.0, 1.0, 1.0]}
run.forward_backward([tinker.Datum(model_input=tokens, loss_fn_inputs=inputs)], "cross_entropy")
run.optim_step(tinker.AdamParams(learning_rate=0.01)).result()
saved = {"state": run.save_state("one"), "external": run.save_weights_external("two", ttl_seconds=3600)}
for name, future in saved.items():
    weights.download(tinker_path=future.result().path, output_dir=str(folder / name))
