"""The operator's side of Freepost: signs POST policies, renders user-data, launches VMs, collects results."""
