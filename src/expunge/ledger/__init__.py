"""An append-only history whose entries are leaves of a Merkle tree. Imports without torch."""
