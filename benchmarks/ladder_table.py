"""The ladder's table and verdicts, as text for people."""

from collections.abc import Sequence

from benchmarks.ladder_rung import GOAL_BITS, Rung, Verdict, priced
from farthing.economics.cost import HostCost

__all__ = ["FOUR_BIT_NOTE", "table", "verdict_lines"]

FOUR_BIT_NOTE = (
    "The embedded model's weights were 4-bit (Q4_1) before anything was measured: its own q4_1 is lossless by "
    "construction, and finer formats only copy it. Judge formats by the other model."
)


def table(host: HostCost, rungs: Sequence[Rung]) -> str:
    head = (
        f"{'rung':32} {'b/w':>6} {'MB':>6} {'ppl':>8} {'KL':>9} {'top-1':>7} {'prefill':>8} {'decode':>7} {'$/Mtok':>9}"
    )
    lines = [head]
    for rung in sorted(rungs, key=lambda r: (-r.bits_per_weight, r.quality.kl_divergence)):
        q, s, usd = rung.quality, rung.speed, priced(host, rung)
        speed = f"{s.prefill_tok_s:8.0f} {s.decode_tok_s:7.0f} {usd:9.5f}" if s else f"{'–':>8} {'–':>7} {'–':>9}"
        lines.append(
            f"{rung.name:32} {rung.bits_per_weight:6.3f} {rung.num_bytes / 1e6:6.1f} {q.perplexity:8.2f} "
            f"{q.kl_divergence:9.5f} {q.top1_agreement:7.2%} {speed}"
        )
    return "\n".join(lines)


def verdict_lines(verdicts: Sequence[Verdict]) -> list[str]:
    lines = []
    for v in verdicts:
        word = "won " if v.is_won else "lost"
        theirs = f"{v.theirs.name} ({v.theirs.bits_per_weight:.3f} b/w, KL {v.theirs.quality.kl_divergence:.5f})"
        ours = "none of ours is as small"
        if v.ours is not None:
            kl = v.ours.quality.kl_divergence
            ours = f"{v.ours.name} ({v.ours.bits_per_weight:.3f} b/w, KL {kl:.5f})"
        slower = {None: "", True: ", no slower", False: ", slower"}[v.is_no_slower]
        lines.append(f"{word} {'' if v.is_goal else '(above the goal’s sizes) '}{theirs}: {ours}{slower}")
    goal = [v for v in verdicts if v.is_goal]
    won = sum(v.is_won for v in goal)
    if goal:
        lines.append(f"{won} of {len(goal)} types at or under {GOAL_BITS} bits per weight are beaten at no more bytes")
    return lines
