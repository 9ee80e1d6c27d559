"""Wan 2.1 as FastVideo generates: its `WanPipeline`, unmodified."""
