"""The books: who used what, what it cost, what it would have cost; and what they may still use."""
