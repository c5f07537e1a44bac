"""How linear layers hold and apply weights, one file per format of the checkpoint."""
