"""The step and the one loop. Fine-tuning, unlearning and relearning all run through it."""
