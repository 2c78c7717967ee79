"""The contract of plug-ins: what each must show, and the small models and rows that it is shown on.

Needs the extra `test`. Nothing else in the package imports this folder.
"""
