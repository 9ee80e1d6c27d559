"""Many cells, kept on disk: a cell is one comparison, and everything that it is run with."""
