"""Usage, prices, cost: pure arithmetic, no clock, no network; money is Decimal."""
