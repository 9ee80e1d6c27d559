"""Wan 2.1 as the official code generates: `WanT2V.generate`, unmodified."""
