"""The nouns every folder exchanges. Nothing here imports torch or any other folder of ours."""
