"""A week through the real daemon, with everything going wrong."""
