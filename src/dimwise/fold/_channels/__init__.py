"""The channels of a network: which live and die together, found by tracing it, and the smaller network without some."""
