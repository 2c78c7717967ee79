"""`--method auto`: a search over recipes with what a deployer has, checked on a rehearsal of which truth is known."""
