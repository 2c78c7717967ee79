"""Pure functions of text. They import no other module of expunge, so every folder except `records` may use them."""
