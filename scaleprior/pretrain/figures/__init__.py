"""Where a run's numbers go while it trains."""
