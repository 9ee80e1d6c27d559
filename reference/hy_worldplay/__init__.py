"""HY-WorldPlay WAN-5B as its vendor generates: the pipeline of `wan/inference`, unmodified."""
