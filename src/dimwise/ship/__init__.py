"""Room ship."""
