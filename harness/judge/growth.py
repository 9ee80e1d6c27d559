"""Growth: how far rounding alone takes a free-running session of the reference, site by site.

Its disturbed lanes run free: each goes on with its own values. Where a session is that far from the reference's, its
errors are those of rounding, however large they have become.
"""

# Rounding errors of a whole session grow in few directions, so that more lanes are needed than of one site.
LANES = 8
