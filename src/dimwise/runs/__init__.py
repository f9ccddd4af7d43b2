"""The memory of the house: run folders, files that are whole or not there, metrics that survive a kill."""
