"""The command line: one file per group of verbs, its options beside what they start."""
