"""Where VMs run: one module per provider, all with the four methods of `base.Provider`."""
