"""What leaves the project: models in forms that run elsewhere."""
