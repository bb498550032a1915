"""Which logged answers are worth learning: who said it, what, how often, when, and about what."""
