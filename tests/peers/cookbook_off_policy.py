"""Off-policy distillation of the official cookbook, its loop and its teachers unchanged, on given batches.

``cookbook_off_policy.py SETTINGS`` reads a JSON file: ``student``, ``teacher``, ``top_k``, ``rate``, ``rank``,
``log``, and what ``cookbook_given.py`` reads.
"""

import asyncio

from cookbook_given import GivenBuilder, seed_adapters, settings
from tinker_cookbook.distillation import train_off_policy
from tinker_cookbook.distillation.datasets import TeacherConfig

seed_adapters()
config = train_off_policy.Config(
    learning_rate=settings["rate"],
    dataset_configs=[
        train_off_policy.DatasetWithTeacher(
            dataset_builder=GivenBuilder(), teacher_config=TeacherConfig(base_model=settings["teacher"])
        )
    ],
    model_name=settings["student"],
    recipe_name="off_policy",
    renderer_name="role_colon",
    lora_rank=settings["rank"],
    n_teacher_targets=settings["top_k"],
    batch_size=len(settings["batches"][0]),
    log_path=settings["log"],
    save_every=0,
    eval_every=0,
)
asyncio.run(train_off_policy.main(config))
