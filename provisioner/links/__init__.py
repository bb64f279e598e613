"""What people are handed: presigned links and HTML upload forms.

The signing itself lives in `s3`, the service that signs over HTTP in `serve`.
"""
