"""The agent as it travels: its sources made small, and the archives that hold them.

Knows nothing of jobs. Which archive a VM gets is decided in `userdata`.
"""
