"""Training of the reference models on real data, and the figures of the papers drawn again."""
