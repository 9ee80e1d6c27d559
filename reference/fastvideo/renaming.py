"""What the port calls a weight that the official checkpoint calls otherwise."""

import re

# Pattern -> replacement, in the style of the port's `param_names_mapping`. A key that no rule matches keeps its name.
RENAMES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\.mlp\.fc1\."), ".mlp.fc_in."),
    (re.compile(r"\.mlp\.fc2\."), ".mlp.fc_out."),
)


def renamed(key: str) -> str:
    """The port's name of the world model's weight `key`; the autoencoder's weights keep theirs."""
    for pattern, replacement in RENAMES:
        key = pattern.sub(replacement, key)
    return key
