"""The official `world_engine` package behind the harness's adapter: driven, not re-implemented."""
