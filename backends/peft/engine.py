"""The PEFT backend's engine: a base model with a LoRA adapter and Adam, on torch."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

from backends.local.engine import Engine
from backends.local.validation import check_batch, check_examples
from backends.peft.bases import Bases, import_torch, seeded
from backends.peft.settings import BACKEND
from backends.tiny_lm.losses import LOSSES
from crucible.errors import InvalidRequest, RunCorrupted
from crucible.losses import trained_tokens
from crucible.training import Datum, ForwardResult, LoraSpec, RunSpec, StepRequest, StepResult

_ATTENTION: Final = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "c_attn", "query_key_value"})
_MLP: Final = frozenset(
    {"gate_proj", "up_proj", "down_proj", "gate_up_proj", "c_fc", "dense_h_to_4h", "dense_4h_to_h"}
)
_UNEMBED: Final = frozenset({"lm_head", "embed_out"})


class PeftEngine(Engine):
    """Trains one example at a time, so that gradients do not depend on the padding of a batch.

    Each engine has its own random state, so that runs do not influence each other.
    """

    def __init__(self, spec: RunSpec, bases: Bases, lora_alpha: int) -> None:
        torch = import_torch()
        from peft import LoraConfig, get_peft_model

        self.spec = spec
        self._device = bases.device()
        self._vocab_size = bases.tokenizer(spec.base_model).vocab_size
        base = bases.model(spec.base_model)
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=spec.lora.rank,
            lora_alpha=lora_alpha,
            lora_dropout=0.0,
            target_modules=sorted(_targets(base, spec.lora)),
        )
        with torch.random.fork_rng():
            seeded(torch, "adapter", spec.lora.seed or 0)
            self.model = get_peft_model(base, config)
            self.random_state = torch.random.get_rng_state()
        self.model.train()
        self.trained = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        self.optimizer = torch.optim.AdamW(list(self.trained.values()), foreach=False)
        self._corrupted = False

    @property
    def corrupted(self) -> bool:
        return self._corrupted

    def check(self, request: StepRequest) -> None:
        check_batch(request, vocab_size=self._vocab_size, backend=BACKEND)

    def train(self, request: StepRequest) -> StepResult:
        self.optimizer.zero_grad()
        logprobs: list[list[float]] = []
        with self._own_randomness():
            losses = [self._backward(datum, request, logprobs) for datum in request.batch]
        if not all(map(math.isfinite, losses)):
            self._corrupted = True
            raise RunCorrupted(f"the loss of step {request.step} is not finite", backend=BACKEND)
        norm = self._step(request)
        tokens = sum(len(datum.tokens) for datum in request.batch)
        return StepResult(
            loss=math.fsum(losses) / (trained_tokens(request.batch) or 1.0),
            tokens=tokens,
            metrics={"grad_norm": norm},
            logprobs=logprobs,
        )

    def check_forward(self, batch: Sequence[Datum]) -> None:
        check_examples(batch, vocab_size=self._vocab_size, backend=BACKEND)

    def forward(self, batch: Sequence[Datum]) -> ForwardResult:
        torch = import_torch()
        self.model.eval()
        try:
            with torch.no_grad():
                return ForwardResult([self._logprobs(datum).double().cpu().tolist() for datum in batch])
        finally:
            self.model.train()

    def digest(self) -> str:
        sha = hashlib.sha256()
        for name, value in sorted(self.trained.items()):
            sha.update(name.encode())
            sha.update(value.detach().cpu().float().numpy().tobytes())
        return sha.hexdigest()

    def _backward(self, datum: Datum, request: StepRequest, logprobs: list[list[float]]) -> float:
        """Accumulate the gradients of one example, and add its log-probabilities; returns its loss."""
        torch = import_torch()
        targets = self._logprobs(datum)
        values = targets.detach().double().cpu().numpy()
        logprobs.append(values.tolist())
        inputs = {name: np.asarray(array) for name, array in datum.loss_inputs.items()}
        config = {name: float(value) for name, value in request.loss_config.items()}
        with np.errstate(all="ignore"):
            loss = LOSSES[request.loss_fn].compute(values, inputs, config)
        # the derivative by each log-probability is the loss function's own
        (torch.as_tensor(loss.by_target, dtype=targets.dtype, device=self._device) * targets).sum().backward()
        return loss.value

    def _logprobs(self, datum: Datum) -> Any:
        """A tensor of the log-probabilities of an example's targets, one token's after the other's."""
        torch = import_torch()
        tokens = torch.as_tensor([int(token) for token in datum.tokens], device=self._device)
        targets = torch.as_tensor([int(token) for token in datum.loss_inputs["target_tokens"]], device=self._device)
        logits = self.model(input_ids=tokens[None]).logits[0].float()
        return torch.log_softmax(logits, dim=-1).gather(1, targets.view(len(tokens), -1)).reshape(-1)

    def _step(self, request: StepRequest) -> float:
        torch = import_torch()
        adam = request.optimizer
        limit = adam.grad_clip_norm if adam.grad_clip_norm > 0 else math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self.trained.values(), limit, foreach=False))
        for group in self.optimizer.param_groups:
            group.update(
                lr=adam.learning_rate, betas=(adam.beta1, adam.beta2), eps=adam.eps, weight_decay=adam.weight_decay
            )
        self.optimizer.step()
        return norm

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        torch = import_torch()
        with torch.random.fork_rng():
            torch.random.set_rng_state(self.random_state)
            yield
            self.random_state = torch.random.get_rng_state()


def _targets(base: Any, lora: LoraSpec) -> set[str]:
    selected = (
        (_ATTENTION if lora.train_attn else frozenset())
        | (_MLP if lora.train_mlp else frozenset())
        | (_UNEMBED if lora.train_unembed and not base.config.tie_word_embeddings else frozenset())
    )
    targets = {name.rpartition(".")[2] for name, _ in base.named_modules()} & selected
    if not targets:
        raise InvalidRequest.of(
            "lora",
            lora.model_dump(),
            "it selects no matrix of this model; set one of train_* to true",
            backend=BACKEND,
        )
    return targets
