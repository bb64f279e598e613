"""S3 without jobs: signing, one bucket's requests, its policy and CORS rules, and probes of what a store can do."""
