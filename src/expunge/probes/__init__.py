"""Subject + examples -> observations. A probe asks once; metrics read many times."""
