"""Causal Wan as Self-Forcing generates: `CausalInferencePipeline.inference`, unmodified."""
