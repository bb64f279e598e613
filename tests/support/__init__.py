"""What several suites share: servers, stores, guests, grants, and the agent as a VM has it. No test lives here."""
