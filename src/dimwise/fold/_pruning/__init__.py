"""Which channels leave: how important each is, how many each layer keeps, and what the clock says."""
