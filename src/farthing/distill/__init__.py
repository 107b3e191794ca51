"""A large model's behaviour on one task taught to a smaller one: data, teacher, student, training, and what it cost.

Above `tuning` and `report`, below `cli`. Only the modules `torch_*` import torch, and only where a function needs it.
"""
