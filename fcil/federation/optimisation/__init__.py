"""Server optimisers: what a server makes of the mean of a round, beside taking it as the next net."""
