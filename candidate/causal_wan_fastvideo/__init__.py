"""Causal Wan as FastVideo ports it: `CausalWanTransformer3DModel`, driven step by step."""
