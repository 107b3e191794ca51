"""The door to the arithmetic: `load(plan, kv) -> Program`, `run(program, batch) -> logits`, `sample(...)`.

Native code behind it where the extension is built; `isa="reference"` interprets the same plan in NumPy.
"""
