"""How a student is trained: the settings, their defaults and their limits."""

from dataclasses import dataclass
from typing import Literal, get_args

from farthing.errors import InvalidRequest

__all__ = ["STUDENT", "TEACHER", "KlKind", "Recipe"]

KlKind = Literal["forward", "reverse", "jsd"]

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Recipe:
    """Raises InvalidRequest for what cannot be. The end is the first of `epochs`, `num_steps` and `minutes` that comes.

    With a number of epochs or steps and no minutes, the same seed and number of threads give the same student.
    """

    learning_rate: float = 1e-4
    head_learning_rate: float = 1e-3  # of a classification head, which begins with random numbers
    layer_decay: float = 1.0  # the learning rate of each layer is this times that of the one above
    weight_decay: float = 0.01
    warmup: float = 0.05  # share of the training over which the learning rate rises; then it falls as a cosine
    clip: float = 1.0  # the most that the norm of all gradients together may be
    batch_size: int = 32  # texts a step
    max_length: int = 256  # tokens; of a longer text the first ones (classification), or it is left out
    ce_weight: float = 1.0  # cross-entropy with the right answer
    kl_weight: float = 0.0  # divergence from the teacher
    kl: KlKind = "forward"
    jsd_beta: float = 0.5  # the teacher's share of the mixture
    temperature: float = 1.0  # both distributions are softened by it before they are compared
    hidden_weight: float = 0.0  # one minus the cosine of the last hidden state with the teacher's
    lora_rank: int = 0  # 0: all weights are trained
    lora_alpha: float = 16.0  # the product of the two small matrices is scaled by alpha / rank
    lora_targets: tuple[str, ...] = LORA_TARGETS
    frozen_embeddings: bool = True
    frozen_layers: int = 0  # so many of the lowest stay as they are: less to compute, less to forget
    epochs: float | None = 4.0
    num_steps: int | None = None
    minutes: float | None = None
    evaluate_every: int = 100  # steps
    patience: int | None = None  # so many evaluations without a better one end the training
    checkpoint_every_s: float = 60.0
    is_bf16: bool = True  # products in bfloat16; weights, sums and the optimizer in float32
    num_threads: int | None = None  # None: all that the machine offers
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "head_learning_rate", "batch_size", "max_length", "temperature", "clip"):
            _need(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        for name in ("weight_decay", "ce_weight", "kl_weight", "hidden_weight", "lora_rank", "frozen_layers", "seed"):
            _need(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("evaluate_every", "lora_alpha", "checkpoint_every_s"):
            _need(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        for name in ("epochs", "num_steps", "minutes", "patience", "num_threads"):
            value = getattr(self, name)
            _need(value is None or value > 0, name, value, "above 0")
        _need(0 <= self.warmup < 1, "warmup", self.warmup, "0 to below 1")
        _need(0 < self.layer_decay <= 1, "layer_decay", self.layer_decay, "above 0, up to 1")
        _need(0 < self.jsd_beta < 1, "jsd_beta", self.jsd_beta, "between 0 and 1")
        _need(self.kl in get_args(KlKind), "kl", self.kl, ", ".join(get_args(KlKind)))
        unknown = {*self.lora_targets} - {*LORA_TARGETS}
        _need(not unknown and bool(self.lora_targets), "lora_targets", self.lora_targets, ", ".join(LORA_TARGETS))
        weights = self.ce_weight + self.kl_weight + self.hidden_weight
        _need(weights > 0, "ce_weight + kl_weight + hidden_weight", weights, "above 0")
        if self.epochs is None and self.num_steps is None and self.minutes is None:
            raise InvalidRequest("the recipe has no end; give epochs, num_steps or minutes")

    def longest(self, max_position_embeddings: int) -> int:
        """Tokens of a text that a model of so many positions is taught, and measured on."""
        return min(self.max_length, max_position_embeddings)


def _need(ok: bool, name: str, value: object, allowed: str) -> None:
    if not ok:
        raise InvalidRequest(f"{name} is {value}; allowed: {allowed}")


# What the runs of docs/log.md found good: a teacher tuned from a general model on right answers, and a student of few
# layers taught by it, on the same texts and on twice as many made of them (`augment.variants`).
TEACHER = Recipe()
STUDENT = Recipe(learning_rate=5e-4, batch_size=64, epochs=5.0, kl_weight=1.0)
