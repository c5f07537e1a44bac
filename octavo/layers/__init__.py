"""Building blocks of models. Kernels, linear methods and attention backends are attached from outside."""
