"""Which part is wrong, why, where the difference was born, and how sure that is."""
