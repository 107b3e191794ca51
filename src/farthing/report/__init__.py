"""The waterfall from measuring to paper: workload -> measure (levers, quality) -> document -> terminal, html, JSON.

Also what `farthing eval` and `farthing bench` measure with: score.py and quality.py, speed.py.
"""
