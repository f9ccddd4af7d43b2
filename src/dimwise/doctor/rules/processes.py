"""Rules of the family 'processes'."""
