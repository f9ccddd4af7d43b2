"""What a run looks like: one page for any browser, pictures for notebooks, a table for the terminal.

Reads run folders and nothing else; no network library is loaded for it.
"""
