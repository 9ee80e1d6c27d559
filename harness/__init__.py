"""The instrument: drives two implementations of one world model by the same inputs and judges where they part."""
