"""Room view."""
