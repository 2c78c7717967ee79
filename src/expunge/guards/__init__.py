"""Guards: methods that change outputs at inference and leave the weights. One file each, found by the registry."""
