"""Quality control of calibration frames: everything that has a name, a date or an address."""
