"""The check that a model which is asked about the tokens of a run reads them as that run's model does."""

from typing import Final

from crucible.backend import TrainingBackend
from crucible.token_sampler import TokenSampler
from nsai_work.errors import InvalidJob

_PROBE: Final = "The 1st of 23 rivers, Größe 4.5;\n\tdef f(x): return x # 你好 🙂"
"""A text that two tokenizers with other tokens split differently."""


async def require_same_tokens(
    backend: TrainingBackend, trained: str, asked: str, *, field: str, named: str
) -> None:
    """Check that the base model ``asked`` has the tokens of the base model ``trained``. ``named`` is the model as
    the job names it, in ``field``.

    Raises:
        InvalidJob: it has others.
    """
    if asked == trained:
        return
    own, other = await backend.tokenizer(trained), await backend.tokenizer(asked)
    if other.encode(_PROBE) == own.encode(_PROBE):
        return
    tokens = "its tokens" if named == asked else f"its tokens are those of {asked!r}, and"
    raise InvalidJob.of(
        field, named, f"{tokens} are not those of {trained!r}; name a model with the same tokenizer"
    )


async def opened_for_tokens(backend: TrainingBackend, trained: str, model: str, *, field: str) -> TokenSampler:
    """Open the sampler of a model that is asked about the tokens of ``trained``.

    Raises:
        InvalidJob: it has others. Where the backend does not know the base model of weights, nothing is checked.
        CrucibleError: there is no such model, or the service failed.
    """
    sampler = await backend.sampler(model)
    try:
        if sampler.base_model is not None:
            await require_same_tokens(backend, trained, sampler.base_model, field=field, named=model)
    except BaseException:
        await sampler.close()
        raise
    return sampler
