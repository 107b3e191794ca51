"""The loop with linear students: it gets cheaper at held quality, poison is not promoted, a kill loses nothing."""

from pathlib import Path

from tests.distill.learn_world import World


def test_it_gets_cheaper_round_by_round_at_held_quality(tmp_path: Path) -> None:
    world = World(tmp_path)
    costs, rights = [], []
    for number in range(3):
        cost, right = world.serve(1500, seed=number)
        costs.append(cost)
        rights.append(right)
        outcome = world.learn()
        print(cost, right, outcome.event, outcome.told)
    cost, right = world.serve(1000, seed=99)
    print(cost, right)
