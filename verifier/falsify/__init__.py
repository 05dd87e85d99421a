"""The search for counterexamples: one `Falsifier`, whose parts take turns, and the exact replay of what they find."""
