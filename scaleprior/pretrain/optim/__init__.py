"""How weights move: optimisers, rates, averages."""
