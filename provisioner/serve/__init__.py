"""The signing service (`provision serve`): it holds the credentials, and signs for token holders.

How requests are signed is in `s3`; links and forms that are made without a service are in `links`.
"""
