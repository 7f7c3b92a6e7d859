"""The check of the teachers of distillation at submit: that they exist, and have the tokens of the student."""

from typing import Final

from crucible.backend import TrainingBackend
from crucible.errors import CallerError, Unsupported
from nsai_work.errors import InvalidJob
from nsai_work.payloads import DistillationStep
from nsai_work.training.sources.teacher import unknown_teacher

_PROBE: Final = "The 1st of 23 rivers, Größe 4.5;\n\tdef f(x): return x # 你好 🙂"
"""A text that two tokenizers with other tokens split differently."""


async def check_teachers(backend: TrainingBackend, payload: DistillationStep) -> None:
    """Check the teachers that a job names; the models of other jobs are checked with what it reads of these.

    Raises:
        Unsupported: the backend does not train towards several targets.
        InvalidJob: there is no such model, or it has other tokens than the base model.
    """
    capabilities = await backend.capabilities()
    if not capabilities.supports_soft_targets:
        raise Unsupported(
            f"payload.method: distill trains each token towards several targets, and {backend.name!r} towards one",
            backend=backend.name,
        )
    for index, teacher in enumerate(payload.teachers()):
        if not isinstance(teacher, str):
            continue
        own = payload.data.sources and payload.data.sources[index].teacher is not None
        field = f"payload.data.sources[{index}].teacher" if own else "payload.teacher"
        if teacher in capabilities.models:
            await _check_tokens(backend, payload.base_model, teacher, field)
            continue
        try:
            sampler = await backend.sampler(teacher)
        except CallerError as error:
            raise unknown_teacher(field, teacher, error) from error
        await sampler.close()


async def _check_tokens(backend: TrainingBackend, student: str, teacher: str, field: str) -> None:
    own, other = await backend.tokenizer(student), await backend.tokenizer(teacher)
    if other.encode(_PROBE) != own.encode(_PROBE):
        raise InvalidJob.of(
            field, teacher, f"its tokens are not those of {student!r}; name a teacher with the same tokenizer"
        )
