"""Linear programs: one program over HiGHS, one row builder, one rigorous bound from multipliers."""
