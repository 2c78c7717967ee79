"""A model, guarded or not, behind an endpoint that speaks the OpenAI shape."""
