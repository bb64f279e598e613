"""The document that a VM gets: rendered, read back, validated, explained, and put on a seed disk.

What it says is decided in `plan`; the agent in it is packed by `packing`.
"""
