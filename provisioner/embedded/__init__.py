"""The store of one's own machine (``--local``, ``provision store``): a SeaweedFS server.

Any other store is a bucket that `s3` opens.
"""
