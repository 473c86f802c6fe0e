"""The audit: what a reward set pays for, shown before it trains anything."""
