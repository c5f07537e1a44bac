"""From the name of a model to its configuration and weights: sources, file formats, and the filling of parameters."""
