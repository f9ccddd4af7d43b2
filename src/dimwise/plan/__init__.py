"""The planner: which folds, how far, for which budget; measured where the model will serve, and free to say no."""
