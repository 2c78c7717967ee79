"""Pure functions of text. They import nothing of ours, so every folder but `records` may use them."""
