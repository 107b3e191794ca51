"""Which model a request needs: scores before the call, checks of the small model's answer, thresholds that hold.

A layer beside the ledger: it knows upstreams and what is below, nothing of the server, and needs NumPy alone.
"""
