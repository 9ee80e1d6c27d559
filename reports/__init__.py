"""Documents made from a finished comparison. `reports/out/` is where runs land."""
