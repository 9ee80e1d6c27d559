"""The command line: a file for each group of verbs, which holds their options and runs them.

Parsing and `--help` are instant: torch takes longer to import than both together. So a command imports what it needs
when it runs, and these modules import nothing heavy.
"""
