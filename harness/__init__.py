"""The instrument: drives two implementations of one model by the same inputs and judges where they part."""
