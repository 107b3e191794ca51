"""STUB until branch methods is merged."""
from dataclasses import dataclass
from collections.abc import Mapping, Sequence
@dataclass(frozen=True)
class Option:
    format: str
    num_bytes: int
    expected_loss: float
def allocate(options: Mapping[str, Sequence[Option]], budget_bits: float) -> Mapping[str, Option]:
    chosen = {n: min(o, key=lambda x: x.num_bytes) for n, o in options.items()}
    total = sum(o.num_bytes for o in chosen.values())
    while True:
        best = None
        for n, opts in options.items():
            for o in opts:
                more = o.num_bytes - chosen[n].num_bytes
                gain = chosen[n].expected_loss - o.expected_loss
                if more > 0 and gain > 0 and (total + more) * 8 <= budget_bits and (best is None or gain / more > best[0]):
                    best = (gain / more, n, o, more)
        if best is None:
            return chosen
        chosen[best[1]] = best[2]; total += best[3]
