"""The daemon: jobs, scheduler, inboxes, maintenance."""
