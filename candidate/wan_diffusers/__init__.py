"""Wan 2.1 as diffusers generates: `WanPipeline`, unmodified."""
