"""Training of both stages: recipes, data order, optimiser, validation, checkpoints and the one loop."""
